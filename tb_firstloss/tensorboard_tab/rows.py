"""A first batch, and the comparison of two, as the JSON that the page shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss.arrays import (
    bucket_count,
    count_in_buckets,
    find_highest,
    finite_json,
    finite_values,
    index_of,
    to_float64,
)
from tb_firstloss.checks import Verdict, check_recorded
from tb_firstloss.comparison import compare_outputs
from tb_firstloss.first_batch import FirstBatch, OutputLoss, tabulate
from tb_firstloss.loss_table import OutputRow

MAX_POINTS = 256
"""Most points to send, rounded to six digits; more distinct values become this many buckets."""

LARGEST_COUNT = 10


def to_row(first: FirstBatch) -> dict[str, Any]:
    """Returns what the page shows of a recording, and `checks.check`'s verdict on it."""
    table, verdict = tabulate(first), _judge(first)
    loss = table.losses[0] if table.losses else None
    row: dict[str, Any] = finite_json(
        {
            "run": table.run,
            "step": table.step,
            "wall_time": first.wall_time,
            "loss": None if loss is None or loss.value is None else float(loss.value),
            "loss_kind": None if loss is None else loss.kind,
            "expected": table.expected if verdict is None else verdict.expected,
            "verdict": None if verdict is None else {"ok": verdict.ok, **vars(verdict)},
            "digest": table.digest,
            "outputs": [_to_output(output) for output in table.outputs],
        }
    )
    return row


def compare(
    one: tuple[FirstBatch, str | None], other: tuple[FirstBatch, str | None]
) -> dict[str, Any]:
    """Compares two recordings, and the per-example values of one output of each.

    Args:
        one: The baseline, and the name of an output or None.
        other: What to compare with it, likewise.

    Returns:
        ``digests_agree``, None where equal digests say nothing of these two outputs, and
        ``values``: None without two outputs, a ``reason`` if values cannot be compared one by one,
        else their ``agreement``, ``count``, how many are ``equal`` bit for bit and how many
        ``equal_in_value``, and the ``largest`` difference: ``index``, ``baseline``, ``value`` and
        ``difference``, or None if there is none.
    """
    (a, a_name), (b, b_name) = one, other
    agree = a.digest == b.digest
    same_place = [name == a_name for name in a.outputs] == [name == b_name for name in b.outputs]
    pair = [output for name, output in a.outputs.items() if name == a_name]
    pair += [output for name, output in b.outputs.items() if name == b_name]
    found: dict[str, Any] = finite_json(
        {
            "digests_agree": agree if same_place or not agree else None,
            "values": _compare_outputs(*pair) if len(pair) == 2 else None,
        }
    )
    return found


def _compare_outputs(a: OutputLoss, b: OutputLoss) -> dict[str, Any]:
    if a.per_example is None or b.per_example is None:
        return {"reason": "too large to be compared here; tb_firstloss.compare can"}
    found = compare_outputs(a, b)
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


def _judge(first: FirstBatch) -> Verdict | None:
    """Returns the verdict on a recording with an expectation; None where `check` has none."""
    try:
        return check_recorded(first)
    except (ValueError, TypeError):
        return None


def _to_output(output: OutputRow) -> dict[str, Any]:
    row = {
        "name": output.name,
        "kind": output.kind,
        **vars(output.statistics),
        "buckets": bucket_count(output.statistics.count),
    }
    if output.values is None:
        return row
    values, counts = to_points(finite_values(output.values))
    flat = to_float64(output.values).ravel()
    return {
        **row,
        "values": values,
        "counts": counts,
        "largest": [
            {
                "index": index_of(at, output.values.shape, output.row_splits),
                "value": float(flat[at]),
            }
            for at in find_largest(flat)
        ],
    }


def to_points(finite: npt.NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Returns points, and how many values each stands for, for a histogram on any axis.

    Args:
        finite: Finite values, [count].
    """
    points, counts = np.unique(finite, return_counts=True)
    if points.size > MAX_POINTS:
        left, right, numbers = count_in_buckets(finite, MAX_POINTS).T
        filled = numbers > 0
        points = (left / 2 + right / 2)[filled]  # the sum of two float64 may overflow
        counts = numbers[filled].astype(np.int64)
    return [float(f"{point:.6g}") for point in points], counts.tolist()


def find_largest(flat: npt.NDArray[np.float64]) -> list[int]:
    """Returns the positions of the largest values: non-finite first, then descending."""
    return find_highest(np.where(np.isfinite(flat), flat, np.inf), LARGEST_COUNT)
