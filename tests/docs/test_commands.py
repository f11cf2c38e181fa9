"""docs/cli.md has each command's --help, and generated parts are up to date."""

import re
import runpy

import pytest

from tb_firstloss.cli.main import COMMANDS, main
from tests.docs.pages import REPOSITORY

CLI = (REPOSITORY / "docs/cli.md").read_text(encoding="utf-8")


def words_of(text):
    """Returns the text in one line: Python versions wrap it differently."""
    return " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_each_commands_usage_and_options(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    page = words_of(CLI)
    usage = words_of(text.partition("\n\n")[0])
    assert usage in page, "docs/cli.md: run python docs/generate.py"
    section = page.partition(usage)[2].partition("```")[0]
    for line in text.splitlines():
        described = re.match(r"  (?:-\w(?: \w+)?, )?(--\w[\w-]*|[A-Z]+)\b.*?(?:  (\S.*))?$", line)
        if described and described[1] != "--help":
            assert described[1] in section
            assert words_of(described[2] or "") in section


def test_the_page_names_every_command():
    assert not [name for name in COMMANDS if f"`tb-firstloss {name}`" not in CLI]


@pytest.mark.parametrize("name", ["benchmarks", "guarantees"])
def test_pages_show_the_figures_that_the_benchmarks_gave(name):
    page = (REPOSITORY / f"docs/{name}.md").read_text(encoding="utf-8")
    generate = runpy.run_path(str(REPOSITORY / "docs/generate.py"))["generate"]
    assert generate(page) == page, f"docs/{name}.md: run python docs/generate.py"


def test_the_readmes_figures_are_those_of_the_manual():
    manual = "".join(
        (REPOSITORY / f"docs/{name}.md").read_text(encoding="utf-8")
        for name in ("benchmarks", "guarantees")
    )
    section = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("can rely on")[2]
    figures = re.findall(r"\d[\d.,]*\d|\d", section.partition("\n## ")[0])
    assert len(figures) > 10
    assert [figure for figure in figures if figure not in manual] == []
