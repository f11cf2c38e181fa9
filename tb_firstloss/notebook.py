"""First batches and tables as HTML with inline SVG, for notebooks; every text is escaped."""

import html
import math
from collections.abc import Iterable, Sequence

from tb_firstloss.arrays import Array, bar_heights, finite_values
from tb_firstloss.loss_table import COLUMNS, LossTable, Row
from tb_firstloss.text import printable

_WIDTH, _HEIGHT, _AXIS = 180, 32, 12  # pixels


def to_html(table: LossTable) -> str:
    """Returns the HTML that a notebook shows of a first batch."""
    title = (
        f"<b>{_escape(table.run)}</b> · step {_escape(table.step)} · digest "
        f"<code>{_escape(table.digest[:12])}…</code>"
    )
    return f"<div>{title}{rows_to_html((row.name, row) for row in table.rows)}</div>"


def rows_to_html(labelled: Iterable[tuple[str, Row]]) -> str:
    """Returns an HTML table of rows, each with its label; columns that all lack are left out."""
    rows = [(label, row, row.texts()) for label, row in labelled]
    columns = [name for name in COLUMNS if name == "loss" or any(t[name] for _, _, t in rows)]
    body = (
        [
            f"{_escape(label)} <small>{_escape(row.kind)}</small>",
            *(_escape(texts[name]) for name in columns),
            "" if row.output is None else picture(row.output.values, label, row.expected),
        ]
        for label, row, texts in rows
    )
    return _table(["", *columns, ""], body)


def table_to_html(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str, note: str = ""
) -> str:
    """Returns a title, a table of plain values and a note below it as HTML."""
    body = _table(columns, (map(_escape, row) for row in rows))
    return f"<div><b>{_escape(title)}</b>{body}{_escape(note)}</div>"


def _escape(value: object) -> str:
    """Returns a value's text as HTML that shows it and does nothing else."""
    return html.escape(printable(str(value)))


def picture(values: Array | None, name: str, expected: float | None = None) -> str:
    """Draws a histogram of the finite values as SVG, and what was expected; empty without any."""
    if values is None or not (heights := bar_heights(values)):
        return ""
    finite = finite_values(values)
    low, high = float(finite.min()), float(finite.max())
    label = f"{name}: {finite.size} values from {low:.6g} to {high:.6g}"
    ends, line = (low, high), ""
    if expected is not None and math.isfinite(expected):
        ends = min(low, expected), max(high, expected)
        label += f", expected {expected:.6g}"
        at = _place(expected, *ends)
        line = f'<line x1="{at:.1f}" x2="{at:.1f}" y2="{_HEIGHT}" stroke="#1976d2"/>'
    left, right = _place(low, *ends), _place(high, *ends)
    if low == high:
        heights, left, right = [1.0], left - 2, left + 2
    step = (right - left) / len(heights)
    bars = "".join(
        f"M{left + i * step:.1f} {_HEIGHT}v{-height * _HEIGHT:.1f}h{step * 0.9:.2f}V{_HEIGHT}z"
        for i, height in enumerate(heights)
        if height
    )
    texts = "".join(
        f'<text x="{x}" y="{_HEIGHT + 10}" font-size="9" text-anchor="{anchor}" '
        f'fill="currentColor">{end:.4g}</text>'
        for x, anchor, end in ((0, "start", ends[0]), (_WIDTH, "end", ends[1]))
    )
    label = _escape(label)
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT + _AXIS}" role="img" aria-label="{label}">'
        f'<title>{label}</title><path d="{bars}" fill="#f57c00"/>{line}{texts}</svg>'
    )


def _place(value: float, low: float, high: float) -> float:
    """Returns where a value is on the axis, in pixels."""
    if low == high:
        return _WIDTH / 2
    half = 0.5 if math.isinf(high - low) else 1.0
    return _WIDTH * ((value * half - low * half) / (high * half - low * half))


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{_escape(heading)}</th>" for heading in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
