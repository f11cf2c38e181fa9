"""The recordings that a command was asked for."""

import argparse
import dataclasses
from pathlib import Path

from tb_firstloss.cli.arguments import name_below
from tb_firstloss.cli.progress import reading_threads
from tb_firstloss.errors import NoRecordingError, some_of
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.reading.recordings import read_first_loss, read_first_losses
from tb_firstloss.reading.selection import Selection


def read_recordings(options: argparse.Namespace, *, with_paths: bool = False) -> list[FirstBatch]:
    """Reads the recordings at ``options.paths`` that match ``options.runs``, as `read_path` does.

    Runs' names get their path in front if there are several paths, or ``with_paths``.
    """
    with_paths = with_paths or len(options.paths) > 1
    return [
        dataclasses.replace(first, run=name_below(path, first.run)) if with_paths else first
        for path in options.paths
        for first in read_path(path, options.runs, quiet=options.quiet)
    ]


def read_path(path: str, runs: list[str] | None, *, quiet: bool = False) -> list[FirstBatch]:
    """Reads the matching recordings at one path, at least one; a file is read as a recording."""
    if Path(path).is_file():
        found = [read_first_loss(path)]
    else:
        with reading_threads("Reading", quiet=quiet) as threads:
            found = list(read_first_losses(path, executor=threads).values())
    if not found:
        raise NoRecordingError(
            f"{path}: no intact first-batch recording here or below; is it the logdir that "
            "FirstLoss or FirstLossCallback was given?",
            path=path,
        )
    selection = Selection.of(runs, None, None)
    chosen = [first for first in found if selection.has_run(first.run)]
    if not chosen:
        names = some_of([first.run for first in found])
        raise NoRecordingError(f"{path}: no run matches --run; available: {names}", path=path)
    return chosen


def pass_over_empty(found: list[FirstBatch]) -> list[FirstBatch]:
    """Returns the recordings with a loss; all where none has one."""
    return [first for first in found if not first.is_empty] or found
