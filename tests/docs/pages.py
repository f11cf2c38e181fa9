"""The pages of the manual, and their blocks of code.

A block begins anew, unless ``<!-- continues -->`` stands above it; one with a title is a script.
``<!-- rows vary -->`` excuses an output's last rows, ``<!-- needs a GPU -->`` all of it.
"""

import dataclasses
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
OTHERS = [REPOSITORY / name for name in ("CHANGELOG.md", "CONTRIBUTING.md")]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[\w ]+) -->\n\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of code: what it is, what stands above it, and its text."""

    language: str
    title: str
    note: str
    text: str


def blocks(page, language):
    """Returns a page's blocks of one language."""
    found = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        title = re.search(r'title="(.*)"', match["info"])
        name = match["info"].partition(" ")[0]
        found.append(Block(name, title[1] if title else "", match["note"] or "", match["text"]))
    return [block for block in found if block.language == language]


def programs(page):
    """Returns a page's Python but for its scripts: each block joined to those that continue it."""
    joined = []
    for block in blocks(page, "python"):
        if block.note == "continues":
            joined[-1] += "\n" + block.text
        elif not block.title:
            joined.append(block.text)
    return joined


def script(title):
    """Returns the script of a title; there is one in the manual."""
    (found,) = (b.text for page in PAGES for b in blocks(page, "python") if b.title == title)
    return found


def commands(block):
    """Yields each command of a console block with its expected output, "" for none shown."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def prose(page):
    """Returns a page's text without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
