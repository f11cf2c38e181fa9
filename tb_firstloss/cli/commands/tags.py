"""List every tag of every run below a path.

Examples::

  tb-firstloss tags runs
  tb-firstloss tags runs --run 'demo/*' --tag '*loss*'
"""

import argparse
import dataclasses
from collections.abc import Iterable

from tb_firstloss.arrays import describe
from tb_firstloss.cli.arguments import add_shared, name_of, note
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import print_json, print_table
from tb_firstloss.cli.progress import bar
from tb_firstloss.errors import some_of
from tb_firstloss.reading.damage import reporter
from tb_firstloss.reading.logdir import iter_selected
from tb_firstloss.reading.selection import Selection


@dataclasses.dataclass
class Tag:
    """A row of the table: one tag of one run, with the first few kinds of content it holds."""

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
    contents: dict[tuple[str, str], dict[str, None]] = {}
    with bar("Reading", quiet=options.quiet):
        selection = Selection.of(options.runs, options.tags, None, views=True)
        for datum in iter_selected(path, selection, reporter("warn")):
            key, step = (datum.run, datum.tag), datum.step
            tag = found.get(key)
            if tag is None:
                run = name_of(options, path, datum.run)
                tag = Tag(run, datum.tag, datum.plugin_name, "", 0, step, step)
                found[key], contents[key] = tag, {}
            contents[key][describe(datum.value)] = None
            tag.count += 1
            tag.first_step = min(tag.first_step, step)
            tag.last_step = max(tag.last_step, step)
    for key, tag in found.items():
        tag.content = some_of(list(contents[key]))
    return found.values()


def _row(tag: Tag) -> list[str]:
    steps = str(tag.first_step)
    if tag.last_step != tag.first_step:
        steps += f" to {tag.last_step}"
    return [tag.run, tag.plugin, str(tag.count), steps, tag.content, tag.tag]
