"""Check first losses against what they should be.

Exit code 1 when one is not as expected: high, low, non-finite, or constant.

Examples::

  tb-firstloss check runs --expect 'log(10)'
  tb-firstloss check runs/demo --rtol 0.02
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from tb_firstloss.cli.arguments import (
    add_json,
    add_paths,
    add_quiet,
    add_selection,
    add_tolerances,
)
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import Cell, Row, print_json, print_table, printable
from tb_firstloss.cli.recordings import read_recordings

if TYPE_CHECKING:
    from tb_firstloss.checks import Verdict
    from tb_firstloss.first_batch import FirstBatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_paths(parser)
    parser.add_argument(
        "--expect",
        metavar="LOSS",
        help="a number or an expression such as 'log(10)' (default: what was expected in training)",
    )
    add_tolerances(parser, rtol=0.1)
    add_selection(parser, tags=False)
    add_json(parser)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a verdict per run."""
    from tb_firstloss import checks

    if options.expect is not None:
        checks.parse_expectation(options.expect)  # before anything is read
    found = read_recordings(options)
    verdicts = [
        checks.check(first, _expectation(first, options), rtol=options.rtol, atol=options.atol)
        for first in found
    ]
    if options.json:
        print_json(
            [
                {"run": first.run, **dataclasses.asdict(verdict)}
                for first, verdict in zip(found, verdicts, strict=True)
            ]
        )
    else:
        _print(found, verdicts)
    return 0 if all(verdict.ok for verdict in verdicts) else FINDING


def _expectation(first: FirstBatch, options: argparse.Namespace) -> float | str:
    expect: float | str | None = options.expect
    if expect is None:
        expect = first.metadata.get("expected_loss")
    if expect is None:
        raise ValueError(f"{first.run}: was recorded without an expectation; give --expect")
    return expect


def _print(found: list[FirstBatch], verdicts: list[Verdict]) -> None:
    rows: list[Row] = [
        [
            first.run,
            f"{verdict.value:.6g}",
            f"{verdict.expected:.6g}",
            Cell(verdict.kind, "green" if verdict.ok else "red"),
        ]
        for first, verdict in zip(found, verdicts, strict=True)
    ]
    print_table(["run", "loss", "expected", "verdict"], rows)
    for first, verdict in zip(found, verdicts, strict=True):
        if not verdict.ok:
            print(f"\n{printable(first.run)}: {verdict}")
