"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Declares the paths to read, "runs" by default."""
    parser.add_argument(
        "paths",
        nargs="*",
        default=["runs"],
        metavar="PATH",
        help="logdir, run directory or event file; URLs and globs too (default: runs)",
    )


def add_place(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Declares a single optional path, "runs" by default."""
    parser.add_argument(
        name, nargs="?", default="runs", metavar=name.upper(), help=f"{meaning} (default: runs)"
    )


def add_selection(parser: argparse.ArgumentParser, *, tags: bool = True) -> None:
    """Declares --run and, unless told otherwise, --tag."""
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        metavar="GLOB",
        help="only matching runs below PATH; may be repeated",
    )
    if tags:
        parser.add_argument(
            "--tag",
            dest="tags",
            action="append",
            metavar="GLOB",
            help="only matching tags; may be repeated",
        )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declares --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Declares --quiet."""
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print results only, and no progress bar"
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
        print(f"tb-firstloss: {message}", file=sys.stderr)


def name_below(path: str, run: str) -> str:
    """Returns a run's name with its path in front, which keeps runs of several paths apart."""
    if Path(path).is_file():
        return str(Path(path).parent)
    return path.rstrip("/") if run == "." else f"{path.rstrip('/')}/{run}"
