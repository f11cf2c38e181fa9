"""Tables and small pictures for the terminal."""

from __future__ import annotations

import shutil
import sys

import numpy as np

from tb_firstloss.first_batch import Array, finite_values

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", ".:-=+*%#"


def print_table(headers: list[str], rows: list[list[str]]) -> None:
    """Prints a table: to a terminal as wide as it is, to a file or pipe never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else max(shutil.get_terminal_size().columns, 400)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, header in enumerate(headers):
        left = index in (0, len(headers) - 1)
        table.add_column(
            header, justify="left" if left else "right", overflow="fold", no_wrap=index > 0
        )
    for row in rows:
        table.add_row(*row)
    # Only text is passed, no markup: a run may be called [red].
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def histogram_line(values: Array, bins: int = 12) -> str:
    """Draws the finite values as one line of bars; empty without any."""
    finite = finite_values(values)
    if not finite.size:
        return ""
    counts, _ = np.histogram(finite, bins=bins)
    shades = _BLOCKS if _can_print(_BLOCKS) else _ASCII
    top = len(shades) - 1
    return "".join(
        " " if count == 0 else shades[int(np.ceil(count / counts.max() * top))] for count in counts
    )


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
