"""What every view shows of a first batch: rows that hold a loss, an output, or both.

The terminal, notebooks, the report and the TensorBoard tab all render these rows, so they agree. A
row's kind is dtype and shape, ``float32[64]``, and whether values are ragged or left out.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

from tb_firstloss.arrays import Array, LossStatistics

COLUMNS = ("loss", "expected", "count", "mean", "std", "min", "max", "non-finite")
"""The columns of `Row.texts`."""


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


def _names(*parts: LossRow | OutputRow | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.name for part in parts if part is not None))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
