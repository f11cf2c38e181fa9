"""FirstLoss: wraps the training step of a custom loop and records its first call."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import tensorflow as tf

from tb_firstloss.capture import resume, step_result
from tb_firstloss.capture.distribution import workers
from tb_firstloss.capture.fingerprint import fingerprint
from tb_firstloss.capture.keras.train_on_batch import capture_train_on_batch, is_train_on_batch
from tb_firstloss.capture.notices import warn
from tb_firstloss.capture.recorder import DEFAULT_MAX_TENSOR_BYTES, Recorded, Recorder
from tb_firstloss.capture.turn import Turn
from tb_firstloss.capture.window import graphs
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.window.tensorflow_private import UnchangingState
from tb_firstloss.capture.writing import packed
from tb_firstloss.errors import CaptureWarning
from tb_firstloss.first_batch import FirstBatch

_INSIDE_FUNCTION = (
    "is inside a tf.function, where the loss of the first batch has no value yet: it records "
    "nothing and changes nothing there. Wrap the outermost call, the one that your Python loop "
    "makes; if the loop itself is in the tf.function, take one batch from the iterator, give it to "
    "a wrapped step, and give the iterator to the tf.function for the rest"
)


class FirstLoss(Recorded, UnchangingState):
    """Records the loss of the first training batch, exactly as training computed it.

    ::

        first = FirstLoss("runs/mine")
        train_step = first.wrap(train_step, loss="per_example", total="loss")
        for batch in batches:
            train_step(batch)

    Before the first call of the wrapped step returns, its loss is in the event file, with the
    step's graph and profile; every later call goes straight through. Only one thread captures.

    ``tf.train.Checkpoint(first_loss=first)`` saves what was captured and restores it, so that a
    resumed run still has it; see ``on_resume``.

    Args:
        logdir: Directory under which the run directory is created, local or of a scheme that
            TensorFlow knows (``gs://``). Resolved at once; ``~`` is expanded.
        tag: Name of the run directory and first component of every summary tag.
        step: Step of the summaries, or a callable that gives it when the first batch is captured.
        graph: Whether to record the step's graph.
        profile: Whether to profile the step, or ``tf.profiler.experimental.ProfilerOptions``.
        warm_step: Number of a later step that is profiled too, or None.
        expect: Expected mean loss: a number or an expression such as ``"log(10)"``. When the first
            loss is something else, that is an UnexpectedLossWarning.
        hparams: Hyperparameters for TensorBoard's HParams dashboard.
        metadata: Anything of yours that JSON can hold; it comes back in ``FirstBatch.metadata``.
        fingerprint: Whether to add digests of the batch and of the weights.
        strategy: Distribution strategy of the loop; None for the one in scope.
        max_tensor_bytes: Tensors above this many bytes are left out, with one warning.
        on_resume: What to do in a resumed run: "skip", "record" or "error".
        on_error: "warn" lets training go on whatever fails here; "raise" is for CI.

    Raises:
        ValueError: An option is not usable; the message names it.
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
        expect: float | str | None = None,
        hparams: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        fingerprint: bool = False,
        strategy: tf.distribute.Strategy | None = None,
        max_tensor_bytes: int = DEFAULT_MAX_TENSOR_BYTES,
        on_resume: Literal["skip", "record", "error"] = "skip",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self._recorder = Recorder(
            logdir,
            tag=tag,
            step=step,
            graph=graph,
            profile=profile,
            warm_step=warm_step,
            expect=expect,
            hparams=hparams,
            metadata=metadata,
            fingerprint=fingerprint,
            strategy=strategy,
            max_tensor_bytes=max_tensor_bytes,
            on_resume=on_resume,
            on_error=on_error,
        )
        self._turn = Turn()
        self._trace: StepTrace | None = None
        self._recorded = False
        self._pending: Callable[[], step_result.Captured] | None = None
        self._fingerprint: dict[str, str] = {}
        self._restored: FirstBatch | None = None
        self._declines = False
        self._warned_inside_function = False

    @property
    def first_batch(self) -> FirstBatch | None:
        """What was captured, or restored from a checkpoint; None before that."""
        return self._recorder.first_batch or self._restored

    def wrap(
        self,
        step_fn: Callable[..., Any] | None = None,
        *,
        loss: step_result.Selector | None = None,
        total: step_result.Selector | None = None,
    ) -> Callable[..., Any]:
        """Wraps a training step: the same call, the same result, and its first call is recorded.

        Also a decorator, with or without options. A ``tf.function`` keeps its
        ``get_concrete_function``; everything else of it is at ``.__wrapped__``.

        Args:
            step_fn: Eager function, tf.function or jit-compiled tf.function.
            loss: Where the loss is in what the step returns: a key, an index or a callable. None
                takes a lone tensor, or a mapping's "loss". A scalar is the loss that is
                differentiated; of rank 1 and more it is the loss per example, [batch, …].
            total: Where the loss that is differentiated is, if the step returns that too.
        """
        if step_fn is None:
            return functools.partial(self.wrap, loss=loss, total=total)
        turn = self._turn

        @functools.wraps(step_fn, updated=())
        def step(*args: Any, **kwargs: Any) -> Any:
            if turn.over:
                return step_fn(*args, **kwargs)
            if turn.captured:
                return self._later_call(step_fn, args, kwargs)
            return self._first_call(step_fn, args, kwargs, loss, total)

        if hasattr(step_fn, "get_concrete_function"):
            step.get_concrete_function = step_fn.get_concrete_function  # type: ignore[attr-defined]
        return step

    @contextlib.contextmanager
    def trace(self) -> Iterator[None]:
        """Opens the step-0 window by hand, for a loop that is not wrapped.

        ``with first.trace(): loss = step(x, y); first.record(loss)``. Put exactly one step in it.
        From the second time on it does nothing but count for ``warm_step``, so it can stand in the
        loop.
        """
        if self._turn.captured and not self._turn.over:
            with self._counted():
                yield
            return
        if self._trace is not None or not self._take_turn("trace()"):
            yield
            return
        try:
            with self._window() as step_trace:
                yield
        except BaseException:
            self._recorded, self._pending = False, None
            self._turn.give_back()
            raise
        self._trace = step_trace
        if self._pending is None:
            self._turn.give_back()
            return
        with self._last_act():
            self._write(self._pending)

    def record(self, loss: Any, *, total: Any = None) -> None:
        """Records a loss; the first call wins, later ones do nothing.

        Args:
            loss: Scalar [] that is differentiated, or loss per example [batch, …], or a mapping
                or sequence of such tensors, one an output.
            total: The scalar that is differentiated, if ``loss`` is per example.
        """
        if self._turn.over or self._recorded:
            return
        inside_trace = self._turn.is_mine() and tf.executing_eagerly()
        if not inside_trace and not self._take_turn("record()"):
            return
        self._recorded = True
        select = functools.partial(
            step_result.select, (loss, total), loss=0, total=None if total is None else 1
        )
        if inside_trace:
            # Written when the window is closed, so that the profile shows none of it.
            self._pending = _call_now(select)
        else:
            with self._last_act():
                self._write(select)

    def serialize(self) -> bytes:
        """Returns what a checkpoint keeps: every bit of the first batch, or nothing."""
        return packed.to_bytes(self.first_batch)

    def deserialize(self, content: bytes) -> None:
        """Takes the first batch back from a checkpoint; one captured here already stays."""
        with self._recorder.guard(f"{self.logdir}: the first loss was not restored"):
            self._restored = packed.from_bytes(content)

    def _take_turn(self, what: str) -> bool:
        """Tells whether this call is the one to capture."""
        if not tf.executing_eagerly():
            self._warn_inside_function(what)
            return False
        if not self._turn.take():
            return False
        if self._restored is None or self._go_on_recording(self._restored):
            return True
        if workers.worker_count(self._recorder.current_strategy) > 1:
            self._declines = True  # the other workers may want to record, and wait for this one
            return True
        self._turn.finish()
        return False

    def _go_on_recording(self, restored: FirstBatch) -> bool:
        signs = f"a checkpoint has restored the first batch of step {restored.step}"
        if self._recorder.on_resume == "error":
            self._turn.give_back()
            resume.refuse(self._recorder, signs)
        with self._recorder.guard(self._doing()):
            return resume.take_up(self._recorder, earlier=restored, signs=signs)
        return False

    def _first_call(
        self,
        step_fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        loss: step_result.Selector | None,
        total: step_result.Selector | None,
    ) -> Any:
        if not self._take_turn("the wrapped step"):
            return step_fn(*args, **kwargs)
        if is_train_on_batch(step_fn):
            return self._train_on_batch(step_fn, args, kwargs)
        try:
            self._take_fingerprint(step_fn, args, kwargs)
            with self._window() as step_trace:
                result = step_fn(*args, **kwargs)
        except BaseException:
            self._turn.give_back()
            raise
        self._trace = step_trace
        with self._last_act():
            self._write(
                lambda: step_result.select(result, loss=loss, total=total),
                graph=lambda: graphs.step_graph(step_fn, args, kwargs),
            )
        return result

    def _later_call(
        self, step_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with self._counted():
            return step_fn(*args, **kwargs)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts the step inside on the way to the warm step."""
        if not tf.executing_eagerly():
            yield
            return
        try:
            with self._recorder.later_step():
                yield
        finally:
            self._turn.over = not self._recorder.awaits_warm_step

    @contextlib.contextmanager
    def _last_act(self) -> Iterator[None]:
        """Ends the turn for good, whether or not the recording succeeds."""
        try:
            with self._recorder.guard(self._doing()):
                yield
        finally:
            self._turn.finish(over=not self._recorder.awaits_warm_step)

    def _window(self) -> contextlib.AbstractContextManager[StepTrace | None]:
        return contextlib.nullcontext() if self._declines else self._recorder.window()

    def _take_fingerprint(self, step_fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        if self._recorder.fingerprint:
            with self._recorder.guard(f"{self.logdir}: no fingerprint of the first batch"):
                self._fingerprint = fingerprint(step_fn, args, kwargs)

    def _train_on_batch(self, train_on_batch: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a Keras model's train_on_batch, which captures as model.fit does."""
        try:
            result = capture_train_on_batch(self._recorder, train_on_batch, args, kwargs)
        except BaseException:
            self._turn.give_back()
            raise
        self._turn.finish(over=not self._recorder.awaits_warm_step)
        return result

    def _write(
        self,
        select: Callable[[], step_result.Captured],
        graph: Callable[[], tf.Graph | None] | None = None,
    ) -> None:
        captured: step_result.Captured | None
        strategy = self._recorder.current_strategy
        workers.check_strategy_is_known(strategy)
        if workers.worker_count(strategy) == 1:
            captured = select()
        else:
            captured = workers.agree(select, strategy, declines=self._declines)
        if captured is not None:
            self._recorder.commit(
                loss=captured.loss,
                outputs=captured.outputs,
                metadata=self._metadata(captured),
                step_trace=self._trace or self._recorder.no_window(),
                graph=graph,
            )

    def _metadata(self, captured: step_result.Captured) -> dict[str, Any]:
        facts = {"captured_from": "custom loop", **step_result.describe_batch(captured)}
        if self._fingerprint:
            facts["fingerprint"] = self._fingerprint
        return facts

    def _doing(self) -> str:
        return f"{self.logdir}: the first loss was not recorded"

    def _warn_inside_function(self, what: str) -> None:
        if not self._warned_inside_function:
            self._warned_inside_function = True
            warn(f"{what} {_INSIDE_FUNCTION}", CaptureWarning)


def _call_now(select: Callable[[], step_result.Captured]) -> Callable[[], step_result.Captured]:
    """Calls a function now, and returns one that gives its result, or its error, later."""
    try:
        captured = select()
    except Exception as error:  # noqa: BLE001 - raised later
        failure = error
    else:
        return lambda: captured

    def fail() -> step_result.Captured:
        raise failure

    return fail
