"""What every view shows of a first batch: a row per loss and a row per output.

The terminal, notebooks, the report and the TensorBoard tab all render these rows, so they agree. A
row's kind is dtype and shape, ``float32[64]``, and whether values are ragged or left out.
"""

from __future__ import annotations

import dataclasses

from tb_firstloss.arrays import Array, LossStatistics


@dataclasses.dataclass(frozen=True)
class LossRow:
    """A loss that the step differentiates; the value, [] in its dtype, only of a scalar."""

    name: str
    kind: str
    value: Array | None

    @property
    def text(self) -> str:
        """The value to six digits; dtype and shape unless it is a scalar."""
        return self.kind if self.value is None else f"{float(self.value):.6g}"


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """The per-example losses of an output, as `OutputLoss` has them, and their kind in words."""

    name: str
    kind: str
    statistics: LossStatistics
    values: Array | None
    row_splits: tuple[Array, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTable:
    """A first batch as it is shown; what was expected of it, where that was recorded."""

    run: str
    step: int
    digest: str
    expected: float | None
    losses: tuple[LossRow, ...]
    outputs: tuple[OutputRow, ...]
