"""FirstLoss: wraps the training step of a custom loop and records its first call."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, overload

import tensorflow as tf

from tb_firstloss import checks
from tb_firstloss.capture.keras.first_execution import capture_train_on_batch, is_train_on_batch
from tb_firstloss.capture.options import DEFAULT_MAX_TENSOR_BYTES, Options
from tb_firstloss.capture.signals import deferred, let_through
from tb_firstloss.capture.step.call import StepCall, is_same_step, second_step
from tb_firstloss.capture.step.recorder import StepRecorder
from tb_firstloss.capture.step.result import Selector, Selectors, StepResult
from tb_firstloss.capture.window.tensorflow_private import class_that_calls_instead, is_tf_function

# Not a ParamSpec: a tf.function keeps its attributes, and an untyped one can be called as before.
_Step = TypeVar("_Step", bound=Callable[..., Any])
_ResultOf = Callable[[Any], StepResult]


class FirstLoss(StepRecorder):
    """Records the loss of the first training batch, exactly as training computed it.

    ::

        first = FirstLoss("runs/mine")
        train_step = first.wrap(train_step, loss="per_example", total="loss")
        for batch in batches:
            train_step(batch)

    When the first call of the wrapped step returns, its losses, graph and profile are on disk.
    Every later call goes straight through. Of several threads that call the step, one captures.

    ``tf.train.Checkpoint(first_loss=first)`` saves what was captured and restores it, so a resumed
    run still has it; see ``on_resume``.

    Args:
        logdir: Directory under which the run directory is created: a local path, or a URL of a
            scheme that TensorFlow can write to (``gs://``). Resolved at once; ``~`` is expanded.
        tag: Name of the run directory, and first component of every summary tag.
        step: Step of the summaries, or a callable that returns it, called with the first batch.
        graph: Whether to record the step's graph.
        profile: Whether to profile the step, or ``tf.profiler.experimental.ProfilerOptions``.
        warm_step: Number of a later step to profile as well, or None.
        expect: Expected mean loss: a number, an expression such as ``"log(10)"``, or a mapping from
            names of losses to these. An UnexpectedLossWarning reports any other first loss.
        hparams: Hyperparameters for TensorBoard's HParams dashboard.
        metadata: Anything that JSON can hold; ``FirstBatch.metadata`` returns it.
        fingerprint: Whether to add digests of the batch and of the weights.
        strategy: Distribution strategy of the loop; None for the one in scope.
        max_tensor_bytes: Size above which a tensor is left out, with one warning.
        on_resume: What a resumed run does: "skip" keeps the earlier recording, "record" records
            under a later step, "error" raises.
        on_error: "warn" turns every failure of the capture into a warning, and training goes on;
            "raise", meant for CI, raises it.

    Raises:
        ValueError: An option is unusable; the message names it.
        TypeError: An option has the wrong type.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        *,
        tag: str = "first_batch",
        step: int | Callable[[], int] = 0,
        graph: bool = True,
        profile: bool | tf.profiler.experimental.ProfilerOptions = True,
        warm_step: int | None = None,
        expect: float | str | Mapping[str, float | str] | None = None,
        hparams: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        fingerprint: bool = False,
        strategy: tf.distribute.Strategy | None = None,
        max_tensor_bytes: int = DEFAULT_MAX_TENSOR_BYTES,
        on_resume: Literal["skip", "record", "error"] = "skip",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        given = dict(locals())
        del given["self"], given["__class__"]
        # Refuses "auto": nobody sees the loss function of a loop.
        given["expect"] = None if expect is None else checks.parse_expectations(expect)
        super().__init__(Options(**given))

    def set_model(self, *_given: Any) -> None:
        """Raises a TypeError: it is no Keras callback."""
        raise TypeError("callbacks: FirstLoss is for loops; give model.fit a FirstLossCallback")

    set_params = set_model

    @overload
    def wrap(
        self, step_fn: _Step, *, loss: Selector | None = None, total: Selectors | None = None
    ) -> _Step: ...

    @overload
    def wrap(
        self, step_fn: None = None, *, loss: Selector | None = None, total: Selectors | None = None
    ) -> Callable[[_Step], _Step]: ...

    def wrap(
        self,
        step_fn: Callable[..., Any] | None = None,
        *,
        loss: Selector | None = None,
        total: Selectors | None = None,
    ) -> Callable[..., Any]:
        """Wraps a training step so that its first call is recorded: same arguments, same result.

        Also a decorator, with or without options. A ``tf.function`` stays one: it shares the
        original's attributes and traces, and tf.saved_model.save keeps it. A second step is not
        recorded, and a warning says so.

        Args:
            step_fn: Eager function, tf.function or jit-compiled tf.function.
            loss: Where the loss per example, [batch, …], is in the step's result: a key, an index
                or a callable; a mapping or sequence holds several outputs. A scalar is the
                differentiated loss. None takes a lone tensor, or the "loss" of a mapping or named
                tuple; one of nothing but floating scalars holds the losses, by name.
            total: Where the differentiated loss is, if the step returns it as well; of several, a
                list of keys or indexes, or a mapping from names to these. A key names its loss. Of
                a tensor of rank 1 or more, the loss is the sum. An integer is never a loss.
        """
        if not isinstance(self, FirstLoss):
            raise TypeError(
                "wrap: call it on an instance, such as FirstLoss('runs/mine').wrap(step)"
            )
        if step_fn is None:
            return functools.partial(self.wrap, loss=loss, total=total)
        if not callable(step_fn):
            raise TypeError(
                f"wrap: {step_fn!r} is no function; give the step first, and options by name, such "
                "as loss='per_example'"
            )
        return self._around(step_fn, step_fn, functools.partial(StepResult, loss=loss, total=total))

    def _around(
        self, step_fn: Callable[..., Any], given: Callable[..., Any], result_of: _ResultOf
    ) -> Callable[..., Any]:
        """Wraps a step, or what TensorFlow has made of the step that the user has given."""
        over = False

        @functools.wraps(step_fn, updated=())
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal over
            if over:
                return step_fn(*args, **kwargs)
            call = StepCall(step_fn, args, kwargs, given)
            if not self._turn.captured:
                return self._first_call(call, result_of)
            over = self._is_over_for(given)
            return step_fn(*args, **kwargs) if over else self._later_call(call)

        if is_tf_function(step_fn):
            again = functools.partial(self._around, given=given, result_of=result_of)
            kind: Any = type(step_fn)
            return class_that_calls_instead(kind)(step_fn, step, again, self._pass_over_scheduled)  # type: ignore[no-any-return]
        if hasattr(step_fn, "get_concrete_function"):
            step.get_concrete_function = step_fn.get_concrete_function  # type: ignore[attr-defined]
        return step

    @contextlib.contextmanager
    def trace(self) -> Iterator[None]:
        """Puts the step-0 window around exactly one step of a loop that is not wrapped.

        ``with first.trace(): loss = step(x, y); first.record(loss)``. It can stay in the loop: from
        the second time on, it only counts steps for ``warm_step``.
        """
        self._end_awaiting_record()
        if self._turn.captured:
            with contextlib.nullcontext() if self._turn.over else self._counted():
                yield
            return
        if self._trace is not None:
            yield
            return
        with deferred():
            if not self._take_turn("trace()"):
                with let_through():
                    yield
                return
            try:
                with self._window() as trace, let_through():
                    yield
            except BaseException:
                self._pending = None
                self._turn.give_back()
                raise
            self._trace, pending, self._pending = trace, self._pending, None
            if pending is not None:
                self._finish(pending)
            else:
                self._await_record()

    def record(self, loss: Any, *, total: Any = None) -> None:
        """Records a loss. The first call wins; later ones do nothing.

        Args:
            loss: The differentiated scalar [], or a mapping of several; or the loss per example
                [batch, …], or a mapping or sequence of such tensors, one per output.
            total: The differentiated scalar, if ``loss`` is per example; a mapping of several.
        """
        if self._turn.captured or self._pending is not None:
            return
        result = StepResult((loss, total), loss=0, total=None if total is None else 1)
        with deferred():
            if self._turn.is_mine() and tf.executing_eagerly():  # inside trace()
                # Read now, as a variable may change. Written when the window closes, so that the
                # profile does not show it; an unusable loss raises again then.
                with contextlib.suppress(Exception):
                    result.captured()
                self._pending = result
            elif self._take_turn("record()"):
                self._finish(result)

    def _first_call(self, call: StepCall, result_of: _ResultOf) -> Any:
        with deferred():
            if self._take_turn("the wrapped step"):
                return self._capture(call, result_of)
        return call.step_fn(*call.args, **call.kwargs)

    def _capture(self, call: StepCall, result_of: _ResultOf) -> Any:
        self._step_fn = call.given
        step_fn, args, kwargs = call.step_fn, call.args, call.kwargs
        try:
            if is_train_on_batch(step_fn):
                with let_through():
                    value = capture_train_on_batch(self._recorder, step_fn, args, kwargs)
                self._end_turn()
                return value
            self._recorder.take_fingerprint(call)
            with self._window() as trace, let_through():
                value = step_fn(*args, **kwargs)
        except BaseException:
            self._turn.give_back()
            raise
        self._trace = trace
        self._finish(result_of(value), call)
        return value

    def _later_call(self, call: StepCall) -> Any:
        with self._counted():
            return call.step_fn(*call.args, **call.kwargs)

    def _is_over_for(self, step_fn: Callable[..., Any]) -> bool:
        """Returns whether a step's later calls go straight through; warns of a second step."""
        if self._step_fn is None or is_same_step(self._step_fn, step_fn):
            return self._turn.over
        with self._recorder.guard(f"{self.logdir}: the loss of a second step was not recorded"):
            raise second_step(self._step_fn, step_fn)
        return True
