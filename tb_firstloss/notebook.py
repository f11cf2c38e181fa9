"""A first batch as HTML with inline SVG, for notebooks: a small table with its histogram."""

from __future__ import annotations

import html
from collections.abc import Iterator

from tb_firstloss.arrays import Array, bar_heights, finite_values
from tb_firstloss.loss_table import LossTable, OutputRow

_WIDTH, _HEIGHT = 180, 32  # pixels
_HEADINGS = ("", "count", "mean", "std", "min", "max", "non-finite", "")


def to_html(table: LossTable) -> str:
    """Returns the HTML that a notebook shows of a first batch, with every name escaped."""
    losses = "".join(
        f" · {html.escape(loss.name)} <b>{html.escape(loss.text)}</b>" for loss in table.losses
    )
    title = (
        f"<b>{html.escape(table.run)}</b> · step {table.step}{losses} · digest "
        f"<code>{html.escape(table.digest[:12])}…</code>"
    )
    if not table.outputs:
        return f"<div>{title}</div>"
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(output))}</tr>"
        for output in table.outputs
    )
    return f"<div>{title}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _cells(output: OutputRow) -> Iterator[str]:
    s = output.statistics
    yield f"{html.escape(output.name)} <small>{html.escape(output.kind)}</small>"
    yield str(s.count)
    for value in (s.mean, s.std, s.min, s.max):
        yield f"{value:.6g}"
    yield str(s.nonfinite_count)
    yield "" if output.values is None else _to_svg(output.values)


def _to_svg(values: Array) -> str:
    """Draws a histogram of the finite values as SVG; empty without any."""
    heights = bar_heights(values)
    if not heights:
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
