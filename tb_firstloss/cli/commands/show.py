"""Show the first-batch loss of every run below a path.

Examples::

  tb-firstloss show runs
  tb-firstloss show runs --run 'demo/*' --json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tb_firstloss.cli.arguments import (
    add_json,
    add_paths,
    add_quiet,
    add_selection,
)
from tb_firstloss.cli.output import Cell, histogram_line, print_json, print_table
from tb_firstloss.cli.recordings import read_recordings

if TYPE_CHECKING:
    from tb_firstloss.first_batch import FirstBatch

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
    rows = [row for first in found for row in _rows(first)]
    expected = any(row[_EXPECTED] for row in rows)
    keep = [i for i in range(len(_HEADERS)) if expected or i != _EXPECTED]
    table = [
        [Cell(row[i], "red" if i == _NONFINITE and row[i] not in ("", "0") else "") for i in keep]
        for row in rows
    ]
    print_table([_HEADERS[i] for i in keep], table)


def _rows(first: FirstBatch) -> Iterator[list[str]]:
    loss = "" if first.loss is None else _number(first.loss) if first.loss.ndim == 0 else "tensor"
    expected = first.metadata.get("expected_loss")
    known = isinstance(expected, (int, float))
    head = [str(first.step), loss, f"{expected:.6g}" if known else ""]
    if not first.outputs:
        yield [first.run, *head, "", "", "", "", "", ""]
    for name, output in first.outputs.items():
        s = output.statistics
        label = first.run if len(first.outputs) == 1 else f"{first.run}: {name}"
        numbers = [f"{value:.6g}" for value in (s.min, s.mean, s.max)]
        picture = "" if output.per_example is None else histogram_line(output.per_example)
        yield [label, *head, str(s.count), *numbers, str(s.nonfinite_count), picture]


def _number(value: Any) -> str:
    return f"{float(value):.6g}"


def to_json(first: FirstBatch) -> dict[str, Any]:
    """Returns a recording as JSON holds it, but for NaN and infinities."""
    return {
        "run": first.run,
        "step": first.step,
        "wall_time": first.wall_time,
        "loss": None if first.loss is None else first.loss.astype("float64").tolist(),
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
