"""The step-0 window: the graph and the profile of exactly one step call."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context as eager_context
from tensorflow.python.profiler import profiler_v2

from tb_firstloss.capture import native_log

STEP_NAME = "train"
"""Name of the step marker: the trace viewer shows ``train 0``."""


@dataclasses.dataclass
class StepTrace:
    """What the window around one step gathered.

    Attributes:
        step: Number of the step.
        seconds: Wall time of the step, until the devices had finished; None before that.
        run_metadata: Serialized RunMetadata with the graphs of the functions built in the window.
        profiled: Whether a profile was written.
        missing: One line for each thing that was asked for and could not be had, with the reason.
    """

    step: int
    seconds: float | None = None
    run_metadata: bytes | None = None
    profiled: bool = False
    missing: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def step_window(
    run_dir: str | None,
    *,
    step: int,
    graph: bool = True,
    profile: bool | tf.profiler.experimental.ProfilerOptions = True,
) -> Iterator[StepTrace]:
    """Opens the window around one step call; leaves TensorFlow's tracing as it was.

    What cannot be had is listed in the trace's ``missing``; only what the step raises is raised.

    Args:
        run_dir: Where the profile is written; None for no profile.
        step: Number of the step marker.
        graph: Whether to collect the graphs of functions that are built in the window.
        profile: Whether to profile, or the profiler's options.
    """
    trace = StepTrace(step=step)
    collecting = graph and _start_graph(trace)
    profiling = bool(profile) and run_dir is not None and _start_profile(run_dir, profile, trace)
    try:
        # _r marks the root of a step: without it the overview page finds no step at all.
        with tf.profiler.experimental.Trace(STEP_NAME, step_num=step, _r=1):
            start = time.perf_counter()
            yield trace
            _await_devices(trace)
            trace.seconds = time.perf_counter() - start
    finally:
        finished = trace.seconds is not None
        if profiling:
            trace.profiled = _stop_profile(trace, save=finished)
        if collecting:
            trace.run_metadata = _stop_graph()


def _start_graph(trace: StepTrace) -> bool:
    if _user_trace_is_on():
        trace.missing.append("graph trace: tf.summary.trace_on is already on, and was left alone")
        return False
    tf.summary.trace_on(graph=True, profiler=False)
    return True


def _stop_graph() -> bytes:
    """Stops collecting and returns the RunMetadata.

    ``tf.summary.trace_export`` is not used for two reasons: it needs a writer at this moment, and
    like trace_off it leaves the collection on, so that every function built later is copied into
    memory for the rest of the process. No public call turns it off (TensorFlow 2.16 to 2.21).
    """
    context = eager_context.context()
    run_metadata = context.export_run_metadata()
    tf.summary.trace_off()
    context.disable_graph_collection()
    return bytes(run_metadata.SerializeToString())


def _user_trace_is_on() -> bool:
    # Private: no public call tells (TensorFlow 2.16 to 2.21). Without it, trace_on would only warn.
    from tensorflow.python.ops import summary_ops_v2

    return getattr(summary_ops_v2, "_current_trace_context", None) is not None


def _await_devices(trace: StepTrace) -> None:
    try:
        tf.test.experimental.sync_devices()
    except tf.errors.OpError as error:
        trace.missing.append(f"wall time: the devices could not be awaited ({_first_line(error)})")


def _start_profile(run_dir: str, profile: Any, trace: StepTrace) -> bool:
    options = None if profile is True else profile
    was_idle = getattr(profiler_v2, "_profiler", None) is None
    try:
        with native_log.leave_out(native_log.PROFILER):
            tf.profiler.experimental.start(run_dir, options)
    except tf.errors.AlreadyExistsError:
        trace.missing.append("profile: another profiler is running, and was left alone")
        if was_idle and getattr(profiler_v2, "_profiler", None) is not None:
            # Refused by a session outside Python's API, TensorFlow 2.16 to 2.21 forget to let go
            # of their own, which never started; the next start would be refused for ever.
            tf.profiler.experimental.stop(save=False)
        return False
    except (tf.errors.OpError, RuntimeError, OSError) as error:
        trace.missing.append(f"profile: the profiler did not start ({_first_line(error)})")
        return False
    return True


def _stop_profile(trace: StepTrace, *, save: bool) -> bool:
    try:
        with native_log.leave_out(native_log.PROFILER):
            tf.profiler.experimental.stop(save=save)
    except (tf.errors.OpError, RuntimeError, OSError) as error:
        trace.missing.append(f"profile: it could not be written ({_first_line(error)})")
        return False
    return save


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def step_graph(
    step_fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tf.Graph | None:
    """Returns the graph of the concrete function that a call just ran, or None for none.

    It is the cached one, so nothing is traced again; functions run eagerly have none to show.
    """
    get_concrete_function = getattr(step_fn, "get_concrete_function", None)
    if get_concrete_function is None or tf.config.functions_run_eagerly():
        return None
    return get_concrete_function(*args, **kwargs).graph
