"""The calls of a Keras model's train function between the first and the warm one."""

from __future__ import annotations

import logging
from typing import Any

from tb_firstloss.capture.keras.stand_in import StandIn
from tb_firstloss.capture.recorder import Recorder

logger = logging.getLogger(__name__)


class LaterExecutions(StandIn):
    """Counts the steps until the warm one has been profiled.

    A call counts as one step, even if it takes several steps per execution.
    """

    def __init__(self, model: Any, recorder: Recorder) -> None:
        super().__init__(model)
        self._recorder = recorder
        self.take()

    def __call__(self, iterator: Any) -> Any:
        """Returns what the train function returns, and counts the call unless it raises."""
        with self._recorder.later_step():
            logs = self._function(iterator)
        if not self._recorder.awaits_warm_step:
            self.give_back()
        return logs

    def give_back(self) -> None:
        """Gives the place back, and says so if the warm step has not come."""
        if self._recorder.awaits_warm_step:
            logger.warning("%s: no warm profile: training ended before", self._recorder.run_dir)
        super().give_back()
