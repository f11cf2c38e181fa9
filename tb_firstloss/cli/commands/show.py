"""Show the first-batch loss of every run below a path.

Examples::

  tb-firstloss show runs
  tb-firstloss show runs --run 'demo/*' --json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tb_firstloss.cli.arguments import add_json, add_paths, add_quiet, add_selection
from tb_firstloss.cli.output import Cell, histogram_line, print_json, print_table
from tb_firstloss.cli.recordings import read_recordings
from tb_firstloss.first_batch import FirstBatch, tabulate
from tb_firstloss.loss_table import LossTable

_HEADERS = ["run", "step", "loss", "expected", "count", "min", "mean", "max", "non-finite", ""]
_EXPECTED, _NONFINITE = 3, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_paths(parser)
    add_selection(parser, tags=False)
    add_json(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a row per run and output."""
    found = read_recordings(options)
    if options.json:
        print_json([to_json(first) for first in found])
    else:
        print_losses(found)
    return 0


def print_losses(found: list[FirstBatch]) -> None:
    """Prints a table with a row per run and output."""
    rows = [row for first in found for row in _rows(tabulate(first))]
    expected = any(row[_EXPECTED] for row in rows)
    keep = [i for i in range(len(_HEADERS)) if expected or i != _EXPECTED]
    table = [
        [Cell(row[i], "red" if i == _NONFINITE and row[i] not in ("", "0") else "") for i in keep]
        for row in rows
    ]
    print_table([_HEADERS[i] for i in keep], table)


def _rows(table: LossTable) -> Iterator[list[str]]:
    losses = ", ".join(loss.text for loss in table.losses)
    head = [str(table.step), losses, "" if table.expected is None else f"{table.expected:.6g}"]
    if not table.outputs:
        yield [table.run, *head, *[""] * 6]
    for output in table.outputs:
        s = output.statistics
        numbers = [f"{value:.6g}" for value in (s.min, s.mean, s.max)]
        picture = "" if output.values is None else histogram_line(output.values)
        label = table.run if len(table.outputs) == 1 else f"{table.run}: {output.name}"
        yield [label, *head, str(s.count), *numbers, str(s.nonfinite_count), picture]


def to_json(first: FirstBatch) -> dict[str, Any]:
    """Returns a recording as JSON values, but for NaN and infinities."""
    return {
        "run": first.run,
        "step": first.step,
        "wall_time": first.wall_time,
        "loss": None if first.loss is None else float(first.loss),
        "losses": {name: float(loss) for name, loss in first.losses.items()},
        "outputs": {
            name: {
                "dtype": None if output.per_example is None else output.per_example.dtype.name,
                "shape": None if output.per_example is None else list(output.per_example.shape),
                **vars(output.statistics),
            }
            for name, output in first.outputs.items()
        },
        "digest": first.digest,
        "metadata": dict(first.metadata),
    }
