"""One recorder: its options, its window around the first step, and what it has captured.

`FirstLoss` and `FirstLossCallback` find the step and its loss, each in its own way; this is what
they share from there on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import tensorflow as tf

from tb_firstloss import checks, contract
from tb_firstloss.arrays import Array
from tb_firstloss.capture import options
from tb_firstloss.capture.environment import describe_environment
from tb_firstloss.capture.expectation import NOT_SEEN, Expectation
from tb_firstloss.capture.notices import warn
from tb_firstloss.capture.window.step_trace import StepTrace, step_window
from tb_firstloss.capture.window.warm_step import WarmStep
from tb_firstloss.capture.writing import recording, run_dirs
from tb_firstloss.errors import (
    CaptureError,
    CaptureWarning,
    FirstLossError,
    FirstLossWarning,
    first_line,
)
from tb_firstloss.first_batch import FirstBatch, OutputLoss

logger = logging.getLogger(__name__)

DEFAULT_MAX_TENSOR_BYTES = 256 * 2**20


class Recorder:
    """Captures at most one first batch and writes it.

    Args:
        logdir: And all options: as `FirstLoss` documents them; resolved and checked at once.

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
        self.logdir = options.resolve_logdir(logdir)
        self.tag = contract.check_tag(tag)
        self.step = options.check_step(step)
        self.graph = bool(graph)
        self.profile = options.check_profile(profile)
        self.warm_step = options.check_warm_step(warm_step, profile)
        self.expects_auto = False
        self.expected = None if expect is None else checks.parse_expectation(expect)
        self.hparams = hparams
        self.metadata = options.check_metadata(metadata)
        self.fingerprint = bool(fingerprint)
        self.strategy = strategy
        self.max_tensor_bytes = options.check_positive("max_tensor_bytes", max_tensor_bytes)
        self.on_resume = options.check_choice("on_resume", on_resume, ("skip", "record", "error"))
        self.on_error = options.check_choice("on_error", on_error, ("warn", "raise"))
        self.first_batch: FirstBatch | None = None
        self.run_dir: str | None = None
        self._blocked: Exception | None = None
        self._warm: WarmStep | None = None

    @property
    def current_strategy(self) -> tf.distribute.Strategy:
        """The strategy that was given, or the one in scope."""
        return self.strategy or tf.distribute.get_strategy()

    @property
    def writes(self) -> bool:
        """Whether this process writes: of several workers, only the chief does."""
        return bool(self.current_strategy.extended.should_save_summary)

    @contextlib.contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Keeps a failure of ours from stopping training, unless ``on_error="raise"``."""
        try:
            yield
        except FirstLossWarning:
            raise  # the user's filter has made an error of a warning
        except Exception as error:
            if self.on_error == "raise":
                if isinstance(error, FirstLossError):
                    raise
                raise CaptureError(f"{doing}: {first_line(error, named=True)}") from error
            warn(
                f"{doing}: {first_line(error, named=True).rstrip('.')}. Training goes on",
                CaptureWarning,
            )

    @contextlib.contextmanager
    def window(self) -> Iterator[StepTrace]:
        """Opens the window around the first step; a step that raises leaves nothing behind."""
        step = 0
        try:
            step = self._current_step()
            self._claim()
        except Exception as error:  # noqa: BLE001 - raised by commit, after the step
            self._blocked = error
        ready = self.run_dir is not None
        finished = False
        try:
            with step_window(
                self.run_dir,
                step=step,
                graph=ready and self.graph,
                profile=ready and self.profile,
            ) as step_trace:
                yield step_trace
            finished = True
        finally:
            if not finished:
                self._release()

    def commit(
        self,
        *,
        loss: Array | None,
        outputs: Mapping[str, OutputLoss],
        metadata: Mapping[str, Any] | None = None,
        inferred: Expectation | None = None,
        step_trace: StepTrace | None = None,
        graph: Callable[[], tf.Graph | None] | None = None,
        layers: Callable[[], str | None] | None = None,
    ) -> None:
        """Makes the first batch out of its values and writes it before it returns.

        Args:
            loss: What the optimizer differentiates, or None.
            outputs: Per-example values by output name.
            metadata: What is known beside the environment.
            inferred: What the loss function tells of the expectation, for ``expect="auto"``.
            step_trace: What the window gathered, or None where there was none.
            graph: Gives the graph of the step's concrete function; asked after the values are safe.
            layers: Gives the Keras model's layers, as `keras_graph.describe_layers` does.
        """
        if self._blocked is None:
            try:
                self._claim()
            except Exception as error:  # noqa: BLE001 - raised once the value is safe in memory
                self._blocked = error
        facts = {**describe_environment(self.strategy), **(metadata or {}), **self.metadata}
        expectation = self._expectation(inferred)
        facts |= expectation.metadata()
        first = FirstBatch(
            run=self.tag if self.run_dir is None else self.run_dir.rpartition("/")[2],
            step=self._current_step() if step_trace is None else step_trace.step,
            wall_time=time.time(),
            loss=loss,
            outputs=outputs,
            metadata=facts,
        )
        self.first_batch = first
        if self._blocked is not None:
            raise self._blocked
        if self.run_dir is None:
            return  # the chief writes
        left_out = recording.write_recording(
            first,
            self.run_dir,
            tag=self.tag,
            max_tensor_bytes=self.max_tensor_bytes,
            trace=step_trace,
            graph=graph if self.graph else None,
            layers=layers if self.graph else None,
            hparams=self.hparams,
        )
        self._report_gaps(step_trace, left_out)
        if self.warm_step is not None and step_trace is not None and step_trace.seconds is not None:
            self._warm = WarmStep(
                self.warm_step,
                first_run_dir=self.run_dir,
                first=step_trace,
                tag=self.tag,
                profile=self.profile,
            )
        expectation.judge(first, where=self.run_dir, on_error=self.on_error)

    def _expectation(self, inferred: Expectation | None) -> Expectation:
        return (inferred or NOT_SEEN) if self.expects_auto else Expectation(self.expected)

    @property
    def awaits_warm_step(self) -> bool:
        """Whether later steps are still to go through `later_step`."""
        return self._warm is not None and not self._warm.over

    @contextlib.contextmanager
    def later_step(self) -> Iterator[None]:
        """Opens around each step after step 0: counts it, and profiles it if it is the warm step.

        A step that raises is not counted.
        """
        warm = self._warm
        if warm is None or warm.over:
            yield
            return
        with warm.count() as step_trace:
            yield
        if step_trace is not None:
            with self.guard(f"{self.run_dir}: the warm step was not reported"):
                warm.write(step_trace)

    def no_window(self) -> StepTrace:
        """Returns the trace of a step that no window was around: nothing, and why."""
        asked = {"graph": self.graph, "profile": self.profile, "warm profile": self.warm_step}
        wanted = ", ".join(name for name, value in asked.items() if value)
        line = f"{wanted}: record() was called without trace() around the step"
        return StepTrace(step=self._current_step(), missing=[line] if wanted else [])

    def _claim(self) -> None:
        if self.run_dir is None and self.writes:
            self.run_dir = run_dirs.claim_run_dir(self.logdir, self.tag)

    def _release(self) -> None:
        if self.run_dir is not None:
            run_dirs.release_run_dir(self.run_dir)
            self.run_dir = None
        self._blocked = None

    def _current_step(self) -> int:
        return int(self.step() if callable(self.step) else self.step)

    def _report_gaps(self, step_trace: StepTrace | None, left_out: list[str]) -> None:
        for line in step_trace.missing if step_trace is not None else ():
            logger.warning("%s: no %s", self.run_dir, line)
        if step_trace is not None and step_trace.profile_bytes is not None:
            size = f"{step_trace.profile_bytes:,} bytes"
            logger.info("%s: the profile of step %d has %s", self.run_dir, step_trace.step, size)
        if step_trace is not None and step_trace.warning is not None:
            warn(f"{self.run_dir}: {step_trace.warning}", CaptureWarning)
        if left_out:
            warn(
                f"{self.run_dir}: left out {', '.join(left_out)}, above max_tensor_bytes="
                f"{self.max_tensor_bytes}; statistics, histogram and digest are kept",
                CaptureWarning,
            )


class Recorded:
    """What a loop's recorder and fit's callback show of the `Recorder` that they share."""

    _recorder: Recorder

    @property
    def logdir(self) -> str:
        """Directory under which the run directory is, absolute."""
        return self._recorder.logdir

    @property
    def run_dir(self) -> str | None:
        """Directory of this recording; None until there is one."""
        return self._recorder.run_dir

    @property
    def tag(self) -> str:
        """First component of every summary tag."""
        return self._recorder.tag

    @property
    def first_batch(self) -> FirstBatch | None:
        """What was captured, or in a resumed run what was found; None before that."""
        return self._recorder.first_batch
