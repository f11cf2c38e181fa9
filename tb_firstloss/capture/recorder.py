"""What `FirstLoss` and `FirstLossCallback` share, once they have found the step and its loss."""

import contextlib
import dataclasses
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tb_firstloss import errors
from tb_firstloss.capture.environment import describe_environment
from tb_firstloss.capture.expectation import NOT_SEEN, Expectation
from tb_firstloss.capture.notices import warn
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.signals import deferred, let_through
from tb_firstloss.capture.step.call import Step
from tb_firstloss.capture.step.result import Captured
from tb_firstloss.capture.window.step_trace import StepTrace, step_window
from tb_firstloss.capture.window.warm_step import WarmStep
from tb_firstloss.capture.writing import run_dirs
from tb_firstloss.capture.writing.recording import write_recording
from tb_firstloss.first_batch import FirstBatch

logger = logging.getLogger(__name__)


class Recorder:
    """Captures at most one first batch and writes it.

    Attributes:
        options: What the user asked for.
        logdir: Directory under which the run directory is created, absolute.
        first_batch: What was captured, or adopted from an earlier process; None before that.
        run_dir: Directory of the recording; None before it is claimed, and where another worker
            writes.
        unsaid: Why there would be no recording, and the user's line, if nothing else happened; None
            once something is recorded or said.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.logdir = os.fspath(options.logdir)
        self.first_batch: FirstBatch | None = None
        self.run_dir: str | None = None
        self.unsaid: tuple[str, str, int] | None = None
        self._process = os.getpid()
        self._step = options.step
        self._strategy = options.strategy
        self._fingerprint: dict[str, str] = {}
        self._blocked: Exception | None = None
        self._warm: WarmStep | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy has: what was recorded, but nothing of this process's training."""
        fresh = Recorder(dataclasses.replace(self.options, strategy=None))
        run_dir = None if self.first_batch is None else self.run_dir
        kept = {"_step": self._step, "first_batch": self.first_batch, "run_dir": run_dir}
        return {**vars(fresh), **kept}

    def adopt(self, first_batch: FirstBatch | None) -> None:
        """Takes an earlier process's first batch for this run's."""
        self.unsaid = None
        self.first_batch = first_batch

    def start_at(self, step: int) -> None:
        """Records under this step instead of the option's."""
        self._step = step

    def use(self, strategy: tf.distribute.Strategy) -> None:
        """Records for the replicas of this strategy, unless the options name another."""
        self._strategy = self._strategy or strategy

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy of the options or of `use`; else the one in scope."""
        return self._strategy or tf.distribute.get_strategy()

    @property
    def step(self) -> int:
        """The step under which a batch captured now would be recorded."""
        return int(self._step() if callable(self._step) else self._step)

    @contextlib.contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Turns an error of the capture into a warning, unless ``on_error="raise"``.

        ``doing`` begins the message, as in ``logdir: what was not done``.
        """
        try:
            yield
        except errors.FirstLossWarning:
            raise  # the user's filter turns the warning into an error
        except Exception as error:
            self.unsaid = None
            line = errors.first_line(error, named=True)
            if self.options.on_error == "raise":
                if isinstance(error, errors.FirstLossError):
                    raise
                raise errors.CaptureError(f"{doing}: {line}") from error
            reason = line.rstrip(".").removeprefix(f"{doing}: ")
            warn(f"{doing}: {reason}. Training goes on", errors.CaptureWarning)

    def take_fingerprint(self, step: Step) -> None:
        """Digests what the step is about to train on, if the options ask for it."""
        if self.options.fingerprint:
            self._fingerprint = {}
            with self.guard(f"{self.logdir}: no fingerprint of the first batch"):
                self._fingerprint = step.fingerprint()

    @contextlib.contextmanager
    def window(self) -> Iterator[StepTrace]:
        """Opens the window around the first step; a step that raises leaves nothing behind."""
        graph, profile = self.options.graph, self.options.profile
        self.unsaid = None  # a step that raises says so itself
        with deferred() as is_outermost:
            try:
                step = self.step
            except Exception as error:  # noqa: BLE001 - commit raises it, after the step
                step, self._blocked = 0, error
            try:
                self._claim()
                with (
                    step_window(self.run_dir, step=step, graph=graph, profile=profile) as trace,
                    let_through(is_outermost),
                ):
                    yield trace
            except BaseException:
                self._release()
                raise

    def no_window(self) -> StepTrace:
        """Returns the trace of a step that no window was around: what is missing, and why."""
        options = self.options
        asked = {"graph": options.graph, "profile": options.profile}
        asked["warm profile"] = options.warm_step is not None
        wanted = ", ".join(name for name, value in asked.items() if value)
        line = f"{wanted}: record() was called without trace() around the step"
        return StepTrace(step=self.step, missing=[line] if wanted else [])

    def commit(
        self,
        captured: Captured,
        *,
        metadata: Mapping[str, Any],
        trace: StepTrace | None = None,
        step: Step | None = None,
        inferred: Expectation | None = None,
    ) -> FirstBatch:
        """Makes the first batch out of a step's loss, writes it, and returns it.

        An empty loss goes to the run ``<tag>-no-loss``, on a local disk. The metadata say how it
        was captured; the environment, the batch and the user's own are added. ``inferred`` is what
        the loss function implies, for ``expect="auto"``. After a NotDurableError, the first batch
        is in memory, and not on disk.
        """
        self.unsaid = None
        self._claim()
        if captured.is_empty and self.run_dir is not None:
            # The corrected run can then have the tag's own name.
            self._leave_tag_free(self.run_dir)
        trace = trace or StepTrace(step=self.step)
        expect = self.options.expect  # a text is "auto"
        expectation = (inferred or NOT_SEEN) if isinstance(expect, str) else Expectation(expect)
        facts = {
            **describe_environment(self.strategy),
            **metadata,
            **captured.describe_batch(),
            **({"fingerprint": self._fingerprint} if self._fingerprint else {}),
            **(self.options.metadata or {}),
            **expectation.metadata(),
        }
        run = self.options.tag if self.run_dir is None else self.run_dir.rpartition("/")[2]
        self.first_batch = first = captured.as_first_batch(run=run, step=trace.step, metadata=facts)
        if self._blocked is not None:
            raise self._blocked
        if self.run_dir is None:
            return first  # the chief writes
        try:
            left_out = write_recording(first, self.run_dir, self.options, trace=trace, step=step)
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal that came twice: the next call captures
                self.first_batch = None
                self._release()
            raise
        self._report(trace, left_out)
        if self.options.warm_step is not None and trace.seconds is not None:
            self._warm = WarmStep(self.options, first_run_dir=self.run_dir, first=trace)
        expectation.judge(first, where=self.run_dir, on_error=self.options.on_error)
        return first

    @property
    def awaits_warm_step(self) -> bool:
        """Whether later steps still have to go through `later_step`."""
        return self._warm is not None and not self._warm.over

    def end_first_call(self) -> None:
        """Leaves what an execution did after step 0 out of the time up to the warm step."""
        if self._warm is not None:
            self._warm.call_ended = time.perf_counter()

    @contextlib.contextmanager
    def later_step(self) -> Iterator[None]:
        """Counts the step inside, unless it raises, and profiles it if it is the warm step."""
        warm = self._warm
        if warm is None or warm.over or not tf.executing_eagerly():
            yield
            return
        with deferred() if warm.is_next else contextlib.nullcontext(False) as is_outermost:
            with warm.count() as trace, let_through(is_outermost):
                yield
            if trace is not None:
                with self.guard(f"{self.run_dir}: the warm step was not reported"):
                    warm.write(trace)

    def end(self) -> None:
        """Warns if training has ended, or never begun, without a recording or a word about it."""
        # A forked process has a copy of this, and no part in the training.
        if self.unsaid is not None and os.getpid() == self._process:
            reason, file, line = self.unsaid
            if self.run_dir is not None and Path(self.run_dir).is_dir():
                with contextlib.suppress(OSError):
                    self._leave_tag_free(self.run_dir)
            message = f"{self.logdir}: no first loss was recorded: {reason}"
            warnings.warn_explicit(message, errors.CaptureWarning, file, line)

    def _leave_tag_free(self, run_dir: str) -> None:
        """Moves what has no loss out of the way of the corrected run."""
        self.run_dir = run_dirs.rename_run_dir(run_dir, f"{self.options.tag}-no-loss")

    def _claim(self) -> None:
        if self.run_dir is not None or self._blocked is not None:
            return
        if self.strategy.extended.should_save_summary:  # of several workers, only the chief's
            try:
                self.run_dir = run_dirs.claim_run_dir(self.logdir, self.options.tag)
            except Exception as error:  # noqa: BLE001 - commit raises it, the loss safe in memory
                self._blocked = error

    def _release(self) -> None:
        if self.run_dir is not None:
            run_dirs.release_run_dir(self.run_dir)
            self.run_dir = None
        self._blocked = None

    def _report(self, trace: StepTrace, left_out: list[str]) -> None:
        for line in trace.missing:
            logger.warning("%s: no %s", self.run_dir, line)
        if trace.profile_bytes is not None:
            line = "%s: the profile of step %d has %s bytes"
            logger.info(line, self.run_dir, trace.step, f"{trace.profile_bytes:,}")
        if trace.warning is not None:
            warn(f"{self.run_dir}: {trace.warning}", errors.CaptureWarning)
        if left_out:
            warn(
                f"{self.run_dir}: left out {', '.join(left_out)}, above max_tensor_bytes="
                f"{self.options.max_tensor_bytes}; statistics, histogram and digest are kept",
                errors.CaptureWarning,
            )
