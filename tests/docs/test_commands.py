"""The README's command reference quotes each command's --help."""

import re
from pathlib import Path

import pytest

from tb_firstloss.cli.main import COMMANDS, main

README = Path(__file__).parents[2] / "README.md"


def words_of(text):
    """Returns the text in one line: Python versions wrap it differently."""
    return " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_has_each_commands_usage_and_options(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    usage = words_of(text.partition("\n\n")[0].removeprefix("usage: "))
    readme = words_of(README.read_text())
    assert usage in readme, f"README.md: paste tb-firstloss {command} --help again"
    section = readme.partition(usage)[2].partition("```")[0]
    for line in text.splitlines():
        described = re.match(r"  (?:-\w(?: \w+)?, )?(--\w[\w-]*|[A-Z]+)\b.*?(?:  (\S.*))?$", line)
        if described and described[1] != "--help":
            assert described[1] in section
            assert words_of(described[2] or "") in section


def test_the_readme_names_every_command():
    readme = README.read_text()
    assert not [name for name in COMMANDS if f"`tb-firstloss {name}`" not in readme]
