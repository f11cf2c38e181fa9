"""What `FirstLoss` does behind its methods: whose turn it is to record a step, and what ends it."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tb_firstloss.capture import resume
from tb_firstloss.capture.distribution import workers
from tb_firstloss.capture.distribution.turn import Turn
from tb_firstloss.capture.environment import why_not_here
from tb_firstloss.capture.notices import users_line
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.recorded import Recorded
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.signals import deferred
from tb_firstloss.capture.step.call import StepCall
from tb_firstloss.capture.step.result import Captured, HasLoss, StepResult
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.window.tensorflow_private import UnchangingState
from tb_firstloss.capture.writing import packed
from tb_firstloss.errors import CaptureError, first_line
from tb_firstloss.first_batch import FirstBatch

_NO_RECORD = "trace() was left without record(loss); call it in the with block, or right after it"

_NO_CALL = (
    "the step was never called; call what wrap() returned in place of it, or use trace() and "
    "record()"
)
_SCHEDULED = (
    "coordinator.schedule has a worker run the wrapped step, out of sight; wrap the call instead: "
    "first.wrap(lambda *args: coordinator.schedule(step, args=args))"
)


class StepRecorder(Recorded, UnchangingState):
    """Records one step of a custom loop, once, in whichever thread takes the turn."""

    _left_out = ("_pending", "_step_fn", "_trace", "_tracer")

    def __init__(self, options: Options) -> None:
        self._recorder = Recorder(options)
        self._turn = Turn()
        self._trace: StepTrace | None = None
        self._restored: FirstBatch | None = None
        self._pending: StepResult | None = None
        self._step_fn: Callable[..., Any] | None = None
        self._declines = False
        self._warned = False
        self._tracer: int | None = None
        self._remind(_NO_CALL)

    @property
    def first_batch(self) -> FirstBatch | None:
        """What was captured, or restored from a checkpoint; None before that."""
        return self._recorder.first_batch or self._restored

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_turn": copy.copy(self._turn)}

    def serialize(self) -> bytes:
        """Returns what a checkpoint stores: every bit of the first batch, or nothing."""
        first = self.first_batch
        return packed.to_bytes(None if first is None or first.is_empty else first)

    def deserialize(self, content: bytes) -> None:
        """Restores the first batch from a checkpoint; what was captured here takes precedence."""
        with self._recorder.guard(f"{self.logdir}: the first loss was not restored"):
            self._restored = packed.from_bytes(content)
            if self._restored is not None:
                self._recorder.unsaid = None

    def _take_turn(self, caller: str) -> bool:
        """Returns whether this call captures."""
        reason = why_not_here()  # no walrus: inside a tf.function, AutoGraph warns of one
        if reason is not None:
            self._pass_over(f"{caller} {reason}")
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

    def _pass_over(self, reason: str) -> None:
        """Says once, or raises, that nothing is recorded where it was asked for."""
        if not self._warned or self._recorder.options.on_error == "raise":
            self._warned = True
            with self._recorder.guard(self._doing()):
                raise CaptureError(f"{self._doing()}: {reason}")

    def _pass_over_scheduled(self) -> None:
        if not self._turn.captured and not self._turn.is_mine():
            self._pass_over(_SCHEDULED)

    def _await_record(self) -> None:
        """Lets record() follow a trace(), and has a warning given at the end if none does."""
        self._turn.give_back()
        self._tracer = threading.get_ident()
        if not self._warned:
            self._recorder.unsaid = (_NO_RECORD, *users_line())

    def _end_awaiting_record(self) -> None:
        """Ends the turn if this thread's last trace() still has no record(): none will follow."""
        if self._tracer != threading.get_ident() or not self._turn.take():
            return
        with deferred():
            try:
                self._pass_over(_NO_RECORD)
            finally:
                with self._recorder.guard(self._doing()):
                    self._commit(Captured(), None, no_loss=_NO_RECORD)
                self._end_turn()

    def _doing(self) -> str:
        return f"{self.logdir}: no first loss was recorded"

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

    def _finish(self, result: HasLoss, call: StepCall | None = None) -> None:
        """Writes the first batch and ends the turn, whether or not writing succeeds."""
        strategy = self._recorder.strategy
        try:
            with self._recorder.guard(self._doing()):
                workers.check_strategy_is_known(strategy)
                own = None if self._declines else result
                try:
                    captured = workers.agree(own, strategy, may_be_reduced=True)
                except Exception as error:
                    self._commit(Captured(), call, no_loss=first_line(error))
                    raise
                if captured is not None:
                    self._commit(captured, call)
        except Exception:
            self._end_turn()
            raise
        except BaseException:  # a signal that came twice: the next call captures
            self._trace = None
            self._turn.give_back()
            raise
        self._end_turn()

    def _commit(self, captured: Captured, call: StepCall | None, **facts: str) -> None:
        if not self._declines:
            self._recorder.commit(
                captured,
                metadata={"captured_from": "custom loop", **facts},
                trace=self._trace or self._recorder.no_window(),
                step=call,
            )

    def _end_turn(self) -> None:
        self._tracer = self._trace = None
        self._turn.finish(over=not self._recorder.awaits_warm_step)
