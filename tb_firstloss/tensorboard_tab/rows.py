"""A first batch, and the comparison of two, as the JSON that the page shows."""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss import arrays
from tb_firstloss.checks import Verdict, check_recorded
from tb_firstloss.comparison import ValueComparison, compare_losses, compare_outputs
from tb_firstloss.first_batch import FirstBatch, OutputLoss, tabulate
from tb_firstloss.loss_table import OutputRow, Row

MAX_POINTS = 256
"""Most points to send, rounded to six digits; more distinct values become this many buckets."""

LARGEST_COUNT = 10


def to_json(first: FirstBatch) -> dict[str, Any]:
    """Returns what the page shows of a recording, and the verdict on each of its rows."""
    table, verdict = tabulate(first), None
    with contextlib.suppress(ValueError, TypeError):  # where `check` has none either
        verdict = check_recorded(first)
    facts = {
        "run": table.run,
        "step": table.step,
        "wall_time": first.wall_time,
        "digest": table.digest,
        "has_expectation": table.expectation is not None,
        "rows": [_to_row(row, _verdict_on(row, verdict)) for row in table.rows],
    }
    return dict(arrays.finite_json(facts))


def _to_row(row: Row, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "name": row.name,
        "names": row.names,
        "loss": None if row.loss is None else float(row.loss.value),
        "expected": row.expected if verdict is None else verdict.expected,
        "verdict": verdict and {"ok": verdict.ok, "kind": verdict.kind, "message": str(verdict)},
        "kind": row.kind,
        "output": None if row.output is None else _to_output(row.output),
    }


def compare(one: tuple[FirstBatch, str], other: tuple[FirstBatch, str]) -> dict[str, Any]:
    """Compares a row of one recording, the baseline, with a row of another, or of the same.

    Returns:
        ``digests_agree``, None where equal digests say nothing of these two rows; ``identical``,
        whether everything in the rows is, bit for bit; ``loss`` and ``values`` (per example): None
        unless both rows have them, a ``reason`` if they cannot be compared one by one, else their
        ``agreement``, ``count``, how many are ``equal`` bit for bit and how many
        ``equal_in_value``, and the ``largest`` difference: ``index``, ``baseline``, ``value`` and
        ``difference``, or None if there is none.

    Raises:
        ValueError: A recording has no such row.
    """
    (a, a_name), (b, b_name) = one, other
    (x, x_place), (y, y_place) = _find_row(a, a_name), _find_row(b, b_name)
    loss = values = None
    if x.loss is not None and y.loss is not None:
        loss = _to_comparison(compare_losses(x.loss.value, y.loss.value))
    if x.output is not None and y.output is not None:
        values = _compare_outputs(a.outputs[x.output.name], b.outputs[y.output.name])
    agree = a.digest == b.digest
    known = not agree or x_place == y_place
    alike = (x.loss is None, x.output is None) == (y.loss is None, y.output is None)
    found = {part.get("agreement") for part in (loss, values) if part is not None}
    answer = {
        "digests_agree": agree if known else None,
        "identical": (agree and known) or (alike and found == {"identical"}),
        "loss": loss,
        "values": values,
    }
    return dict(arrays.finite_json(answer))


def _find_row(first: FirstBatch, name: str) -> tuple[Row, list[bool]]:
    """Returns a row, and which of the recording's losses and outputs are in it."""
    table = tabulate(first)
    for row in table.rows:
        if row.name == name:
            return row, [p is row.loss or p is row.output for p in (*table.losses, *table.outputs)]
    raise ValueError(f"{first.run}: no row {name!r}")


def _compare_outputs(a: OutputLoss, b: OutputLoss) -> dict[str, Any]:
    if a.per_example is None or b.per_example is None:
        return {"reason": "too large to be compared here; tb_firstloss.compare can"}
    return _to_comparison(compare_outputs(a, b))


def _to_comparison(found: ValueComparison) -> dict[str, Any]:
    if found.reason:
        return {"reason": found.reason}
    largest = [{**vars(w), "difference": w.value - w.baseline} for w in found.worst[:1]]
    return {
        "agreement": found.agreement,
        "count": found.count,
        "equal": found.count - found.different_bits_count,
        "equal_in_value": found.count - found.different_count,
        "largest": largest[0] if largest else None,
    }


def _verdict_on(row: Row, verdict: Verdict | None) -> Verdict | None:
    """Returns what a recording's verdict says of a row: of a loss and its output, the worse."""
    if verdict is None or not verdict.parts:
        return None if row.expected is None else verdict
    parts = [verdict.parts[name] for name in row.names if name in verdict.parts]
    return next((part for part in parts if not part.ok), next(iter(parts), None))


def _to_output(output: OutputRow) -> dict[str, Any]:
    row = {**vars(output.statistics), "buckets": arrays.bucket_count(output.statistics.count)}
    if output.values is None:
        return row
    values, counts = to_points(arrays.finite_values(output.values))
    flat = arrays.to_float64(output.values).ravel()
    shape, splits = output.values.shape, output.row_splits
    largest = [
        {"index": arrays.index_of(at, shape, splits), "value": float(flat[at])}
        for at in find_largest(flat)
    ]
    return {**row, "values": values, "counts": counts, "largest": largest}


def to_points(finite: npt.NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Returns points for a histogram of finite values on any axis, and how many each stands for."""
    points, counts = np.unique(finite, return_counts=True)
    if points.size > MAX_POINTS:
        left, right, numbers = arrays.count_in_buckets(finite, MAX_POINTS).T
        filled = numbers > 0
        points = (left / 2 + right / 2)[filled]  # the sum of two float64 may overflow
        counts = numbers[filled].astype(np.int64)
    return [float(f"{point:.6g}") for point in points], counts.tolist()


def find_largest(flat: npt.NDArray[np.float64]) -> list[int]:
    """Returns the positions of the largest values: non-finite first, then descending."""
    return arrays.find_highest(np.where(np.isfinite(flat), flat, np.inf), LARGEST_COUNT)
