"""A later step that is profiled too: its steady state against step 0's tracing and compilation."""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator

import tensorflow as tf

from tb_firstloss import contract
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.window.step_trace import StepTrace, step_window
from tb_firstloss.capture.writing import run_dirs, summaries
from tb_firstloss.capture.writing.report import write_warm_report
from tb_firstloss.errors import first_line

logger = logging.getLogger(__name__)


class WarmStep:
    """Counts the steps after step 0 and profiles the one of the options into ``<run>-warm``.

    Attributes:
        over: Whether nothing is left to count.
        call_ended: `time.perf_counter` when the last step's call returned; of step 0, when it had
            been written.
    """

    def __init__(self, options: Options, *, first_run_dir: str, first: StepTrace) -> None:
        self.over = False
        self.call_ended = time.perf_counter()
        self._seconds_between = 0.0
        self._run_dir: str | None = None
        self._options = options
        self._left = self._number = options.warm_step or 0
        self._first_run_dir = first_run_dir
        self._first = first
        self._lock = threading.Lock()

    @property
    def is_next(self) -> bool:
        """Whether the next step counted is the warm step."""
        return self._left == 1

    @contextlib.contextmanager
    def count(self) -> Iterator[StepTrace | None]:
        """Counts the step inside, unless it raises; yields what the warm step's window gathers."""
        with self._lock:
            self._left -= 1
            is_warm = self._left == 0
            if is_warm:
                self._seconds_between = time.perf_counter() - self.call_ended
        try:
            with self._window() if is_warm else contextlib.nullcontext() as trace:
                yield trace
        except BaseException:
            with self._lock:
                if is_warm or self._left > 0:
                    self._left += 1
            raise
        finally:
            self.call_ended = time.perf_counter()
        self.over = self.over or is_warm

    @contextlib.contextmanager
    def _window(self) -> Iterator[StepTrace]:
        logdir, _, run = self._first_run_dir.rpartition("/")
        missing = []
        try:
            self._run_dir = run_dirs.claim_run_dir(logdir, f"{run}-warm")
        except (OSError, tf.errors.OpError) as error:
            missing = [f"profile: {first_line(error)}"]
        step, profile = self._first.step + self._number, self._options.profile
        try:
            with step_window(self._run_dir, step=step, graph=False, profile=profile) as trace:
                yield trace
        except BaseException:
            if self._run_dir is not None:
                run_dirs.release_run_dir(self._run_dir)
                self._run_dir = None
            raise
        trace.missing += missing

    def write(self, trace: StepTrace) -> None:
        """Writes the report of the warm step next to its profile."""
        for line in trace.missing:
            logger.warning("%s: step %d: no %s", self._first_run_dir, trace.step, line)
        if self._run_dir is None:
            return
        tag, seconds, step = self._options.tag, self._seconds_between, trace.step
        scalar, meaning = contract.SECONDS_BETWEEN_STEPS, contract.SECONDS_BETWEEN_STEPS_DESCRIPTION
        with summaries.event_file(self._run_dir, f".{uuid.uuid4().hex[:16]}.v2"):
            report = write_warm_report(trace, self._first, seconds)
            summaries.write_text(f"{tag}/report", report, step=step)
            summaries.write_scalar(f"{tag}/{scalar}", seconds, step=step, description=meaning)
