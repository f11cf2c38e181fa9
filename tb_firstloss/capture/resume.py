"""What a resumed run does about its first batch, which an earlier process has trained on."""

from __future__ import annotations

import logging
import re
from typing import NoReturn

from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.errors import CaptureError, ResumedRunError
from tb_firstloss.first_batch import FirstBatch

logger = logging.getLogger(__name__)


def refuse(recorder: Recorder, signs: str) -> NoReturn:
    """Says that the run is resumed, for ``on_resume="error"``.

    Raises:
        ResumedRunError: Always.
    """
    raise ResumedRunError(
        f"{recorder.logdir}: {signs}, so its first batch is past; on_resume='skip' takes the "
        "recording that exists, on_resume='record' records under a later step"
    )


def take_up(
    recorder: Recorder, *, signs: str, trained: int = 0, earlier: FirstBatch | None = None
) -> bool:
    """Does what ``on_resume`` says, and tells whether this process's first batch is recorded.

    Args:
        recorder: Where it would go; "skip" gives it the recording of the earlier process.
        signs: How the run was seen to be resumed, for messages.
        trained: Number of batches that the restored optimizer has been given, where it is known.
        earlier: The recording of the earlier process; None for the newest one on disk.

    Raises:
        CaptureError: ``on_resume="record"``, and the step would not be later than the recording's.
    """
    if earlier is None:
        earlier = newest_recording(recorder.logdir, recorder.tag)
    if recorder.on_resume == "skip":
        recorder.first_batch = earlier
        if earlier is None:
            logger.warning(
                "%s: %s, and no recording of its first batch is here; none is made",
                recorder.logdir,
                signs,
            )
        return False
    step = recorder.step() if callable(recorder.step) else recorder.step or trained
    if step <= (0 if earlier is None else earlier.step):
        raise CaptureError(
            f"{recorder.logdir}: {signs}, and step {step} is not later than the first batch's; "
            "give step= as a callable that returns the number of the step"
        )
    recorder.step = step
    return True


def newest_recording(logdir: str, tag: str) -> FirstBatch | None:
    """Returns the newest recording that a recorder with this logdir and tag has made, or None."""
    from tb_firstloss.errors import ReadError
    from tb_firstloss.reading.recordings import read_first_losses

    own_run = re.compile(re.escape(tag) + r"(-\d+)?")
    try:
        found = read_first_losses(logdir)
    except (FileNotFoundError, ReadError):
        return None
    own = [first for run, first in found.items() if own_run.fullmatch(run)]
    return max(own, key=lambda first: first.wall_time, default=None)
