"""Tables, colours, small pictures and JSON for standard output.

Drawn by hand: a table library takes longer to import than the recordings to read.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from tb_firstloss.text import printable as printable  # every command prints names by it
from tb_firstloss.text import width_of

if TYPE_CHECKING:
    from tb_firstloss.arrays import Array

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", ".:-=+*%#"
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "bold": "1"}
_GAP = "  "


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell in a colour: green, yellow, red or bold."""

    text: str
    colour: str = ""


Row = Sequence[str | Cell]


def print_table(headers: list[str], rows: Sequence[Row], *, left: Sequence[int] = ()) -> None:
    """Prints a table: first, last and the given columns aligned left, the others right.

    In a file or pipe it is never cut. Where a terminal is too narrow, a last column without a
    header is left out; if that is not enough, each row becomes a block with a line per cell.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    cells = [[Cell(printable(cell.text), cell.colour) for cell in row] for row in cells]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    columns = zip(headers, *([cell.text for cell in row] for row in cells), strict=True)
    widths = [max(map(width_of, column)) for column in columns]
    if limit is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > limit:
        if not headers[-1]:
            print_table(headers[:-1], [row[:-1] for row in cells], left=left)
        else:
            _print_records(headers, cells)
        return
    line = "─" if can_print("─") else "-"
    at_left = {0, len(headers) - 1, *left}
    print(_join([Cell(header, "bold") for header in headers], widths, at_left))
    print(line * (sum(widths) + len(_GAP) * (len(widths) - 1)))
    for row in cells:
        print(_join(row, widths, at_left))


def print_json(content: Any) -> None:
    """Prints JSON in ASCII; NaN and infinities, which JSON lacks, become text."""
    with contextlib.suppress(ImportError):  # doctor runs without NumPy, and prints no numbers
        from tb_firstloss.arrays import finite_json

        content = finite_json(content)
    print(json.dumps(content, indent=2, allow_nan=False))


def say(message: object) -> None:
    """Prints a message on stderr as one line that steers no terminal."""
    print(f"tb-firstloss: {printable(str(message))}", file=sys.stderr)


def paint(text: str, colour: str) -> str:
    """Returns text in a colour, if standard output shows colours."""
    if not colour or not shows_escapes(sys.stdout) or "NO_COLOR" in os.environ:
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def shows_escapes(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def histogram_line(values: "Array", bins: int = 12) -> str:
    """Draws the finite values as one line of bars; empty without any."""
    from tb_firstloss.arrays import bar_heights

    shades = _BLOCKS if can_print(_BLOCKS) else _ASCII
    tops = (math.ceil(height * (len(shades) - 1)) for height in bar_heights(values, bins))
    return "".join(shades[top] if top else " " for top in tops)


def can_print(text: str, stream: TextIO | None = None) -> bool:
    """Returns whether a stream's encoding has these characters; None for standard output."""
    try:
        text.encode((stream or sys.stdout).encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _print_records(headers: list[str], rows: list[list[Cell]]) -> None:
    width = max(map(width_of, headers))
    for number, row in enumerate(rows):
        if number:
            print()
        for header, cell in zip(headers, row, strict=True):
            if cell.text:
                print(_join([Cell(header, "bold"), cell], [width, 0], {0, 1}))


def _join(row: list[Cell], widths: list[int], at_left: set[int]) -> str:
    parts = []
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        fill = " " * (width - width_of(cell.text))
        text = paint(cell.text, cell.colour)
        parts.append(text + fill if index in at_left else fill + text)
    return _GAP.join(parts).rstrip()
