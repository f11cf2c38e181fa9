"""A first batch as a small table with its histogram, for notebooks: HTML and inline SVG."""

from __future__ import annotations

import html
from collections.abc import Iterator

from tb_firstloss.arrays import Array, bar_heights, describe, finite_values
from tb_firstloss.first_batch import FirstBatch, OutputLoss

_WIDTH, _HEIGHT = 180, 32  # pixels
_HEADINGS = ("", "count", "mean", "std", "min", "max", "non-finite", "")


def to_html(first: FirstBatch) -> str:
    """Returns the HTML that a notebook shows of a first batch; all names in it are escaped."""
    loss = "" if first.loss is None else f" · loss <b>{_loss(first.loss)}</b>"
    title = (
        f"<b>{html.escape(first.run)}</b> · step {first.step}{loss} · digest "
        f"<code>{html.escape(first.digest[:12])}…</code>"
    )
    if not first.outputs:
        return f"<div>{title}</div>"
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(name, output))}</tr>"
        for name, output in first.outputs.items()
    )
    return f"<div>{title}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _loss(loss: Array) -> str:
    return html.escape(f"{float(loss):.6g}" if loss.ndim == 0 else describe(loss))


def _cells(name: str, output: OutputLoss) -> Iterator[str]:
    s = output.statistics
    kind = "left out" if output.per_example is None else describe(output.per_example)
    yield f"{html.escape(name)} <small>{html.escape(kind)}</small>"
    yield str(s.count)
    for value in (s.mean, s.std, s.min, s.max):
        yield f"{value:.6g}"
    yield str(s.nonfinite_count)
    yield "" if output.per_example is None else to_svg(output.per_example)


def to_svg(values: Array) -> str:
    """Draws a histogram of the finite values as SVG; empty where there are none."""
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
