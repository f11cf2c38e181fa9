"""What `FirstLoss` and `FirstLossCallback` show of their `Recorder`."""

import copy
import weakref
from typing import Any

from tb_firstloss.capture.notices import users_line
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.first_batch import FirstBatch


class Recorded:
    """Base of what the user holds."""

    _recorder: Recorder
    _left_out: tuple[str, ...] = ()  # attributes that are None in a copy: they belong to a training

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy has, pickled or not: it records nothing that this one has."""
        self._recorder.unsaid = None  # the copy may be what is used
        state = {**vars(self), **dict.fromkeys(self._left_out)}
        return {**state, "_recorder": copy.copy(self._recorder)}

    def _remind(self, reason: str) -> None:
        """Has a warning given at the end of this object if nothing is recorded or said by then."""
        self._recorder.unsaid = (reason, *users_line())
        weakref.finalize(self, self._recorder.end)

    @property
    def logdir(self) -> str:
        """Directory under which the run directory is created, absolute."""
        return self._recorder.logdir

    @property
    def run_dir(self) -> str | None:
        """Directory of the recording; None before there is one."""
        return self._recorder.run_dir

    @property
    def tag(self) -> str:
        """First component of every summary tag."""
        return self._recorder.options.tag

    @property
    def first_batch(self) -> FirstBatch | None:
        """What was captured, or what a resumed run has found; None before that."""
        return self._recorder.first_batch
