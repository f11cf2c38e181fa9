"""Compare first losses with a baseline, value by value.

Exit code 1 if one is different. Without tolerances, every value must be equal.

Examples::

  tb-firstloss compare runs/before runs/after
  tb-firstloss compare runs/before runs/after/* --rtol 1e-6
"""

import argparse
import dataclasses
from typing import Any

from tb_firstloss.cli.arguments import add_shared, add_tolerances
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import paint, print_json, print_table, printable
from tb_firstloss.cli.progress import track
from tb_firstloss.cli.recordings import pass_over_empty, read_path, read_recordings
from tb_firstloss.comparison import Comparison, compare
from tb_firstloss.errors import SeveralRecordingsError, some_of
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.loss_table import COMPARED_COLUMNS

_COLOURS = {"identical": "green", "within tolerance": "green", "different": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "baseline", metavar="BASELINE", help="event file, run directory, or logdir of one recording"
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="what to compare with it; every run below it"
    )
    add_tolerances(parser, rtol=0.0)
    add_shared(parser, "--run", "--json", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Prints a comparison per run."""
    baseline = _read_baseline(options.baseline, quiet=options.quiet)
    others = pass_over_empty(read_recordings(options, with_paths=True))
    tracked = track(others, "Comparing", len(others), quiet=options.quiet)
    found = [compare(baseline, other, rtol=options.rtol, atol=options.atol) for other in tracked]
    if options.json:
        print_json([dataclasses.asdict(comparison) for comparison in found])
    else:
        for number, comparison in enumerate(found):
            if number:
                print()
            _print(comparison)
    return 0 if all(comparison.ok for comparison in found) else FINDING


def _read_baseline(path: str, *, quiet: bool) -> FirstBatch:
    found = pass_over_empty(read_path(path, None, quiet=quiet))
    if len(found) > 1:
        names = some_of([first.run for first in found])
        raise SeveralRecordingsError(
            f"{path}: {len(found)} recordings ({names}); give one of them as the baseline",
            path=path,
        )
    return dataclasses.replace(found[0], run=path)


def _print(comparison: Comparison) -> None:
    agreement = paint(comparison.agreement, _COLOURS[comparison.agreement])
    print(f"{printable(comparison.run)}: {agreement}, baseline {printable(comparison.baseline)}")
    if comparison.agreement == "identical":
        return
    print()
    print_table(list(COMPARED_COLUMNS), comparison.rows(), left=[1])
    print()
    hint = ""
    if comparison.unknown:
        names = " and ".join(comparison.unknown)
        hint = f" (record with fingerprint=True to find out: no fingerprint of the {names})"
    print(f"Where it comes from: {paint(comparison.cause, 'bold')}{hint}")
    for name, (before, after) in comparison.differences.items():
        print(f"Also different: {printable(name)}: {_short(before)} → {_short(after)}")


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    if len(text) == 64 and text.isalnum():  # a digest
        return f"{text[:12]}…"
    return printable(text)
