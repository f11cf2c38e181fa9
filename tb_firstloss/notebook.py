"""First batches as HTML with inline SVG, for notebooks: small tables with histograms."""

import html
from collections.abc import Iterable

from tb_firstloss.arrays import bar_heights, finite_values
from tb_firstloss.loss_table import COLUMNS, LossTable, Row

_WIDTH, _HEIGHT = 180, 32  # pixels


def to_html(table: LossTable) -> str:
    """Returns the HTML that a notebook shows of a first batch, with every name escaped."""
    title = (
        f"<b>{html.escape(table.run)}</b> · step {table.step} · digest "
        f"<code>{html.escape(table.digest[:12])}…</code>"
    )
    return f"<div>{title}{rows_to_html((row.name, row) for row in table.rows)}</div>"


def rows_to_html(labelled: Iterable[tuple[str, Row]]) -> str:
    """Returns an HTML table of rows, each with its label; columns that all lack are left out."""
    rows = [(label, row, row.texts()) for label, row in labelled]
    columns = [name for name in COLUMNS if name == "loss" or any(t[name] for _, _, t in rows)]
    head = "".join(f"<th>{heading}</th>" for heading in ("", *columns, ""))
    body = "".join(
        f"<tr><td>{html.escape(label)} <small>{html.escape(row.kind)}</small></td>"
        + "".join(f"<td>{texts[name]}</td>" for name in columns)
        + f"<td>{_picture(row)}</td></tr>"
        for label, row, texts in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _picture(row: Row) -> str:
    """Draws a histogram of the finite values as SVG; empty without any."""
    values = None if row.output is None else row.output.values
    if values is None or not (heights := bar_heights(values)):
        return ""
    step = _WIDTH / len(heights)
    bars = "".join(
        f"M{i * step:.1f} {_HEIGHT}v{-height * _HEIGHT:.1f}h{step - 0.5:.1f}V{_HEIGHT}z"
        for i, height in enumerate(heights)
        if height
    )
    finite = finite_values(values)
    label = f"{finite.size} values from {finite.min():.6g} to {finite.max():.6g}"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">'
        f'<title>{label}</title><path d="{bars}" fill="#f57c00"/></svg>'
    )
