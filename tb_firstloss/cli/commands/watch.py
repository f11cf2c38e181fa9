"""Print values as they are written, until Ctrl-C.

Values that are already there come first; the path need not exist yet. Scalars are printed as
numbers, everything else as dtype and shape.

Examples::

  tb-firstloss watch runs
  tb-firstloss watch runs --tag '*/loss*' --timeout 600
"""

import argparse
import contextlib
import json
import sys
import threading
import time

from tb_firstloss.arrays import describe, finite_json
from tb_firstloss.cli.arguments import add_place, add_shared
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import printable
from tb_firstloss.reading.follow import follow
from tb_firstloss.reading.tensor_datum import TensorDatum


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_place(parser, "path", "logdir, run directory or event file")
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="polling interval (default: 1)",
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="stop after this time (default: never)"
    )
    add_shared(parser, "--run", "--tag")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(options: argparse.Namespace) -> int:
    """Prints a line per value; exit code 1 when the time is over and none has come."""
    for name, seconds in (("timeout", options.timeout), ("interval", options.interval)):
        if seconds is not None and not 0 <= seconds <= threading.TIMEOUT_MAX:
            most = int(threading.TIMEOUT_MAX)
            raise ValueError(f"--{name} {seconds:g}: give 0 to {most} seconds")
    stop = threading.Event()
    if options.timeout is not None:
        timer = threading.Timer(options.timeout, stop.set)
        timer.daemon = True
        timer.start()
    values = follow(
        options.path, runs=options.runs, tags=options.tags, poll_seconds=options.interval, stop=stop
    )
    seen = False
    with contextlib.suppress(KeyboardInterrupt):
        for datum in values:
            seen = True
            print(_to_json(datum) if options.json else _to_line(datum))
            sys.stdout.flush()  # stdout may be a pipe, and the next value an hour away
    return 0 if seen or options.timeout is None else FINDING


def _to_line(datum: TensorDatum) -> str:
    clock = time.strftime("%H:%M:%S", _local_time(datum.wall_time))
    name = printable(f"{datum.run}  {datum.tag}")
    value = f"{datum.value.item():.6g}" if _is_number(datum) else describe(datum.value)
    return f"{clock}  {name}  step {datum.step}  {value}"


def _local_time(seconds: float) -> time.struct_time:
    try:
        return time.localtime(seconds)
    except (OverflowError, ValueError, OSError):  # not a time
        return time.gmtime(0)


def _to_json(datum: TensorDatum) -> str:
    facts = {
        "run": datum.run,
        "tag": datum.tag,
        "step": datum.step,
        "wall_time": datum.wall_time,
        "plugin": datum.plugin_name,
        "value": datum.value.item() if _is_number(datum) else None,
        "dtype": describe(datum.value).partition("[")[0],
        "shape": list(datum.value.shape),
    }
    return json.dumps(finite_json(facts), allow_nan=False)


def _is_number(datum: TensorDatum) -> bool:
    return datum.value.ndim == 0 and isinstance(datum.value.item(), (int, float))
