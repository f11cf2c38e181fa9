"""Show the first-batch loss of every run below a path.

Examples::

  tb-firstloss show runs
  tb-firstloss show runs --run 'demo/*' --json
"""

import argparse
from typing import Any

from tb_firstloss.cli.arguments import add_shared
from tb_firstloss.cli.output import Cell, histogram_line, print_json, print_table
from tb_firstloss.cli.progress import track
from tb_firstloss.cli.recordings import read_recordings
from tb_firstloss.first_batch import FirstBatch, tabulate
from tb_firstloss.loss_table import Row

_COLUMNS = ["loss", "expected", "count", "min", "mean", "max", "non-finite"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_shared(parser, "paths", "--run", "--json", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Prints a row per loss and output of each run."""
    found = read_recordings(options)
    if options.json:
        print_json([to_json(first) for first in found])
    else:
        print_losses(found, quiet=options.quiet)
    return 0


def print_losses(found: list[FirstBatch], *, quiet: bool = False) -> None:
    """Prints a table with the rows of each run."""
    rows = [
        (table.label(row), str(table.step), row.texts(), _picture(row))
        for table in track(map(tabulate, found), "Drawing", len(found), quiet=quiet)
        for row in table.rows
    ]
    expected = any(texts["expected"] for _, _, texts, _ in rows)
    columns = [name for name in _COLUMNS if expected or name != "expected"]
    cells: list[list[str | Cell]] = [
        [label, step, *(_cell(name, texts[name]) for name in columns), picture]
        for label, step, texts, picture in rows
    ]
    print_table(["run", "step", *columns, ""], cells)


def _cell(column: str, text: str) -> Cell:
    return Cell(text, "red" if column == "non-finite" and text not in ("", "0") else "")


def _picture(row: Row) -> str:
    values = None if row.output is None else row.output.values
    return "" if values is None else histogram_line(values)


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
