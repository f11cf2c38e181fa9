"""What every view shows of a first batch, and of how the values of two compare.

A first batch has rows that hold a loss, an output, or both.

The terminal, notebooks, the report and the TensorBoard tab all render these rows, so they agree. A
row's kind is dtype and shape, ``float32[64]``, and whether values are ragged or left out.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, Literal

from tb_firstloss.arrays import Array, LossStatistics

COLUMNS = ("loss", "expected", "count", "mean", "std", "min", "max", "non-finite")
"""The columns of `Row.texts`."""

COMPARED_COLUMNS = ("loss", "agreement", "different", "max abs", "max rel", "largest difference")
"""A name, and the columns of `ValueComparison.texts`."""

Agreement = Literal["identical", "within tolerance", "different"]


@dataclasses.dataclass(frozen=True)
class LossRow:
    """A loss that the step differentiates, [] in its dtype."""

    name: str
    kind: str
    value: Array


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """The per-example losses of an output, as `OutputLoss` has them, and their kind in words."""

    name: str
    kind: str
    statistics: LossStatistics
    values: Array | None
    row_splits: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A loss with its output, or either alone, and what was expected of it.

    Attributes:
        loss: What the step differentiates, or None.
        output: The per-example losses, or None.
        expected: What the output's mean, else the loss, was expected to be; None if that was not
            recorded.
    """

    loss: LossRow | None
    output: OutputRow | None
    expected: float | None

    @property
    def name(self) -> str:
        """The loss's name, else the output's; "" if the step gave neither."""
        return next(iter(_names(self.loss, self.output)), "")

    @property
    def names(self) -> tuple[str, ...]:
        """The output's name and the loss's, once if they are equal."""
        return _names(self.output, self.loss)

    @property
    def kind(self) -> str:
        """The output's kind, after its name where the row has another; "" without an output."""
        if self.output is None:
            return ""
        named = self.output.name != self.name
        return f"{self.output.name}: {self.output.kind}" if named else self.output.kind

    def texts(self) -> dict[str, str]:
        """Returns the row's numbers to six digits by column; "" for what it lacks."""
        texts = dict.fromkeys(COLUMNS, "")
        if self.loss is not None:
            texts["loss"] = f"{float(self.loss.value):.6g}"
        if self.expected is not None:
            texts["expected"] = f"{self.expected:.6g}"
        if self.output is not None:
            s = self.output.statistics
            texts |= {name: f"{getattr(s, name):.6g}" for name in ("mean", "std", "min", "max")}
            texts |= {"count": str(s.count), "non-finite": str(s.nonfinite_count)}
        return texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTable:
    """A first batch as it is shown; fields of the same name are those of `FirstBatch`.

    Attributes:
        expectation: What was expected, as recorded: a number, a number by name, or None; anything
            else is taken for no expectation.
        all_seen: Whether these are all losses that the step differentiates.
    """

    run: str
    step: int
    digest: str
    expectation: Any
    losses: tuple[LossRow, ...]
    outputs: tuple[OutputRow, ...]
    all_seen: bool = True

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """The only loss with the only output, whatever their names, where there are no more.

        Else a row per loss, with the output of its name, and then a row per remaining output.
        """
        pairs: list[tuple[LossRow | None, OutputRow | None]]
        if len(self.losses) <= 1 and len(self.outputs) <= 1:
            pairs = list(itertools.zip_longest(self.losses, self.outputs)) or [(None, None)]
        else:
            rest = {output.name: output for output in self.outputs}
            pairs = [(loss, rest.pop(loss.name, None)) for loss in self.losses]
            pairs += [(None, output) for output in rest.values()]
        return tuple(Row(*pair, self._expected_of(*pair)) for pair in pairs)

    def label(self, row: Row) -> str:
        """Returns a row's name among those of other runs."""
        return self.run if len(self.rows) == 1 else f"{self.run}: {row.name}"

    def _expected_of(self, loss: LossRow | None, output: OutputRow | None) -> float | None:
        if isinstance(self.expectation, Mapping):
            found = [name for name in _names(output, loss) if name in self.expectation]
            return _number(self.expectation[found[0]]) if found else None
        if len(self.losses) > 1 or not self.all_seen:
            return None  # one number for several
        judged = output if len(self.outputs) == 1 else loss
        return None if judged is None else _number(self.expectation)


@dataclasses.dataclass(frozen=True)
class WorstValue:
    """A value that differs: its index, the example first, and the value in each run."""

    index: tuple[int, ...]
    baseline: float
    value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueComparison:
    """How a loss compares, or the per-example values of an output.

    Differences are computed in float64. NaN is at distance 0 from NaN, and infinitely far from a
    number. Where the values cannot be compared one by one, only agreement and reason are set.

    Attributes:
        agreement: "identical" (dtype, shape and every bit), "within tolerance" or "different".
        reason: Why the values cannot be compared one by one; "" if they were.
        count: Number of values.
        different_count: Number of values at a nonzero distance from the baseline's.
        different_bits_count: Number of values whose bits differ from the baseline's, at distance 0
            too: 0.0 and -0.0, or two NaNs. Equals `different_count` if the dtypes differ.
        max_abs: Largest absolute difference.
        max_rel: Largest difference as a share of the baseline's absolute value.
        worst: The values furthest apart, at most 5.
    """

    agreement: Agreement
    reason: str = ""
    count: int = 0
    different_count: int = 0
    different_bits_count: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    worst: tuple[WorstValue, ...] = ()

    def texts(self) -> list[str]:
        """Returns the agreement, the counts and the largest differences to a few digits."""
        if self.reason or self.agreement == "identical":
            return [self.agreement, "", "", "", self.reason]
        in_bits_alone = self.different_bits_count - self.different_count
        note = f", {in_bits_alone} in bits alone" if in_bits_alone else ""
        numbers = [f"{self.different_bits_count} of {self.count}{note}"]
        numbers += [f"{self.max_abs:.3g}", f"{self.max_rel:.3g}"]
        worst = ", ".join(
            f"{list(w.index) if w.index else ''} {w.baseline:.6g} → {w.value:.6g}".strip()
            for w in self.worst[:3]
        )
        return [self.agreement, *numbers, worst]


def _names(*parts: LossRow | OutputRow | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.name for part in parts if part is not None))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
