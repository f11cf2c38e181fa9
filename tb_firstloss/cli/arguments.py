"""Arguments that several commands share, and what they select."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tb_firstloss.first_batch import FirstBatch


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Declares the paths to read, "runs" by default."""
    parser.add_argument(
        "paths",
        nargs="*",
        default=["runs"],
        metavar="PATH",
        help="logdir, run directory or event file; URLs and globs too (default: runs)",
    )


def add_selection(parser: argparse.ArgumentParser, *, tags: bool = True) -> None:
    """Declares --run, and --tag."""
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        metavar="GLOB",
        help="only runs of this name below PATH; may be repeated",
    )
    if tags:
        parser.add_argument(
            "--tag",
            dest="tags",
            action="append",
            metavar="GLOB",
            help="only tags of this name; may be repeated",
        )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declares --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Declares --quiet."""
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bar, and only results are printed"
    )


def add_tolerances(parser: argparse.ArgumentParser, *, rtol: float) -> None:
    """Declares --rtol and --atol."""
    parser.add_argument(
        "--rtol", type=float, default=rtol, help=f"allowed relative difference (default: {rtol:g})"
    )
    parser.add_argument(
        "--atol", type=float, default=0.0, help="allowed absolute difference (default: 0)"
    )


def read_recordings(options: argparse.Namespace, *, with_paths: bool = False) -> list[FirstBatch]:
    """Reads every recording at the paths that match --run, named so that no two are alike.

    Args:
        options: With paths and runs, and quiet.
        with_paths: Whether the names begin with the path even if there is only one.

    Raises:
        FileNotFoundError: Nothing is at a path.
        NoRecordingError: There is no recording at a path, or none that matches.
    """
    with_paths = with_paths or len(options.paths) > 1
    return [
        dataclasses.replace(first, run=name_below(path, first.run)) if with_paths else first
        for path in options.paths
        for first in read_path(path, options.runs, quiet=options.quiet)
    ]


def read_path(path: str, runs: list[str] | None, *, quiet: bool = False) -> list[FirstBatch]:
    """Reads the recordings at one path: one for a file, all of them for a directory.

    Raises:
        FileNotFoundError: Nothing is at the path.
        NoRecordingError: There is no recording, or none that matches.
    """
    from tb_firstloss.cli.progress import reading_threads
    from tb_firstloss.errors import NoRecordingError, some_of
    from tb_firstloss.reading.recordings import read_first_loss, read_first_losses
    from tb_firstloss.reading.selection import Selection

    if Path(path).is_file():
        found = [read_first_loss(path)]
    else:
        with reading_threads("Reading", quiet=quiet) as threads:
            found = list(read_first_losses(path, executor=threads).values())
    if not found:
        raise NoRecordingError(
            f"{path}: no intact first-batch recording below it; is it the logdir that was given to "
            "FirstLoss or FirstLossCallback?",
            path=path,
        )
    selection = Selection.of(runs, None, None)
    chosen = [first for first in found if selection.has_run(first.run)]
    if not chosen:
        names = some_of([first.run for first in found])
        raise NoRecordingError(f"{path}: none of its runs is meant by --run: {names}", path=path)
    return chosen


def note(options: argparse.Namespace, message: str) -> None:
    """Prints what is no result, unless --quiet."""
    if not options.quiet:
        print(f"tb-firstloss: {message}", file=sys.stderr)


def name_below(path: str, run: str) -> str:
    """Returns a run's name among those of several paths: with its path before it."""
    if Path(path).is_file():
        return str(Path(path).parent)
    return path.rstrip("/") if run == "." else f"{path.rstrip('/')}/{run}"
