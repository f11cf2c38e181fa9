"""What every view shows of a first batch: a row per loss and a row per output.

The terminal, notebooks, the report and the TensorBoard tab all render these rows, so they agree.
"""

from __future__ import annotations

import dataclasses

from tb_firstloss.arrays import Array, LossStatistics


@dataclasses.dataclass(frozen=True)
class LossRow:
    """A loss that the step differentiates.

    Attributes:
        name: Its name.
        kind: dtype and shape, ``float32[]``.
        value: The loss in its own dtype, []; None unless it is a scalar.
    """

    name: str
    kind: str
    value: Array | None

    @property
    def text(self) -> str:
        """The value to six digits; dtype and shape unless it is a scalar."""
        return self.kind if self.value is None else f"{float(self.value):.6g}"


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """The per-example losses of an output.

    Attributes:
        name: Its name.
        kind: dtype and shape, ``float32[64]``, and whether they are ragged or left out.
        statistics: Of the values.
        values: The values, any rank of at least 1; None if they were left out.
        row_splits: Row splits of each ragged dimension, outermost first.
    """

    name: str
    kind: str
    statistics: LossStatistics
    values: Array | None
    row_splits: tuple[Array, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTable:
    """A first batch as it is shown.

    Attributes:
        run: Name of the run.
        step: Step under which it was recorded.
        digest: SHA-256 (hex) of the values.
        expected: What the first loss was expected to be, if that was recorded.
        losses: Every loss that the step differentiates.
        outputs: Every output's per-example losses.
    """

    run: str
    step: int
    digest: str
    expected: float | None
    losses: tuple[LossRow, ...]
    outputs: tuple[OutputRow, ...]

    def label(self, output: OutputRow) -> str:
        """Returns the run, with the output's name if there are several outputs."""
        return self.run if len(self.outputs) == 1 else f"{self.run}: {output.name}"
