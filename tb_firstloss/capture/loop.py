"""FirstLoss: wraps the training step of a custom loop and records its first call."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import tensorflow as tf

from tb_firstloss import checks
from tb_firstloss.capture import resume
from tb_firstloss.capture.distribution import workers
from tb_firstloss.capture.distribution.turn import Turn
from tb_firstloss.capture.keras.train_on_batch import capture_train_on_batch, is_train_on_batch
from tb_firstloss.capture.notices import INSIDE_FUNCTION, warn
from tb_firstloss.capture.options import DEFAULT_MAX_TENSOR_BYTES, Options
from tb_firstloss.capture.recorder import Recorded, Recorder
from tb_firstloss.capture.step.call import StepCall, is_same_step, second_step
from tb_firstloss.capture.step.result import Captured, Selector, Selectors, StepResult
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.window.tensorflow_private import UnchangingState
from tb_firstloss.capture.writing import packed
from tb_firstloss.errors import CaptureWarning, first_line
from tb_firstloss.first_batch import FirstBatch


class FirstLoss(Recorded, UnchangingState):
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
        given = {name: value for name, value in locals().items() if name != "self"}
        # Refuses "auto": nobody sees the loss function of a loop.
        given["expect"] = None if expect is None else checks.parse_expectations(expect)
        self._recorder = Recorder(Options(**given))
        self._turn = Turn()
        self._trace: StepTrace | None = None
        self._pending: StepResult | None = None
        self._restored: FirstBatch | None = None
        self._declines = False
        self._step_fn: Callable[..., Any] | None = None
        self._warned_inside_function = False

    @property
    def first_batch(self) -> FirstBatch | None:
        """What was captured, or restored from a checkpoint; None before that."""
        return self._recorder.first_batch or self._restored

    def wrap(
        self,
        step_fn: Callable[..., Any] | None = None,
        *,
        loss: Selector | None = None,
        total: Selectors | None = None,
    ) -> Callable[..., Any]:
        """Wraps a training step so that its first call is recorded: same arguments, same result.

        Also a decorator, with or without options. A ``tf.function`` keeps its
        ``get_concrete_function``; ``.__wrapped__`` has the rest. A second step is not recorded,
        and a warning says so.

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
        if step_fn is None:
            return functools.partial(self.wrap, loss=loss, total=total)
        over = False

        @functools.wraps(step_fn, updated=())
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal over
            if over:
                return step_fn(*args, **kwargs)
            call = StepCall(step_fn, args, kwargs)
            if not self._turn.captured:
                return self._first_call(call, loss, total)
            over = self._is_over_for(step_fn)
            return step_fn(*args, **kwargs) if over else self._later_call(call)

        if hasattr(step_fn, "get_concrete_function"):
            step.get_concrete_function = step_fn.get_concrete_function  # type: ignore[attr-defined]
        return step

    @contextlib.contextmanager
    def trace(self) -> Iterator[None]:
        """Puts the step-0 window around exactly one step of a loop that is not wrapped.

        ``with first.trace(): loss = step(x, y); first.record(loss)``. It can stay in the loop: from
        the second time on, it only counts steps for ``warm_step``.
        """
        if self._turn.captured and not self._turn.over:
            with self._counted():
                yield
            return
        if self._trace is not None or not self._take_turn("trace()"):
            yield
            return
        try:
            with self._window() as trace:
                yield
        except BaseException:
            self._pending = None
            self._turn.give_back()
            raise
        self._trace, pending, self._pending = trace, self._pending, None
        self._turn.give_back() if pending is None else self._finish(pending)

    def record(self, loss: Any, *, total: Any = None) -> None:
        """Records a loss. The first call wins; later ones do nothing.

        Args:
            loss: The differentiated scalar [], or a mapping of several; or the loss per example
                [batch, …], or a mapping or sequence of such tensors, one per output.
            total: The differentiated scalar, if ``loss`` is per example; a mapping of several.
        """
        if self._turn.captured or self._pending is not None:
            return
        inside_trace = self._turn.is_mine() and tf.executing_eagerly()
        if not inside_trace and not self._take_turn("record()"):
            return
        result = StepResult((loss, total), loss=0, total=None if total is None else 1)
        if not inside_trace:
            self._finish(result)
            return
        # Read now, as a variable may change. Written when the window closes, so that the profile
        # does not show it; an unusable loss raises again then.
        with contextlib.suppress(Exception):
            result.captured()
        self._pending = result

    def serialize(self) -> bytes:
        """Returns what a checkpoint stores: every bit of the first batch, or nothing."""
        first = self.first_batch
        return packed.to_bytes(first if first and (first.losses or first.outputs) else None)

    def deserialize(self, content: bytes) -> None:
        """Restores the first batch from a checkpoint; what was captured here takes precedence."""
        with self._recorder.guard(f"{self.logdir}: the first loss was not restored"):
            self._restored = packed.from_bytes(content)

    def _take_turn(self, caller: str) -> bool:
        """Returns whether this call captures."""
        if not tf.executing_eagerly():
            if not self._warned_inside_function:
                self._warned_inside_function = True
                warn(f"{caller} {INSIDE_FUNCTION}", CaptureWarning)
            return False
        if not self._turn.take():
            return False
        try:
            if self._restored is None or resume.may_record(
                self._recorder,
                f"a checkpoint has restored the first batch of step {self._restored.step}",
                earlier=self._restored,
            ):
                return True
        except BaseException:
            self._turn.give_back()
            raise
        if workers.worker_count(self._recorder.strategy) > 1:
            self._declines = True  # the other workers may want to record, and wait for this one
            return True
        self._turn.finish(over=True)
        return False

    def _first_call(self, call: StepCall, loss: Selector | None, total: Selectors | None) -> Any:
        if not self._take_turn("the wrapped step"):
            return call.step_fn(*call.args, **call.kwargs)
        self._step_fn = call.step_fn
        try:
            if is_train_on_batch(call.step_fn):
                value = capture_train_on_batch(self._recorder, call.step_fn, call.args, call.kwargs)
                self._end_turn()
                return value
            self._recorder.take_fingerprint(call)
            with self._window() as trace:
                value = call.step_fn(*call.args, **call.kwargs)
        except BaseException:
            self._turn.give_back()
            raise
        self._trace = trace
        self._finish(StepResult(value, loss=loss, total=total), call)
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

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts the step inside towards the warm step."""
        try:
            with self._recorder.later_step():
                yield
        finally:
            self._turn.over = not self._recorder.awaits_warm_step

    def _window(self) -> contextlib.AbstractContextManager[StepTrace | None]:
        return contextlib.nullcontext() if self._declines else self._recorder.window()

    def _finish(self, result: StepResult, call: StepCall | None = None) -> None:
        """Writes the first batch and ends the turn, whether or not writing succeeds."""
        strategy = self._recorder.strategy
        try:
            with self._recorder.guard(f"{self.logdir}: the first loss was not recorded"):
                workers.check_strategy_is_known(strategy)
                own = None if self._declines else result
                try:
                    captured = workers.agree(own, strategy, may_be_reduced=True)
                except Exception as error:
                    self._commit(Captured(), call, no_loss=first_line(error))
                    raise
                if captured is not None:
                    self._commit(captured, call)
        finally:
            self._end_turn()

    def _commit(self, captured: Captured, call: StepCall | None, **facts: str) -> None:
        self._recorder.commit(
            captured,
            metadata={"captured_from": "custom loop", **facts},
            trace=self._trace or self._recorder.no_window(),
            step=call,
        )

    def _end_turn(self) -> None:
        self._turn.finish(over=not self._recorder.awaits_warm_step)
