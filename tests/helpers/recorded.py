"""Small real recordings, and a terminal, for the command line's tests."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import tensorflow as tf

from tb_firstloss import FirstBatch, FirstLoss, OutputLoss
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.writing.recording import write_recording


def record(logdir, values, *, total=None, **options):
    """Records a first batch in a logdir, without a profile, and returns its run directory."""
    first = FirstLoss(logdir, graph=False, profile=False, on_error="raise", **options)
    total = None if total is None else tf.constant(total)
    first.record(tf.constant(values), total=total)
    return first.run_dir


def write_losses(logdir, losses, outputs=(), *, metadata=(), **options):
    """Writes a first batch of several losses as a recording, and returns it.

    Args:
        logdir: Where; the run is first_batch.
        losses: Numbers by name.
        outputs: Per-example values by name.
        metadata: Of the first batch.
        options: Of the recorder.
    """
    options = Options(logdir=logdir, graph=False, profile=False, **options)
    run_dir = Path(logdir) / options.tag
    run_dir.mkdir(parents=True)
    first = FirstBatch(
        run=options.tag,
        step=0,
        wall_time=1.7e9,
        losses={name: np.float32(loss) for name, loss in losses.items()},
        outputs={name: OutputLoss(per_example=np.asarray(v)) for name, v in dict(outputs).items()},
        metadata=dict(metadata),
    )
    write_recording(first, str(run_dir), options, trace=StepTrace(step=0), step=None)
    return first


def run_on_terminal(*arguments, columns=120, **environment):
    """Runs the command line on a pseudo-terminal; returns its exit code and its output."""
    return _on_terminal(["-m", "tb_firstloss", *map(str, arguments)], columns, environment)


def python_on_terminal(script, *, columns=120, **environment):
    """Runs a script on a pseudo-terminal; returns its exit code and its output."""
    return _on_terminal(["-c", script], columns, environment)


def _on_terminal(arguments, columns, environment):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment}
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**inherited, **environment},
    ) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux reports that the terminal was closed
            while block := os.read(master, 65536):
                shown += block
        os.close(master)
    return process.returncode, shown.decode()
