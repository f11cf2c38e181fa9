"""Whether two first batches have the same loss, and what else differs between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from tb_firstloss.arrays import Array, describe
from tb_firstloss.checks import check_tolerance
from tb_firstloss.first_batch import FirstBatch, OutputLoss

Agreement = Literal["identical", "within tolerance", "different"]

_WORST_COUNT = 5
_ORDER: tuple[Agreement, ...] = ("identical", "within tolerance", "different")
_FINGERPRINTS = {"batch": "data", "weights": "weights"}
_NO_CAUSES = (
    "fingerprint",
    "expected_loss",
    "expected_from",
    "running_means_after_first_execution",
)
"""Metadata that is compared elsewhere or follows from the loss."""


@dataclasses.dataclass(frozen=True)
class WorstValue:
    """One value that differs: where it is in the array, and what it is in either run."""

    index: tuple[int, ...]
    baseline: float
    value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueComparison:
    """How one array of the loss compares: the total, or an output's per-example values.

    Differences are computed in float64. NaN equals NaN here; NaN against a number is infinitely
    far away. Where the arrays cannot be laid over each other, only ``reason`` says why.

    Attributes:
        agreement: "identical" (dtype, shape and every bit), "within tolerance" or "different".
        reason: Why the values cannot be compared one by one; "" where they were.
        count: Number of values.
        different_count: Number of values that are not equal.
        max_abs: Largest absolute difference.
        max_rel: Largest difference as a share of the baseline's absolute value.
        worst: The values furthest apart, at most 5.
    """

    agreement: Agreement
    reason: str = ""
    count: int = 0
    different_count: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    worst: tuple[WorstValue, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a first batch compares with a baseline.

    Attributes:
        baseline: Run name of the baseline.
        run: Run name of the other.
        agreement: The worst agreement of all that follow.
        loss: The total loss; None when neither has one.
        outputs: The per-example values, by output name, the baseline's first.
        differences: What else differs, by name: the baseline's value and the other's, or None.
        cause: Where the difference comes from as far as fingerprints tell: "data", "weights", "data
            and weights", or "code or randomness" when both are equal. Without them, what is left,
            such as "data, weights, code or randomness". "" when the losses are identical.
        unknown: Of "data" and "weights", what is not fingerprinted in both.
    """

    baseline: str
    run: str
    agreement: Agreement
    loss: ValueComparison | None
    outputs: Mapping[str, ValueComparison]
    differences: Mapping[str, tuple[Any, Any]]
    cause: str
    unknown: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the losses are identical or within the tolerance."""
        return self.agreement != "different"

    def __str__(self) -> str:
        cause = f"; the difference is in {self.cause}" if self.cause else ""
        return f"{self.run}: {self.agreement}, compared with {self.baseline}{cause}"


def compare(a: FirstBatch, b: FirstBatch, *, rtol: float = 0.0, atol: float = 0.0) -> Comparison:
    """Compares a first batch with a baseline: every value of the loss, and what else is known.

    A value is within tolerance when ``abs(b - a) <= atol + rtol * abs(a)``. dtypes do not enter
    that, but only equal ones are identical.

    Args:
        a: The baseline.
        b: The other one.
        rtol: Allowed difference as a share of the baseline's absolute value.
        atol: Allowed difference in units of the loss, added to that.

    Raises:
        ValueError: A tolerance is not usable.
    """
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        check_tolerance(name, tolerance)
    same = a.digest == b.digest and list(a.outputs) == list(b.outputs)
    loss = None
    if a.loss is not None or b.loss is not None:
        loss = _compare_arrays(a.loss, b.loss, same, rtol, atol)
    outputs = {
        name: _compare_outputs(a.outputs.get(name), b.outputs.get(name), same, rtol, atol)
        for name in {**a.outputs, **b.outputs}
    }
    found = [part.agreement for part in (loss, *outputs.values()) if part is not None]
    agreement: Agreement = _ORDER[max((_ORDER.index(each) for each in found), default=0)]
    cause, unknown = _find_cause(a, b)
    return Comparison(
        baseline=a.run,
        run=b.run,
        agreement=agreement,
        loss=loss,
        outputs=outputs,
        differences=dict(_iter_differences(a, b)),
        cause="" if agreement == "identical" else cause,
        unknown=unknown,
    )


def _compare_outputs(
    a: OutputLoss | None, b: OutputLoss | None, same: bool, rtol: float, atol: float
) -> ValueComparison:
    if a is None or b is None:
        where = "the baseline" if b is None else "the other run"
        return ValueComparison(agreement="different", reason=f"an output of {where} only")
    splits = [[part.tolist() for part in output.row_splits] for output in (a, b)]
    if splits[0] != splits[1]:
        return ValueComparison(agreement="different", reason="ragged in other places")
    if a.per_example is None and b.per_example is None:
        if same:
            return ValueComparison(agreement="identical", count=a.statistics.count)
        reason = "both recordings left it out as too large, and their digests differ"
        return ValueComparison(agreement="different", reason=reason)
    return _compare_arrays(a.per_example, b.per_example, same, rtol, atol)


def _compare_arrays(
    a: Array | None, b: Array | None, same: bool, rtol: float, atol: float
) -> ValueComparison:
    if a is None or b is None:
        where = "baseline" if a is None else "other run"
        return ValueComparison(agreement="different", reason=f"the {where} has no such values")
    if same or ((a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()):
        return ValueComparison(agreement="identical", count=a.size)
    if a.shape != b.shape:
        reason = f"{describe(a)} against {describe(b)}"
        return ValueComparison(agreement="different", reason=reason)
    return _measure(a, b, rtol, atol)


def _measure(a: Array, b: Array, rtol: float, atol: float) -> ValueComparison:
    with np.errstate(all="ignore"):  # NaN and infinities are expected here, and told below
        x, y = a.astype(np.float64), b.astype(np.float64)
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        far = np.where(equal, 0.0, np.abs(y - x))
        far[np.isnan(far)] = np.inf
        relative = np.where(equal, 0.0, far / np.abs(x))
        relative[np.isnan(relative)] = np.inf
        inside = equal | (np.isfinite(far) & (far <= atol + rtol * np.abs(x)))
    order = np.argsort(-far, axis=None, kind="stable")[:_WORST_COUNT]
    places = [np.unravel_index(i, x.shape) for i in order if not equal.flat[i]]
    return ValueComparison(
        agreement="within tolerance" if inside.all() else "different",
        count=x.size,
        different_count=int(np.count_nonzero(~equal)),
        max_abs=float(far.max(initial=0.0)),
        max_rel=float(relative.max(initial=0.0)),
        worst=tuple(
            WorstValue(tuple(int(i) for i in place), float(x[place]), float(y[place]))
            for place in places
        ),
    )


def _find_cause(a: FirstBatch, b: FirstBatch) -> tuple[str, tuple[str, ...]]:
    """Returns where a difference can come from, and what is not known for want of fingerprints."""
    different, unknown = [], []
    for key, name in _FINGERPRINTS.items():
        left, right = _fingerprint(a).get(key), _fingerprint(b).get(key)
        if left is None or right is None:
            unknown.append(name)
        elif left != right:
            different.append(name)
    if different:
        return " and ".join(different), tuple(unknown)
    return ", ".join([*unknown, "code or randomness"]), tuple(unknown)


def _fingerprint(first: FirstBatch) -> Mapping[str, Any]:
    found = first.metadata.get("fingerprint")
    return found if isinstance(found, Mapping) else {}


def _iter_differences(a: FirstBatch, b: FirstBatch) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key, name in _FINGERPRINTS.items():
        digests = _fingerprint(a).get(key), _fingerprint(b).get(key)
        if digests[0] != digests[1]:
            yield f"fingerprint of the {name}", digests
    if a.step != b.step:
        yield "step", (a.step, b.step)
    yield from _iter_array_differences(a, b)
    metadata = dict(_flatten(a.metadata)), dict(_flatten(b.metadata))
    for name in {**metadata[0], **metadata[1]}:
        values = metadata[0].get(name), metadata[1].get(name)
        if values[0] != values[1]:
            yield name, values


def _iter_array_differences(a: FirstBatch, b: FirstBatch) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if a.loss is not None and b.loss is not None and a.loss.dtype != b.loss.dtype:
        yield "dtype of the loss", (a.loss.dtype.name, b.loss.dtype.name)
    for name in (name for name in a.outputs if name in b.outputs):
        left, right = a.outputs[name], b.outputs[name]
        for field in ("per_example", "sample_weight", "mask"):
            arrays = getattr(left, field), getattr(right, field)
            texts = tuple(None if array is None else describe(array) for array in arrays)
            if texts[0] != texts[1]:
                yield f"{field} of {name!r}", (texts[0], texts[1])
            elif field != "per_example" and arrays[0] is not None and _bits_differ(*arrays):
                yield f"{field} of {name!r}", ("one set of values", "another")
        for field in ("reduction", "loss_weight"):
            values = getattr(left, field), getattr(right, field)
            if values[0] != values[1]:
                yield f"{field} of {name!r}", values


def _bits_differ(a: Array, b: Array) -> bool:
    return a.tobytes() != b.tobytes()


def _flatten(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in metadata.items():
        if not prefix and key in _NO_CAUSES:
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
