"""Read everything below a path and list the damage.

Checks every checksum, every tensor and the digests of every recording. Exit code 1 when
something is damaged, other than a file's last record that a killed run has cut short.

Examples::

  tb-firstloss verify runs
  tb-firstloss verify runs --json
"""

import argparse
import dataclasses
from typing import Any

from tb_firstloss.cli.arguments import add_shared, note
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import print_json, printable
from tb_firstloss.cli.progress import bar
from tb_firstloss.reading.logdir import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_shared(parser, "paths", "--json", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Prints a line per damage."""
    with bar("Verifying", quiet=options.quiet):
        found = [line for path in options.paths for line in _verify(path)]
    if options.json:
        print_json(found)
    else:
        for line in found:
            print(printable(line["message"]))
    if not found:
        note(options, f"{', '.join(options.paths)}: everything is intact")
    return FINDING if not all(line.get("is_cut") for line in found) else 0


def _verify(path: str) -> list[dict[str, Any]]:
    return [
        {**dataclasses.asdict(dataclasses.replace(damage, cause=None)), "message": str(damage)}
        for damage in verify(path)
    ]
