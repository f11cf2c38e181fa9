"""The comparison of two first batches: whether their losses agree, and what else differs."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from tb_firstloss.arrays import Array, describe, find_highest, index_of, to_float64
from tb_firstloss.checks import check_tolerances
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.loss_table import COMPARED_COLUMNS, Agreement, WorstValue
from tb_firstloss.loss_table import ValueComparison as ValueComparison
from tb_firstloss.reading.recordings import first_batch_of

_T = TypeVar("_T")

_WORST_COUNT = 5
_ORDER: tuple[Agreement, ...] = ("identical", "within tolerance", "different")
_FINGERPRINTS = {"batch": "data", "weights": "weights"}
_NO_CAUSES = (
    "fingerprint",
    "expected_loss",
    "expected_from",
    "running_means_after_first_execution",
)
"""Metadata that is compared elsewhere, or that follows from the loss."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a first batch compares with a baseline.

    Attributes:
        baseline: Run name of the baseline.
        run: Run name of the other.
        agreement: The worst agreement of the losses and the outputs.
        losses: The losses by name, the baseline's first. Where each run has only one, these two
            are compared, under the baseline's name.
        outputs: The per-example values by output name, likewise.
        differences: What else differs, by name: the baseline's value and the other's, or None.
        cause: Where the difference comes from, as far as fingerprints show: "data", "weights",
            "data and weights", or "code or randomness" if both are equal; without them, the
            candidates, such as "data, weights, code or randomness". "" if the losses are identical.
        unknown: Those of "data" and "weights" for which either run lacks a fingerprint.
    """

    baseline: str
    run: str
    agreement: Agreement
    losses: Mapping[str, ValueComparison]
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

    def rows(self) -> list[list[str]]:
        """Returns a row of texts, in `COMPARED_COLUMNS`, per loss and per output."""
        return [
            [what if len(parts) == 1 else f"{what}: {name}", *part.texts()]
            for what, parts in (("loss", self.losses), ("per example", self.outputs))
            for name, part in parts.items()
        ]

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: a row per loss and output, and what else differs."""
        from tb_firstloss.notebook import table_to_html  # only a notebook needs it

        note = "".join(f"Also different: {name}. " for name in self.differences)
        return table_to_html(COMPARED_COLUMNS, self.rows(), title=str(self), note=note)


def compare(
    a: FirstBatch | str | os.PathLike[str],
    b: FirstBatch | str | os.PathLike[str],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> Comparison:
    """Compares a first batch with a baseline: every value of the loss, and what else is known.

    A value is within tolerance if ``abs(b - a) <= atol + rtol * abs(a)``, whatever the dtypes, but
    losses of two dtypes are never identical.

    Args:
        a: The baseline, or where `read_first_loss` finds it.
        b: What to compare with it, likewise.
        rtol: Allowed difference as a share of the baseline's absolute value.
        atol: Allowed difference in units of the loss, added to that.

    Raises:
        ValueError: A tolerance is unusable.
        ReadError, FileNotFoundError: As from `read_first_loss`, of a path.
    """
    check_tolerances(rtol, atol)
    a, b = first_batch_of(a), first_batch_of(b)
    alone = len(a.outputs) == len(b.outputs) == 1
    same = a.digest == b.digest and (alone or list(a.outputs) == list(b.outputs))
    losses = {
        name: compare_losses(*pair, rtol=rtol, atol=atol)
        for name, pair in _pairs(a.losses, b.losses).items()
    }
    outputs = {
        # Of values that both left out, the digests are all that is known.
        name: ValueComparison(agreement="identical", count=a.outputs[name].statistics.count)
        if same
        else compare_outputs(*pair, rtol=rtol, atol=atol)
        for name, pair in _pairs(a.outputs, b.outputs).items()
    }
    parts = (*losses.values(), *outputs.values())
    agreement = max((part.agreement for part in parts), key=_ORDER.index, default=_ORDER[0])
    cause, unknown = _find_cause(a, b)
    return Comparison(
        baseline=a.run,
        run=b.run,
        agreement=agreement,
        losses=losses,
        outputs=outputs,
        differences={name: pair for name, pair in _iter_facts(a, b) if pair[0] != pair[1]},
        cause="" if agreement == "identical" else cause,
        unknown=unknown,
    )


def _pairs(a: Mapping[str, _T], b: Mapping[str, _T]) -> dict[str, tuple[_T | None, _T | None]]:
    """Pairs values by name; the only one with the only one, whatever their names."""
    if len(a) == len(b) == 1:
        return {name: (value, next(iter(b.values()))) for name, value in a.items()}
    return {name: (a.get(name), b.get(name)) for name in {**a, **b}}


def compare_losses(
    a: Array | None, b: Array | None, *, rtol: float = 0.0, atol: float = 0.0
) -> ValueComparison:
    """Compares a loss with a baseline's; None stands for a loss that is missing."""
    return _compare_arrays(a, b, "loss", rtol=rtol, atol=atol)


def compare_outputs(
    a: OutputLoss | None, b: OutputLoss | None, *, rtol: float = 0.0, atol: float = 0.0
) -> ValueComparison:
    """Compares per-example values with a baseline's; None stands for an output that is missing."""
    if a is None or b is None:
        where = "the baseline" if b is None else "the other run"
        return ValueComparison(agreement="different", reason=f"an output of {where} only")
    if [s.tolist() for s in a.row_splits] != [s.tolist() for s in b.row_splits]:
        return ValueComparison(agreement="different", reason="ragged in different places")
    if a.per_example is None and b.per_example is None:
        reason = "both recordings left it out as too large, and their digests differ"
        return ValueComparison(agreement="different", reason=reason)
    x, y, splits = a.per_example, b.per_example, a.row_splits
    return _compare_arrays(x, y, "values", splits, rtol=rtol, atol=atol)


def _compare_arrays(
    a: Array | None,
    b: Array | None,
    what: str,
    row_splits: tuple[Array, ...] = (),
    **tolerances: float,
) -> ValueComparison:
    if a is None or b is None:
        where = "baseline" if a is None else "other run"
        return ValueComparison(agreement="different", reason=f"the {where} has no such {what}")
    if a.shape != b.shape:
        return ValueComparison(agreement="different", reason=f"{describe(a)} against {describe(b)}")
    other_bits = _bits_differ(a, b) if a.dtype == b.dtype else None
    if other_bits is not None and not other_bits.any():
        return ValueComparison(agreement="identical", count=a.size)
    return _measure(a, b, other_bits, row_splits, **tolerances)


def _bits_differ(a: Array, b: Array) -> Array:
    """Returns, flat, which elements of two arrays of one dtype and shape differ in a bit."""
    left, right = (array.reshape(-1, 1).view(np.uint8) for array in (a, b))
    differ: Array = (left != right).any(axis=1)
    return differ


def _measure(
    a: Array,
    b: Array,
    other_bits: Array | None,
    row_splits: tuple[Array, ...],
    rtol: float,
    atol: float,
) -> ValueComparison:
    x, y = to_float64(a).ravel(), to_float64(b).ravel()
    with np.errstate(all="ignore"):  # NaN and infinities are expected here
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        far = np.where(equal, 0.0, np.abs(y - x))
        far[np.isnan(far)] = np.inf
        relative = np.where(equal, 0.0, far / np.abs(x))
        relative[np.isnan(relative)] = np.inf
        inside = equal | (np.isfinite(far) & (far <= atol + rtol * np.abs(x)))
    other_bits = ~equal if other_bits is None else other_bits  # None: of two dtypes
    return ValueComparison(
        agreement="within tolerance" if inside.all() else "different",
        count=x.size,
        different_count=int(np.count_nonzero(~equal)),
        different_bits_count=int(np.count_nonzero(other_bits)),
        max_abs=float(far.max(initial=0.0)),
        max_rel=float(relative.max(initial=0.0)),
        worst=tuple(
            WorstValue(index_of(at, a.shape, row_splits), float(x[at]), float(y[at]))
            for at in find_highest(far, _WORST_COUNT)
            if not equal[at]
        ),
    )


def _find_cause(a: FirstBatch, b: FirstBatch) -> tuple[str, tuple[str, ...]]:
    """Returns where a difference may come from, and what lacks a fingerprint in either run."""
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


def _iter_facts(a: FirstBatch, b: FirstBatch) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yields what is known of the runs besides the values, by name, equal or not."""
    for key, name in _FINGERPRINTS.items():
        yield f"fingerprint of the {name}", (_fingerprint(a).get(key), _fingerprint(b).get(key))
    yield "step", (a.step, b.step)
    yield from _iter_array_facts(a, b)
    one, other = dict(_flatten(a.metadata)), dict(_flatten(b.metadata))
    for name in {**one, **other}:
        yield name, (one.get(name), other.get(name))


def _iter_array_facts(a: FirstBatch, b: FirstBatch) -> Iterator[tuple[str, tuple[Any, Any]]]:
    yield "names of the losses", (", ".join(a.losses) or None, ", ".join(b.losses) or None)
    yield "names of the outputs", (", ".join(a.outputs) or None, ", ".join(b.outputs) or None)
    for name, (one, other) in _pairs(a.losses, b.losses).items():
        if one is not None and other is not None:
            yield f"dtype of the loss {name!r}", (one.dtype.name, other.dtype.name)
    for name, (left, right) in _pairs(a.outputs, b.outputs).items():
        if left is None or right is None:
            continue
        for field in ("per_example", "sample_weight", "mask"):
            x, y = getattr(left, field), getattr(right, field)
            texts = [None if array is None else describe(array) for array in (x, y)]
            alike = field != "per_example" and x is not None and texts[0] == texts[1]
            if alike and _bits_differ(x, y).any():
                texts = ["one set of values", "another"]
            yield f"{field} of {name!r}", (texts[0], texts[1])
        for field in ("reduction", "loss_weight"):
            yield f"{field} of {name!r}", (getattr(left, field), getattr(right, field))


def _flatten(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in metadata.items():
        if not prefix and key in _NO_CAUSES:
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
