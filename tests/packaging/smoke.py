"""Tries an installed package that has nothing but its base dependencies; no test runner needed.

    python smoke.py [--compiled | --pure]

Run it outside the checkout, which Python would import instead.
"""

import contextlib
import importlib.util
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import tb_firstloss
from tb_firstloss import reading
from tb_firstloss.cli import main


def check(holds, what):
    if not holds:
        sys.exit(f"smoke.py: not so: {what}")


def run(*arguments):
    """Runs the command; returns its exit code, stdout and stderr."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


def read_back(logdir):
    writer = EventFileWriter(str(logdir / "run"))
    value = summary_pb2.Summary.Value(tag="loss", simple_value=0.1)
    for step in range(1000):
        summary = summary_pb2.Summary(value=[value])
        writer.add_event(event_pb2.Event(step=step, wall_time=1.5, summary=summary))
    writer.close()
    scalars = tb_firstloss.read_scalars(logdir)
    check(scalars.step.tolist() == list(range(1000)), "1,000 steps are read back")
    check(set(scalars.value.tolist()) == {float(np.float32(0.1))}, "every value is float32 0.1")
    check(tb_firstloss.verify(logdir) == [], "there is no damage")
    code, out, _ = run("tags", str(logdir))
    check(code == 0 and "loss" in out, "`tags` lists the tag")


def asks_for_tensorflow():
    try:
        tb_firstloss.FirstLoss  # noqa: B018  # loading the name is what is tried
    except ImportError as error:
        check("pip install tensorflow" in str(error), f"it says what to install: {error}")
    else:
        check(False, "FirstLoss asks for TensorFlow")


def smoke(wanted):
    check("site-packages" in Path(tb_firstloss.__file__).parts, "the installed package is tried")
    if wanted:
        check(reading.compiled == (wanted == "--compiled"), f"the reader is {wanted}")
    with tempfile.TemporaryDirectory() as logdir:
        read_back(Path(logdir))
    code, out, _ = run("--help")
    check(code == 0 and out.startswith("usage: tb-firstloss"), "--help shows help")
    if importlib.util.find_spec("tensorflow") is None:
        asks_for_tensorflow()
    print(f"tb-firstloss {tb_firstloss.__version__} works, compiled: {reading.compiled}")


if __name__ == "__main__":
    smoke(sys.argv[1] if sys.argv[1:] else None)
