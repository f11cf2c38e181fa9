"""The first call of a Keras model's train function: runs the step, captures it, steps aside."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.distribution import workers
from tb_firstloss.capture.keras import library, step_loss
from tb_firstloss.capture.keras.stand_in import LaterExecutions, StandIn, when_made
from tb_firstloss.capture.keras.train_function import CapturingFunction
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.signals import deferred, let_through
from tb_firstloss.capture.step.call import ModelStep
from tb_firstloss.capture.step.result import Captured
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.errors import CaptureError

_END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)


class FirstExecution(StandIn):
    """Captures the first batch, and leaves its place to the function for the rest of the training.

    ``source`` is what trains, "model.fit" or "model.train_on_batch"; ``is_new``, whether the train
    function was made for this training, and so has no trace yet.

    Attributes:
        over: Whether a batch has been trained on, captured or not.
        had_no_batch: Whether a call has found the data at its end.
    """

    def __init__(self, model: Any, source: str, *, is_new: bool) -> None:
        super().__init__(model)
        self._source = source
        self._wishes: list[tuple[Recorder, Callable[[], bool]]] = []
        self._recorders: list[Recorder] = []
        self._is_new = is_new and not library.has_been_traced(self._function)
        self._capturing: CapturingFunction | None = None
        self._later: list[LaterExecutions] = []
        self.over = False
        self.had_no_batch = False
        self.take()

    @classmethod
    def in_place(cls, model: Any, source: str, *, is_new: bool) -> "FirstExecution":
        """Returns what waits in the place for the first batch already, or takes the place."""
        held = model.train_function
        waits = isinstance(held, FirstExecution) and not held.over
        return held if waits else cls(model, source, is_new=is_new)

    def add(self, recorder: Recorder, before: Callable[[], bool] = lambda: True) -> None:
        """Adds a recorder that gets the first batch, unless ``before`` returns False by then."""
        recorder.use(self._model.distribute_strategy)
        self._wishes.append((recorder, before))

    def retake(self) -> None:
        """Takes the place again if Keras has made another function, as after ``compile``.

        A function of the user's in the place may call this one.
        """
        function = self._model.train_function
        if not self.over and function is not self and library.is_own_train_function(function):
            super().__init__(self._model)
            self._capturing = None
            self._is_new = not library.has_been_traced(function)
            self.take()

    def give_back(self) -> None:
        """Gives the place back, also where the steps on the way to the warm one are counted."""
        for later in reversed(self._later):
            later.give_back()
        super().give_back()

    def __call__(self, iterator: Any) -> Any:
        """Trains on the batch that the model's train function would have, and captures it."""
        if not (self.over or tf.executing_eagerly()):
            self.over = True
            self._for_each([recorder for recorder, _ in self._wishes], _refuse_to_be_traced)
        if self.over:
            return self._function(iterator)  # for a function of the user's around this one
        with deferred():
            try:
                self._recorders = [recorder for recorder, before in self._wishes if before()]
                self._for_each(self._recorders, lambda _: self._prepare())
                if self._recorders and self._capturing is not None:
                    return self._capture(self._capturing, iterator)
                return self._run_own(iterator)
            except _END_OF_DATA:
                self.had_no_batch = True
                raise  # the next call is still the first
            except BaseException:
                self.give_back()
                raise

    @property
    def _goes_step_by_step(self) -> bool:
        several = library.steps_per_execution(self._model) > 1
        return several and library.library_of(self._model) == "keras"

    def _for_each(self, recorders: Sequence[Recorder], do: Callable[[Recorder], None]) -> None:
        """Does something for each recorder, whichever of them fails."""
        failure = f"the first loss of {self._source} was not captured"

        def guarded(recorder: Recorder) -> None:
            with recorder.guard(f"{recorder.logdir}: {failure}"):
                do(recorder)

        with contextlib.ExitStack() as stack:
            for recorder in reversed(recorders):
                stack.callback(guarded, recorder)

    def _prepare(self) -> None:
        if self._capturing is not None:
            return
        function = self._function
        is_known = isinstance(function, StandIn) or library.is_own_train_function(function)
        reason = library.why_not_capturable(self._model, is_known=is_known)
        if reason is not None:
            raise CaptureError(reason)
        if isinstance(function, CapturingFunction):
            self._capturing = function  # of an earlier training, and returns its tensors
            return
        self._capturing = CapturingFunction(
            self._model,
            single_step=self._goes_step_by_step,
            forbid_random_state=self._goes_step_by_step or not self._is_new,
        )

    def _capture(self, capturing: CapturingFunction, iterator: Any) -> Any:
        model, steps = self._model, library.steps_per_execution(self._model)
        for recorder in self._recorders:
            recorder.take_fingerprint(ModelStep(model))
        # train_on_batch of Keras 3.7 and later passes its one batch in a generator.
        batches = None
        if isinstance(iterator, Generator) and library.binds_train_step(model):
            batches = list(iterator)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(library.steps_set_to(model, 1))
                traces = [stack.enter_context(each.window()) for each in self._recorders]
                logs, tensors = capturing.run(iterator if batches is None else batches)
        except Exception as error:
            if not capturing.failed_in_trace:
                raise
            return self._run_uncaptured(iterator if batches is None else iter(batches), error)
        self.over = True
        self._commit(capturing, logs, tensors, traces)
        logs = self._run_rest(capturing, iterator, steps, logs)
        for recorder in self._recorders:
            if self._source == "model.fit" and recorder.awaits_warm_step:
                self._later.append(LaterExecutions(model, recorder))
        return logs

    def _commit(
        self, capturing: CapturingFunction, logs: Any, tensors: Any, traces: Sequence[StepTrace]
    ) -> None:
        """Hands over, then writes the first batch with every recorder, and says what it lacks."""
        result = step_loss.StepTensors(capturing.facts_of(tensors), tensors)
        step, facts = ModelStep(self._model, capturing.graph), result.facts
        self._hand_over(capturing)
        trace_of = dict(zip(self._recorders, traces, strict=True))

        def commit(recorder: Recorder) -> None:
            captured = workers.agree(result, recorder.strategy, may_be_reduced=False)
            if captured is None:
                return  # all workers decline
            recorder.commit(
                captured,
                metadata=self._metadata(logs if captured.is_empty else None, facts.unseen),
                inferred=None if captured.is_empty else facts.expectation,
                trace=trace_of[recorder],
                step=step,
            )
            if facts.missing:
                lacks = "; ".join(facts.missing)
                with recorder.guard(self._source):
                    raise CaptureError(f"{recorder.run_dir}: recorded without {lacks}")

        self._for_each(self._recorders, commit)

    def _hand_over(self, capturing: CapturingFunction) -> None:
        """Leaves the place to the function that takes over, random state included."""
        eager = self._model.run_eagerly or tf.config.functions_run_eagerly()
        successor = capturing.make_successor() if self._is_new and not eager else None
        if successor is not None:
            self.leave_to(successor)
        elif self._is_new and not eager and not self._goes_step_by_step:
            self.leave_to(capturing)
            capturing.stay()
        else:
            self.give_back()
        if self._function is not capturing:
            capturing.close()

    def _run_rest(self, capturing: CapturingFunction, iterator: Any, steps: int, logs: Any) -> Any:
        """Runs the remaining steps of the first execution, and returns its logs."""
        if steps == 1 or not isinstance(
            iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)
        ):
            return logs  # train_on_batch passes an iterator over one batch
        if not self._goes_step_by_step:
            with library.steps_set_to(self._model, steps - 1), let_through():
                return self._function(iterator)
        # What Keras 3.7 and later raise where the data ends; before, TensorFlow's error goes on.
        with let_through(), contextlib.suppress(StopIteration):
            for _ in range(steps - 1):
                logs, _ = capturing.run(iterator)
        # Before Keras 3.7, the TensorBoard callback asks the tf.function for its graph next.
        own = self._function
        if self._model.train_function is own and hasattr(own, "get_concrete_function"):
            own.get_concrete_function(iterator)
        return logs

    def _run_own(self, iterator: Any) -> Any:
        self.give_back()
        with let_through():
            logs = self._function(iterator)
        self.over = True
        self._for_each([recorder for recorder, _ in self._wishes], _decline)
        return logs

    def _run_uncaptured(self, iterator: Any, error: Exception) -> Any:
        """Runs the model's own function on the batch, which the capture has not consumed."""
        logs = self._run_own(iterator)

        def record(recorder: Recorder) -> None:
            recorder.commit(Captured(), metadata=self._metadata(logs))
            if isinstance(error, CaptureError):
                raise error
            raise CaptureError(f"the training step could not be traced with its loss ({error})")

        self._for_each(self._recorders, record)
        return logs

    def _metadata(self, logs: Any, unseen: Sequence[str] = ()) -> dict[str, Any]:
        """Returns facts about the training, and the logs where no loss was found."""
        model = self._model
        means = {"running_means_after_first_execution": _plain_numbers(logs)}
        return {
            "captured_from": self._source,
            "jit_compile": bool(model.jit_compile),
            "run_eagerly": bool(model.run_eagerly),
            "steps_per_execution": library.steps_per_execution(model),
            **({"unseen_losses": list(unseen)} if unseen else {}),
            **({} if logs is None else means),
        }


def _refuse_to_be_traced(_recorder: Recorder) -> None:
    raise CaptureError("a tf.function calls the train function; call it from Python instead")


def _decline(recorder: Recorder) -> None:
    """Tells other workers, if there are any, that nothing is recorded.

    Where this one has no recording of its own either, a warning has already said so.
    """
    with contextlib.suppress(*([] if recorder.first_batch else [CaptureError])):
        workers.agree(None, recorder.strategy, may_be_reduced=False)


def _plain_numbers(logs: Any) -> dict[str, float]:
    numbers = {}
    for name, value in logs.items() if isinstance(logs, dict) else ():
        with contextlib.suppress(TypeError, ValueError):
            numbers[str(name)] = float(value)
    return numbers


def is_train_on_batch(step_fn: Any) -> bool:
    """Returns whether a step is the bound ``train_on_batch`` of a Keras 3 or tf_keras model."""
    owner = getattr(step_fn, "__self__", None)
    return (
        getattr(step_fn, "__name__", None) == "train_on_batch"
        and hasattr(owner, "make_train_function")
        and library.library_of(owner) is not None
    )


def capture_train_on_batch(
    recorder: Recorder, train_on_batch: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Calls a model's ``train_on_batch`` and records the batch; returns what the method returns."""
    model = train_on_batch.__self__  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:

        def made(*, is_new: bool) -> None:
            execution = FirstExecution.in_place(model, "model.train_on_batch", is_new=is_new)
            execution.add(recorder)
            stack.callback(execution.give_back)

        stack.enter_context(when_made(model, made))
        return train_on_batch(*args, **kwargs)
