"""Check first losses against what they should be.

Exit code 1 if one is not as expected: high, low, non-finite, or constant.

Examples::

  tb-firstloss check runs --expect 'log(10)'
  tb-firstloss check runs/demo --rtol 0.02
"""

from __future__ import annotations

import argparse

from tb_firstloss.checks import Verdict, check, check_recorded, parse_expectation
from tb_firstloss.cli.arguments import add_json, add_paths, add_quiet, add_selection, add_tolerances
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import Cell, Row, print_json, print_table, printable
from tb_firstloss.cli.recordings import read_recordings
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
    if options.expect is not None:
        parse_expectation(options.expect)  # before anything is read
    verdicts = [(first.run, _judge(first, options)) for first in read_recordings(options)]
    if options.json:
        print_json([{"run": run, **vars(verdict)} for run, verdict in verdicts])
    else:
        _print(verdicts)
    return 0 if all(verdict.ok for _, verdict in verdicts) else FINDING


def _judge(first: FirstBatch, options: argparse.Namespace) -> Verdict:
    tolerances = {"rtol": options.rtol, "atol": options.atol}
    if options.expect is not None:
        return check(first, options.expect, **tolerances)
    verdict = check_recorded(first, **tolerances)
    if verdict is None:
        raise ValueError(f"{first.run}: was recorded without an expectation; give --expect")
    return verdict


def _print(verdicts: list[tuple[str, Verdict]]) -> None:
    rows: list[Row] = [
        [
            run,
            f"{verdict.value:.6g}",
            f"{verdict.expected:.6g}",
            Cell(verdict.kind, "green" if verdict.ok else "red"),
        ]
        for run, verdict in verdicts
    ]
    print_table(["run", "loss", "expected", "verdict"], rows)
    for run, verdict in verdicts:
        if not verdict.ok:
            print(f"\n{printable(run)}: {verdict}")
