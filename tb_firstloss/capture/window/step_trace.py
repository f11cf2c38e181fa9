"""The step-0 window: the graph and the profile of exactly one step call."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.window import graphs, profiler


@dataclasses.dataclass
class StepTrace:
    """What the window around one step gathered.

    Attributes:
        step: Number of the step.
        seconds: Wall time of the step, until the devices were finished; None before that.
        run_metadata: RunMetadata proto with the graphs of the functions built in the window.
        profile_bytes: Size of the profile on disk; None if none was written.
        missing: One line per requested artifact that could not be produced, and why.
        warning: What is wrong with the profile, and what to do about it; None if nothing is.
        barrier: Seconds of each part of writing the values, for which training waited.
    """

    step: int
    seconds: float | None = None
    run_metadata: Any = None
    profile_bytes: int | None = None
    missing: list[str] = dataclasses.field(default_factory=list)
    warning: str | None = None
    barrier: dict[str, float] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def step_window(
    run_dir: str | None,
    *,
    step: int,
    graph: bool,
    profile: bool | tf.profiler.experimental.ProfilerOptions,
) -> Iterator[StepTrace]:
    """Opens the window around one step call, and leaves TensorFlow's tracing as it was.

    It raises nothing but what the step raises; the trace's ``missing`` says what else went wrong.
    Without a ``run_dir`` there is neither graph nor profile.
    """
    trace = StepTrace(step=step)
    collected: list[Any] = []
    with contextlib.ExitStack() as window:
        if graph and run_dir is not None:
            collected = window.enter_context(graphs.collecting(trace.missing))
        if profile and run_dir is not None:
            window.enter_context(profiler.profiling(run_dir, profile, step, trace.missing))
        start = time.perf_counter()
        yield trace
        # Impossible where the process belongs to a cluster (TensorFlow 2.16 to 2.21); there, the
        # wall time ends when the step returns.
        with contextlib.suppress(tf.errors.OpError):
            tf.test.experimental.sync_devices()
        trace.seconds = time.perf_counter() - start
    trace.run_metadata = collected[0] if collected else None
    if profile and run_dir is not None:
        _inspect_profile(run_dir, trace)


def _inspect_profile(run_dir: str, trace: StepTrace) -> None:
    try:
        sizes = [tf.io.gfile.stat(path).length for path in profiler.profile_files(run_dir)]
        trace.profile_bytes = sum(sizes) if sizes else None
        if profiler.lacks_device_plane(run_dir, tf.config.list_logical_devices()):
            trace.warning = profiler.NO_DEVICE_PLANE
    except (tf.errors.OpError, OSError, ValueError) as error:
        trace.missing.append(f"profile: it was written, but cannot be read ({error})")
