"""The first call of a Keras model's train function: runs the step, captures it, steps aside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.distribution import workers
from tb_firstloss.capture.keras import library, step_loss
from tb_firstloss.capture.keras.later_executions import LaterExecutions
from tb_firstloss.capture.keras.model_step import ModelStep
from tb_firstloss.capture.keras.train_function import CapturingFunction
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.step_result import Captured
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.errors import CaptureError

_END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)


class FirstExecution:
    """Stands in for ``model.train_function`` until one batch has been trained on.

    Called, it captures the batch and leaves in its place the function that goes on. With several
    steps an execution, Keras 3 gets the first execution step by step from a function for one
    step, and then its own; tf_keras reads the number of steps from a variable, so there one
    function serves for both.

    Args:
        model: Compiled model whose train function has been made.
        recorder: Where the first batch goes.
        source: What trains: "model.fit" or "model.train_on_batch".
        is_new: Whether the train function was made for this training, so that it has no trace.
        before: Asked before anything else; False leaves the model to itself.

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
        self._model = model
        self._recorder = recorder
        self._source = source
        self._before = before
        recorder.use(model.distribute_strategy)
        self._own = model.train_function
        self._is_new = is_new and not library.has_been_traced(self._own)
        self._capturing: CapturingFunction | None = None
        self._later: LaterExecutions | None = None
        self.over = False
        model.train_function = self

    def __getattr__(self, name: str) -> Any:
        # Others look for the parts of a tf.function in a model's train function.
        if name == "_own" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._own, name)

    def leave(self) -> None:
        """Gives the model its own train function back, if ours is still in its place."""
        if self._later is not None:
            self._later.leave()
        if self._model.train_function is self:
            self._model.train_function = self._own

    def __call__(self, iterator: Any) -> Any:
        """Trains on what the model's train function would have trained on, and captures it."""
        try:
            if self._before() and self._capturing is None:
                self._prepare()
            if self._capturing is not None:
                return self._capture(self._capturing, iterator)
            return self._run_own(iterator)
        except _END_OF_DATA:
            raise  # there was no batch, so the next call is still the first
        except BaseException:
            self.leave()
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
            if isinstance(self._own, CapturingFunction):
                self._capturing = self._own  # of an earlier fit, and traced with its loss
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
        with self._recorder.guard("model.fit"):
            if missing:
                raise CaptureError(
                    f"{self._recorder.run_dir}: recorded without {'; '.join(missing)}"
                )
        logs = self._run_rest(capturing, iterator, steps, logs)
        if self._source == "model.fit" and self._recorder.awaits_warm_step:
            self._later = LaterExecutions(self._model, self._recorder)
        return logs

    def _hand_over(self, capturing: CapturingFunction) -> None:
        """Leaves the function in the model that goes on, with what random state there is."""
        eager = self._model.run_eagerly or tf.config.functions_run_eagerly()
        if not self._is_new or eager:
            self.leave()
            return
        successor = capturing.make_successor()
        if successor is not None:
            self._model.train_function = successor
        elif self._goes_step_by_step:
            self.leave()
        else:
            capturing.stay()

    def _run_rest(self, capturing: CapturingFunction, iterator: Any, steps: int, logs: Any) -> Any:
        """Runs what is left of an execution of several steps, and returns its logs."""
        if steps == 1 or not isinstance(
            iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)
        ):
            return logs  # train_on_batch gives an iterator of one batch
        if not self._goes_step_by_step:
            with library.steps_set_to(self._model, steps - 1):
                return self._model.train_function(iterator)
        with contextlib.suppress(StopIteration):  # Keras 3.7 and later; before, they raise
            for _ in range(steps - 1):
                logs, _ = capturing.run(iterator)
        # The TensorBoard callback of Keras before 3.7 asks a tf.function for its graph now.
        if self._model.train_function is self._own and hasattr(self._own, "get_concrete_function"):
            self._own.get_concrete_function(iterator)
        return logs

    def _run_own(self, iterator: Any) -> Any:
        self.leave()
        logs = self._own(iterator)
        self.over = True
        with self._recorder.guard(self._doing()):
            workers.agree(None, self._recorder.strategy, may_be_reduced=False)
        return logs

    def _run_uncaptured(self, capturing: CapturingFunction, iterator: Any, error: Exception) -> Any:
        """Runs the model's own function on the batch that ours has not touched."""
        logs = self._run_own(iterator)
        reason = f"the training step could not be traced with its loss ({error})"
        if capturing.has_random_state:
            reason = (
                "the training step draws seeded numbers with tf.random, whose state is in the "
                "function that draws; another one, as the capture needs here, would draw the same "
                "numbers again. Use keras.random or the layers of Keras 3, or steps_per_execution=1"
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
        """Writes the first batch and returns what it lacks, and why."""
        facts = capturing.facts or step_loss.StepFacts([], [])
        missing = list(facts.missing)
        if tensors is None:
            missing.append("the loss: the train function had been traced before")
        result = step_loss.StepTensors(facts, tensors)
        captured = workers.agree(result, self._recorder.strategy, may_be_reduced=False)
        if captured is None:
            return []
        found = captured.loss is not None or captured.outputs
        self._recorder.commit(
            captured,
            metadata=self._metadata(None if found else logs),
            inferred=facts.expectation if found else None,
            trace=trace,
            step=ModelStep(self._model, graph),
        )
        return missing

    def _metadata(self, logs: Any) -> dict[str, Any]:
        """Returns what is known of the training; the logs where there is nothing better."""
        model = self._model
        facts: dict[str, Any] = {
            "captured_from": self._source,
            "jit_compile": bool(model.jit_compile),
            "run_eagerly": bool(model.run_eagerly),
            "steps_per_execution": library.steps_per_execution(model),
        }
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
