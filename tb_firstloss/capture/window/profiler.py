"""The profile of one step: TensorFlow's profiler, started and stopped, leaving nothing behind."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.window import tensorflow_private
from tb_firstloss.errors import first_line

STEP_NAME = "train"
"""Name of the step marker: the trace viewer shows ``train 0``."""

BUSY = "profile: another profiler is running, and was left alone"
TAKEN = (
    "profile: the step, or another thread, called TensorFlow's profiler itself; the recorder's "
    "was withdrawn"
)
NO_DEVICE_PLANE = (
    "the profile has no events of the GPU. Usually only root may read its performance counters "
    "(CUPTI_ERROR_INSUFFICIENT_PRIVILEGES): load the driver with "
    "NVreg_RestrictProfilingToAdminUsers=0, or give the process CAP_SYS_ADMIN (docker run "
    "--cap-add=SYS_ADMIN)"
)


@contextlib.contextmanager
def profiling(run_dir: str, options: Any, step: int, missing: list[str]) -> Iterator[None]:
    """Profiles what is inside to ``plugins/profile``; if it raises, nothing is written.

    ``options`` are ProfilerOptions, or True; ``missing`` gets the reason if there is no profile.
    """
    marker = contextlib.ExitStack()

    def withdraw() -> None:
        marker.close()  # first, or the profile that starts now would show it
        tensorflow_private.forget_profiler()
        missing.append(TAKEN)

    ours = tensorflow_private.Precedence(tensorflow_private.Precedence.PROFILER, withdraw)
    save = False
    try:
        busy = tensorflow_private.running_profiler() is not None or not ours.begin()
        reasons = [BUSY] if busy else _start(run_dir, None if options is True else options)
        missing += reasons
        if not reasons:
            # _r marks the root of a step; without it, the overview page finds no step.
            marker.enter_context(tf.profiler.experimental.Trace(STEP_NAME, step_num=step, _r=1))
            ours.running = True
        yield
        save = True
    finally:
        if ours.end():
            marker.close()
            missing += _stop(save=save)


def _start(run_dir: str, options: Any) -> list[str]:
    """Starts the profiler; returns why it did not start, if it did not."""
    log = tf.get_logger()
    log.addFilter(_is_other)
    try:
        tf.profiler.experimental.start(run_dir, options)
    except tf.errors.AlreadyExistsError:
        if tensorflow_private.running_profiler() is not None:
            # A session outside Python's API is in the way. TensorFlow 2.16 to 2.21 do not let go
            # of their own session, which never started, and would refuse every later start.
            tf.profiler.experimental.stop(save=False)
        return [BUSY]
    except Exception as error:  # noqa: BLE001 - whatever it is, the step has to run
        return [f"profile: the profiler did not start ({first_line(error)})"]
    finally:
        log.removeFilter(_is_other)
    return []


def _is_other(record: logging.LogRecord) -> bool:
    """Returns whether a record is not the warning that goes with the error that is caught here."""
    return not record.getMessage().startswith("Another profiler session is running")


def _stop(*, save: bool) -> list[str]:
    """Stops the profiler; returns why there is no profile, if there is none."""
    try:
        tf.profiler.experimental.stop(save=save)
    except tf.errors.UnavailableError:
        return [TAKEN]  # a version of TensorFlow whose lock is unknown
    except Exception as error:  # noqa: BLE001 - training goes on without a profile
        return [f"profile: it could not be written ({first_line(error)})"]
    return []


def profile_files(run_dir: str) -> list[str]:
    """Returns the files of a run directory's profile, one per host."""
    return [
        tf.io.gfile.join(session, name)
        for session, _, names in tf.io.gfile.walk(f"{run_dir}/plugins/profile")
        for name in names
        if name.endswith(".xplane.pb")
    ]


def lacks_device_plane(run_dir: str, devices: Sequence[tf.config.LogicalDevice]) -> bool:
    """Returns whether a run directory's profile lacks the GPU that is among the devices."""
    if not any(device.device_type == "GPU" for device in devices):
        return False
    files = profile_files(run_dir)
    for path in files:
        with tf.io.gfile.GFile(path, "rb") as file:
            if any(name.startswith("/device:GPU") for name in plane_names(file.read())):
                return False
    return bool(files)


def plane_names(xspace: bytes) -> list[str]:
    """Returns the names of a serialized XSpace's planes; ValueError if it is no protocol buffer."""
    from tb_firstloss.reading.format import wire

    content = memoryview(xspace)
    planes = [
        (start, end)
        for number, wire_type, start, end in wire.iter_fields(content, 0, len(content))
        if (number, wire_type) == (1, wire.BYTES)  # XSpace.planes
    ]
    return [
        str(content[first:last], "utf-8")
        for start, end in planes
        for number, wire_type, first, last in wire.iter_fields(content, start, end)
        if (number, wire_type) == (2, wire.BYTES)  # XPlane.name
    ]
