"""The calls of a Keras model's train function between the first and the warm one."""

from __future__ import annotations

import logging
from typing import Any

from tb_firstloss.capture.recorder import Recorder

logger = logging.getLogger(__name__)


class LaterExecutions:
    """Stands in for ``model.train_function`` until the warm step has been profiled.

    A call is counted as a step; with several steps an execution it is all of these.

    Args:
        model: Model whose first batch has been captured.
        recorder: The one that captured it.
    """

    def __init__(self, model: Any, recorder: Recorder) -> None:
        self._model = model
        self._recorder = recorder
        self._own = model.train_function
        model.train_function = self

    def __getattr__(self, name: str) -> Any:
        # Others look for the parts of a tf.function in a model's train function.
        if name == "_own" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._own, name)

    def __call__(self, iterator: Any) -> Any:
        """Returns what the train function returns, and counts the call unless it raises."""
        with self._recorder.later_step():
            logs = self._own(iterator)
        if not self._recorder.awaits_warm_step:
            self.leave()
        return logs

    def leave(self) -> None:
        """Gives the model its own train function back, if this is still in its place."""
        if self._recorder.awaits_warm_step:
            logger.warning("%s: no warm profile: training ended before", self._recorder.run_dir)
        if self._model.train_function is self:
            self._model.train_function = self._own
