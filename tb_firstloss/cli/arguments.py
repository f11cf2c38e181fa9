"""Arguments that several commands share."""

import argparse
from pathlib import Path
from typing import Any

from tb_firstloss.cli.output import say


def steps(text: str) -> range | frozenset[int]:
    """Returns the steps that the text of --steps stands for."""
    if ":" not in text:
        return frozenset(map(int, text.split(",")))
    bounds = slice(*(int(part) if part else None for part in text.split(":")))
    stop = 1 << 63 if bounds.stop is None else bounds.stop
    return range(bounds.start or 0, stop, 1 if bounds.step is None else bounds.step)


_GLOBS: dict[str, Any] = {"action": "append", "metavar": "GLOB"}
_SHARED: dict[str, dict[str, Any]] = {
    "paths": {
        "nargs": "*",
        "default": ["runs"],
        "metavar": "PATH",
        "help": "logdir, run directory or event file; URLs and globs too (default: runs)",
    },
    "--run": {**_GLOBS, "dest": "runs", "help": "only matching runs below PATH; may be repeated"},
    "--tag": {**_GLOBS, "dest": "tags", "help": "only matching tags; may be repeated"},
    "--steps": {
        "metavar": "STEPS",
        "type": steps,
        "help": "only steps 7, 1,5,9, 0:100 (without 100) or 0:1000:10",
    },
    "--json": {"action": "store_true", "help": "print JSON instead of a table"},
    "--quiet": {"action": "store_true", "help": "print results only, and no progress bar"},
}


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Declares some of the arguments that several commands have."""
    for name in names:
        short = ["-q"] if name == "--quiet" else []
        parser.add_argument(*short, name, **_SHARED[name])


def add_place(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Declares a single optional path, "runs" by default."""
    parser.add_argument(
        name, nargs="?", default="runs", metavar=name.upper(), help=f"{meaning} (default: runs)"
    )


def add_tolerances(parser: argparse.ArgumentParser, *, rtol: float) -> None:
    """Declares --rtol and --atol."""
    parser.add_argument(
        "--rtol", type=float, default=rtol, help=f"allowed relative difference (default: {rtol:g})"
    )
    parser.add_argument(
        "--atol", type=float, default=0.0, help="allowed absolute difference (default: 0)"
    )


def note(options: argparse.Namespace, message: str) -> None:
    """Prints a remark on stderr, unless --quiet."""
    if not options.quiet:
        say(message)


def name_of(options: argparse.Namespace, path: str, run: str) -> str:
    """Returns a run's name, with its path in front where several were given."""
    return name_below(path, run) if len(options.paths) > 1 else run


def name_below(path: str, run: str) -> str:
    """Returns a run's name with its path in front, which keeps runs of several paths apart."""
    if Path(path).is_file():
        return str(Path(path).parent)
    return path.rstrip("/") if run == "." else f"{path.rstrip('/')}/{run}"
