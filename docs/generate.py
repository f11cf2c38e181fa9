"""Writes what pages take from elsewhere: each command's --help, and the figures of benchmarks.json.

    python docs/generate.py

A page marks the place with ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

import contextlib
import io
import json
import os
import re
from pathlib import Path

from tb_firstloss.cli.main import COMMANDS, main

DOCS = Path(__file__).parent


def help_of(command):
    """Returns what a command prints for --help, wrapped at 100 columns."""
    os.environ["COLUMNS"] = "100"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue().strip()


def render_help():
    """Returns a section per command."""
    return "\n\n".join(
        f"### tb-firstloss {command}\n\n```text\n{help_of(command)}\n```" for command in COMMANDS
    )


def render_table(figures):
    """Returns a Markdown table of the columns and rows, with the machine they were taken on."""
    head, *rows = figures["columns"], *figures["rows"]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([*lines, "", f"*{figures['command']}: {figures['machine']}*"])


def generate(page):
    """Returns the page with every generated part written anew."""
    benchmarks = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))

    def render(match):
        text = render_help() if match[1] == "help" else render_table(benchmarks[match[1]])
        return f"<!-- generated: {match[1]} -->\n\n{text}\n\n<!-- end -->"

    pattern = r"<!-- generated: ([\w-]+) -->\n.*?<!-- end -->"
    return re.sub(pattern, render, page, flags=re.DOTALL)


if __name__ == "__main__":
    for path in DOCS.glob("*.md"):
        path.write_text(generate(path.read_text(encoding="utf-8")), encoding="utf-8")
