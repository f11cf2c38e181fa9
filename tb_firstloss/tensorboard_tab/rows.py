"""A first batch, and the comparison of two, as the JSON that the page shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tb_firstloss.arrays import Array, describe, finite_json, finite_values
from tb_firstloss.first_batch import FirstBatch, OutputLoss

MAX_POINTS = 256
"""Up to this many values are sent as they are, rounded to six digits; more, as as many bins."""

LARGEST_COUNT = 10


def to_row(first: FirstBatch) -> dict[str, Any]:
    """Returns what the page shows of a recording."""
    return {
        "run": first.run,
        "step": first.step,
        "wall_time": _number(first.wall_time),
        "loss": None if first.loss is None or first.loss.ndim else _number(first.loss),
        "loss_kind": None if first.loss is None else describe(first.loss),
        "expected": _number_or_none(first.metadata.get("expected_loss")),
        "digest": first.digest,
        "outputs": [_to_output(name, output) for name, output in first.outputs.items()],
    }


def compare(
    one: tuple[FirstBatch, str | None], other: tuple[FirstBatch, str | None]
) -> dict[str, Any]:
    """Compares two recordings, and the per-example values of one output of each.

    Args:
        one: A recording, and the name of an output or None.
        other: The same.

    Returns:
        ``digests_agree``, ``loss_difference`` (other minus one, or None), and ``values``: None
        without outputs, a ``reason`` where values cannot be compared one by one, else ``count``,
        ``equal`` (how many agree bit for bit) and ``largest``: the index, both values and their
        difference where that is largest, or None if all are equal.
    """
    (a, a_name), (b, b_name) = one, other
    both = a.loss is not None and b.loss is not None and a.loss.shape == b.loss.shape == ()
    return {
        "digests_agree": a.digest == b.digest,
        "loss_difference": _number(float(b.loss) - float(a.loss)) if both else None,  # type: ignore[arg-type]
        "values": _compare_values(a.outputs.get(a_name or ""), b.outputs.get(b_name or "")),
    }


def _compare_values(a: OutputLoss | None, b: OutputLoss | None) -> dict[str, Any] | None:
    if a is None or b is None:
        return None
    if a.per_example is None or b.per_example is None:
        return {"reason": "too large to be compared here; tb_firstloss.compare can"}
    if a.per_example.shape != b.per_example.shape or not _same_splits(a, b):
        return {"reason": f"{describe(a.per_example)} and {describe(b.per_example)}"}
    equal = _equal_bits(a.per_example, b.per_example)
    return {
        "count": int(equal.size),
        "equal": int(equal.sum()),
        "largest": None if equal.all() else _largest_difference(a, b, equal),
    }


def _largest_difference(a: OutputLoss, b: OutputLoss, equal: Array) -> dict[str, Any]:
    assert a.per_example is not None
    assert b.per_example is not None
    one, other = _wide(a.per_example), _wide(b.per_example)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = other - one
    # NaN against a number is the largest difference that there is; what is equal is none.
    size = np.where(equal, -1.0, np.nan_to_num(np.abs(difference), nan=math.inf, posinf=math.inf))
    at = int(np.argmax(size))
    return {
        "index": index_of(at, a),
        "a": _number(one[at]),
        "b": _number(other[at]),
        "difference": _number(difference[at]),
    }


def _same_splits(a: OutputLoss, b: OutputLoss) -> bool:
    return len(a.row_splits) == len(b.row_splits) and all(
        np.array_equal(x, y) for x, y in zip(a.row_splits, b.row_splits, strict=True)
    )


def _equal_bits(a: Array, b: Array) -> Array:
    """Returns, flat, which elements are the same bit for bit; across dtypes, the same number."""
    if a.dtype != b.dtype:
        same: Array = _wide(a) == _wide(b)
        return same
    bits = np.dtype(f"u{a.dtype.itemsize}") if a.dtype.itemsize <= 8 else a.dtype
    equal: Array = a.ravel().view(bits) == b.ravel().view(bits)
    return equal


def _to_output(name: str, output: OutputLoss) -> dict[str, Any]:
    s = output.statistics
    row: dict[str, Any] = {
        "name": name,
        "count": s.count,
        "mean": _number(s.mean),
        "std": _number(s.std),
        "min": _number(s.min),
        "max": _number(s.max),
        "nonfinite_count": s.nonfinite_count,
    }
    if output.per_example is None:
        return row
    values, counts = to_points(finite_values(output.per_example))
    return {
        **row,
        "kind": describe(output.per_example) + (", ragged" if output.row_splits else ""),
        "values": values,
        "counts": counts,
        "largest": [
            {"index": index_of(at, output), "value": _number(_wide(output.per_example)[at])}
            for at in find_largest(output.per_example)
        ],
    }


def to_points(finite: Array) -> tuple[list[float], list[int] | None]:
    """Returns values, and how many each stands for (None: one), for a histogram on any axis.

    Args:
        finite: Finite values, [count] float64.
    """
    if finite.size <= MAX_POINTS:
        return [_rounded(value) for value in np.sort(finite)], None
    distinct, counts = np.unique(finite, return_counts=True)
    if distinct.size <= MAX_POINTS:
        return [_rounded(value) for value in distinct], counts.tolist()
    counts, edges = np.histogram(finite / 4, bins=MAX_POINTS)  # the range never overflows
    centers = 2 * (edges[:-1] + edges[1:])
    filled = counts > 0
    return [_rounded(value) for value in centers[filled]], counts[filled].tolist()


def find_largest(values: Array) -> list[int]:
    """Returns the flat positions of the largest values: non-finite first, then descending."""
    wide = _wide(values)
    ranks = np.where(np.isfinite(wide), wide, math.inf)
    count = min(LARGEST_COUNT, ranks.size)
    if not count:
        return []
    threshold = np.partition(ranks, ranks.size - count)[ranks.size - count]
    candidates = np.flatnonzero(ranks >= threshold)
    order = np.argsort(-ranks[candidates], kind="stable")[:count]
    return [int(at) for at in candidates[order]]


def index_of(flat: int, output: OutputLoss) -> list[int]:
    """Returns the index of a flat position: of the example first, then within it."""
    assert output.per_example is not None
    path = [int(i) for i in np.unravel_index(flat, output.per_example.shape)]
    for splits in reversed(output.row_splits):
        row = int(np.searchsorted(splits, path[0], side="right")) - 1
        path = [row, path[0] - int(splits[row]), *path[1:]]
    return path


def _wide(values: Array) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN is no error here
        return values.astype(np.float64).ravel()


def _rounded(value: float) -> float:
    rounded = float(f"{value:.6g}")
    return rounded if math.isfinite(rounded) else float(value)


def _number(value: Any) -> float | str:
    number: float | str = finite_json(float(value))
    return number


def _number_or_none(value: Any) -> float | str | None:
    return _number(value) if isinstance(value, (int, float)) else None
