"""Show the first-batch loss of every run below a path.

Examples::

  tb-firstloss show runs
  tb-firstloss show runs/demo/first_batch --json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any

from tb_firstloss.cli.terminal import histogram_line, print_table
from tb_firstloss.first_batch import FirstBatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "paths",
        nargs="*",
        default=["runs"],
        metavar="PATH",
        help="logdir, run directory or event file (default: runs)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON list instead of a table"
    )


def run(options: argparse.Namespace) -> int:
    """Prints a row per run and output."""
    found = [first for path in options.paths for first in read(path)]
    if options.json:
        print(json.dumps([to_json(first) for first in found], indent=2))
    elif found:
        print_losses(found)
    return 0


def read(path: str) -> list[FirstBatch]:
    """Reads every recording at a path: one for a file, all of them for a directory.

    Raises:
        NoRecordingError: There is none.
    """
    from pathlib import Path

    from tb_firstloss.errors import NoRecordingError
    from tb_firstloss.reading.recordings import read_first_loss, read_first_losses

    if Path(path).is_file():
        return [read_first_loss(path)]
    found = read_first_losses(path)
    if not found:
        raise NoRecordingError(
            f"{path}: no intact first-batch recording below it; is it the logdir that was given to "
            "FirstLoss or FirstLossCallback?",
            path=path,
        )
    return list(found.values())


def print_losses(found: list[FirstBatch]) -> None:
    """Prints a table with a row per run and output."""
    rows = [row for first in found for row in _rows(first)]
    headers = ["run", "step", "loss", "expected", "count", "min", "mean", "max", "non-finite", ""]
    expected = any(row[3] for row in rows)
    keep = [i for i in range(len(headers)) if expected or i != 3]
    print_table([headers[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _rows(first: FirstBatch) -> Iterator[list[str]]:
    loss = "" if first.loss is None else _number(first.loss) if first.loss.ndim == 0 else "tensor"
    expected = first.metadata.get("expected_loss")
    head = [str(first.step), loss, "" if expected is None else f"{expected:.6g}"]
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
    """Returns a recording as JSON holds it; NaN and infinities become text."""
    return {
        "run": first.run,
        "step": first.step,
        "wall_time": first.wall_time,
        "loss": None if first.loss is None else _finite(first.loss.astype("float64").tolist()),
        "outputs": {
            name: {
                "dtype": None if output.per_example is None else output.per_example.dtype.name,
                "shape": None if output.per_example is None else list(output.per_example.shape),
                **{key: _finite(value) for key, value in vars(output.statistics).items()},
            }
            for name, output in first.outputs.items()
        },
        "digest": first.digest,
        "metadata": dict(first.metadata),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
