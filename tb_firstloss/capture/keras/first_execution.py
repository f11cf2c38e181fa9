"""The first call of a Keras model's train function: runs the step, captures it, steps aside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.distribution import workers
from tb_firstloss.capture.keras import library, step_loss
from tb_firstloss.capture.keras.model_step import ModelStep
from tb_firstloss.capture.keras.stand_in import LaterExecutions, StandIn
from tb_firstloss.capture.keras.train_function import CapturingFunction
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.step.result import Captured
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.errors import CaptureError

_END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)


class FirstExecution(StandIn):
    """Captures the first batch, and leaves its place to the function for the rest of the training.

    With several steps per execution, a Keras 3 model runs its first execution one step at a time,
    in a function for one step, and the rest in its own function. A tf_keras model reads the number
    of steps from a variable, so one function serves for both.

    Args:
        model: Compiled model whose train function has been made.
        recorder: Where the first batch goes.
        source: What trains: "model.fit" or "model.train_on_batch".
        is_new: Whether the train function was made for this training, and so has no trace yet.
        before: Asked before each call; False leaves the model to itself.

    Attributes:
        over: Whether a batch has been trained on, captured or not.
    """

    def __init__(
        self,
        model: Any,
        recorder: Recorder,
        *,
        source: str,
        is_new: bool,
        before: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(model)
        self._recorder = recorder
        self._source = source
        self._before = before
        recorder.use(model.distribute_strategy)
        self._is_new = is_new and not library.has_been_traced(self._function)
        self._capturing: CapturingFunction | None = None
        self._later: LaterExecutions | None = None
        self.over = False
        self.take()

    def give_back(self) -> None:
        """Gives the place back, also where the steps on the way to the warm one are counted."""
        if self._later is not None:
            self._later.give_back()
        super().give_back()

    def __call__(self, iterator: Any) -> Any:
        """Trains on the batch that the model's train function would have, and captures it."""
        try:
            if self._before() and self._capturing is None:
                self._prepare()
            if self._capturing is not None:
                return self._capture(self._capturing, iterator)
            return self._run_own(iterator)
        except _END_OF_DATA:
            raise  # there was no batch, so the next call is still the first
        except BaseException:
            self.give_back()
            raise

    @property
    def _goes_step_by_step(self) -> bool:
        several = library.steps_per_execution(self._model) > 1
        return several and library.library_of(self._model) == "keras"

    def _prepare(self) -> None:
        with self._recorder.guard(self._doing()):
            reason = library.why_not_capturable(self._model)
            if reason is not None:
                raise CaptureError(f"{self._doing()}: {reason}")
            if isinstance(self._function, CapturingFunction):
                self._capturing = self._function  # of an earlier fit, and traced with its loss
                return
            self._capturing = CapturingFunction(
                self._model,
                single_step=self._goes_step_by_step,
                forbid_random_state=self._goes_step_by_step or not self._is_new,
            )

    def _capture(self, capturing: CapturingFunction, iterator: Any) -> Any:
        steps = library.steps_per_execution(self._model)
        self._recorder.take_fingerprint(ModelStep(self._model))
        try:
            with (
                library.steps_set_to(self._model, 1),
                self._recorder.window() as trace,
            ):
                logs, tensors = capturing.run(iterator)
        except Exception as error:
            if not (capturing.failed_in_trace or capturing.has_random_state):
                raise
            return self._run_uncaptured(capturing, iterator, error)
        graph = capturing.graph
        self.over = True
        self._hand_over(capturing)
        capturing.close()
        missing: list[str] = []
        with self._recorder.guard(self._doing()):
            missing = self._commit(capturing, trace, logs, tensors, graph)
        with self._recorder.guard(self._source):
            if missing:
                raise CaptureError(
                    f"{self._recorder.run_dir}: recorded without {'; '.join(missing)}"
                )
        logs = self._run_rest(capturing, iterator, steps, logs)
        if self._source == "model.fit" and self._recorder.awaits_warm_step:
            self._later = LaterExecutions(self._model, self._recorder)
        return logs

    def _hand_over(self, capturing: CapturingFunction) -> None:
        """Leaves the place to the function that takes over, random state included."""
        eager = self._model.run_eagerly or tf.config.functions_run_eagerly()
        if not self._is_new or eager:
            self.give_back()
            return
        successor = capturing.make_successor()
        if successor is not None:
            self.leave_to(successor)
        elif self._goes_step_by_step:
            self.give_back()
        else:
            capturing.take()

    def _run_rest(self, capturing: CapturingFunction, iterator: Any, steps: int, logs: Any) -> Any:
        """Runs the remaining steps of the first execution, and returns its logs."""
        if steps == 1 or not isinstance(
            iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)
        ):
            return logs  # train_on_batch passes an iterator over one batch
        if not self._goes_step_by_step:
            with library.steps_set_to(self._model, steps - 1):
                return self._model.train_function(iterator)
        with contextlib.suppress(StopIteration):  # Keras 3.7 and later; before, they raise
            for _ in range(steps - 1):
                logs, _ = capturing.run(iterator)
        # Before Keras 3.7, the TensorBoard callback asks the tf.function for its graph next.
        own = self._function
        if self._model.train_function is own and hasattr(own, "get_concrete_function"):
            own.get_concrete_function(iterator)
        return logs

    def _run_own(self, iterator: Any) -> Any:
        self.give_back()
        logs = self._function(iterator)
        self.over = True
        with self._recorder.guard(self._doing()):
            workers.agree(None, self._recorder.strategy, may_be_reduced=False)
        return logs

    def _run_uncaptured(self, capturing: CapturingFunction, iterator: Any, error: Exception) -> Any:
        """Runs the model's own function on the batch, which the capture has not consumed."""
        logs = self._run_own(iterator)
        reason = f"the training step could not be traced with its loss ({error})"
        if capturing.has_random_state:
            reason = (
                "the training step draws seeded numbers with tf.random, whose state lives in the "
                "tf.function that draws; the second function that the capture needs here would "
                "draw the same numbers again. Use keras.random or the layers of Keras 3, or "
                "steps_per_execution=1"
            )
        with self._recorder.guard(self._doing()):
            self._recorder.commit(Captured(), metadata=self._metadata(logs))
            raise CaptureError(f"{self._doing()}: {reason}")
        return logs

    def _commit(
        self,
        capturing: CapturingFunction,
        trace: StepTrace,
        logs: Any,
        tensors: step_loss.Tensors | None,
        graph: tf.Graph | None,
    ) -> list[str]:
        """Writes the first batch and returns what it lacks, and why, one line each."""
        facts = capturing.facts or step_loss.StepFacts()
        missing = list(facts.missing)
        if tensors is None and (capturing.facts is None or facts.losses or facts.outputs):
            missing.append("the loss: the train function had been traced before")
        result = step_loss.StepTensors(facts, tensors)
        captured = workers.agree(result, self._recorder.strategy, may_be_reduced=False)
        if captured is None:
            return []
        found = captured.losses or captured.outputs
        self._recorder.commit(
            captured,
            metadata=self._metadata(None if found else logs, facts.unseen),
            inferred=facts.expectation if found else None,
            trace=trace,
            step=ModelStep(self._model, graph),
        )
        return missing

    def _metadata(self, logs: Any, unseen: Sequence[str] = ()) -> dict[str, Any]:
        """Returns facts about the training, and the logs where no loss was found."""
        model = self._model
        facts: dict[str, Any] = {
            "captured_from": self._source,
            "jit_compile": bool(model.jit_compile),
            "run_eagerly": bool(model.run_eagerly),
            "steps_per_execution": library.steps_per_execution(model),
        }
        if unseen:
            facts["unseen_losses"] = list(unseen)
        if logs is not None:
            facts["running_means_after_first_execution"] = _plain_numbers(logs)
        return facts

    def _doing(self) -> str:
        return f"{self._recorder.logdir}: the first loss of {self._source} was not captured"


def _plain_numbers(logs: Any) -> dict[str, float]:
    numbers = {}
    for name, value in logs.items() if isinstance(logs, dict) else ():
        with contextlib.suppress(TypeError, ValueError):
            numbers[str(name)] = float(value)
    return numbers
