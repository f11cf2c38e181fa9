"""List every tag of every run below a path.

Examples::

  tb-firstloss tags runs
  tb-firstloss tags runs --run 'demo/*' --tag '*loss*'
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable

from tb_firstloss.arrays import describe
from tb_firstloss.cli.arguments import add_shared, name_below, note
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import print_json, print_table
from tb_firstloss.cli.progress import bar
from tb_firstloss.reading.logdir import iter_tensors
from tb_firstloss.reading.tensor_datum import TensorDatum


@dataclasses.dataclass
class Tag:
    """A row of the table: one tag of one run; different contents are joined by commas."""

    run: str
    tag: str
    plugin: str
    content: str
    count: int
    first_step: int
    last_step: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_shared(parser, "paths", "--run", "--tag", "--json", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Prints a row per run and tag."""
    found = [tag for path in options.paths for tag in _read(path, options)]
    if options.json:
        print_json([vars(tag) for tag in found])
    elif found:
        headers = ["run", "plugin", "values", "steps", "content", "tag"]
        print_table(headers, [_row(tag) for tag in found], left=[1, 4])
    if not found:
        note(options, f"{', '.join(options.paths)}: no values found")
    return 0 if found else FINDING


def _read(path: str, options: argparse.Namespace) -> Iterable[Tag]:
    found: dict[tuple[str, str], Tag] = {}
    with bar("Reading", quiet=options.quiet):
        for datum in iter_tensors(path, runs=options.runs, tags=options.tags):
            tag = found.get((datum.run, datum.tag))
            if tag is None:
                found[datum.run, datum.tag] = _begin(path, datum, several=len(options.paths) > 1)
            else:
                _count(tag, datum)
    return found.values()


def _begin(path: str, datum: TensorDatum, *, several: bool) -> Tag:
    return Tag(
        run=name_below(path, datum.run) if several else datum.run,
        tag=datum.tag,
        plugin=datum.plugin_name,
        content=describe(datum.value),
        count=1,
        first_step=datum.step,
        last_step=datum.step,
    )


def _count(tag: Tag, datum: TensorDatum) -> None:
    content = describe(datum.value)
    if content not in tag.content.split(", "):
        tag.content += f", {content}"
    tag.count += 1
    tag.first_step = min(tag.first_step, datum.step)
    tag.last_step = max(tag.last_step, datum.step)


def _row(tag: Tag) -> list[str]:
    steps = str(tag.first_step)
    if tag.last_step != tag.first_step:
        steps += f" to {tag.last_step}"
    return [tag.run, tag.plugin, str(tag.count), steps, tag.content, tag.tag]
