"""Find what keeps capturing, reading or showing from working, and say how to fix it.

Starts TensorFlow and TensorBoard once. Exit code 1 when there is a problem.

Examples::

  tb-firstloss doctor
  tb-firstloss doctor /data/runs --json
"""

import argparse
import dataclasses

from tb_firstloss.cli.arguments import add_place, add_shared
from tb_firstloss.cli.examine import machine, packages
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import Cell, Row, print_json, print_table, printable
from tb_firstloss.cli.progress import bar

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_place(parser, "logdir", "where recordings would go; it is not created")
    add_shared(parser, "--json", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Prints a line per finding, with the remedies below."""
    with bar("Starting TensorFlow and TensorBoard", quiet=options.quiet):
        found = [*packages.examine_packages(), *filter(None, [machine.examine_profiling()])]
        found += machine.examine_logdir(options.logdir)
    if options.json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        _print([finding for finding in found if finding.level != "ok" or not options.quiet])
    return FINDING if any(finding.level == "problem" for finding in found) else 0


def _print(found: list[machine.Finding]) -> None:
    if not found:
        return
    rows: list[Row] = [
        [Cell(finding.level, _COLOURS[finding.level]), finding.subject, finding.found]
        for finding in found
    ]
    print_table(["", "subject", "found"], rows, left=[1])
    for finding in found:
        if finding.remedy:
            print(f"\n{finding.level} with {finding.subject}: {printable(finding.remedy)}")
