"""What was captured of the first training batch, in plain NumPy: no I/O and no TensorFlow."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tb_firstloss.arrays import Array, LossStatistics, describe, digest_of, frozen
from tb_firstloss.loss_table import LossRow, LossTable, OutputRow
from tb_firstloss.text import printable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OutputLoss:
    """The loss of one model output on the first batch.

    Attributes:
        per_example: Unreduced, unweighted, unmasked loss values, any rank of at least 1: [batch],
            [batch, time], …, in the dtype in which training computed them. For a ragged loss, the
            flat values. None only if the recording left them out as too large.
        row_splits: For a ragged loss, the row splits of each ragged dimension, outermost first,
            each [rows + 1] int32 or int64; else empty.
        sample_weight: Weights as the loss function received them, or None.
        mask: Mask as the loss function received it, or None.
        reduction: Keras's name of the reduction that training applied, or None if unknown.
        loss_weight: Factor of this output in the total, or None.
        statistics: Of per_example; computed unless given.
    """

    per_example: Array | None
    row_splits: tuple[Array, ...] = ()
    sample_weight: Array | None = None
    mask: Array | None = None
    reduction: str | None = None
    loss_weight: float | None = None
    statistics: LossStatistics = None  # type: ignore[assignment]  # set by __post_init__

    def __post_init__(self) -> None:
        if self.per_example is not None and np.ndim(self.per_example) == 0:
            raise ValueError("per_example: a scalar; it needs one value per example")
        object.__setattr__(self, "row_splits", tuple(frozen(s) for s in self.row_splits))
        for field in ("per_example", "sample_weight", "mask"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, frozen(getattr(self, field)))
        if self.statistics is None:
            if self.per_example is None:
                raise ValueError("statistics: needed when per_example is left out")
            object.__setattr__(self, "statistics", LossStatistics.of(self.per_example))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FirstBatch:
    """The loss of a first training batch.

    Compare two of them by their ``digest``: equal digests mean equal bits.

    Attributes:
        run: Name of the run directory, relative to the logdir it was written to or read from.
        step: Step under which it was recorded, 0 by default.
        wall_time: When it was captured, in seconds since the Unix epoch.
        losses: What the step differentiates for variables, each a scalar [] in its dtype, by name,
            in the order in which gradients were taken: regularisers included, a loss scale
            excluded. Of a tensor of rank 1 or more, it is the sum of the elements. Empty if the
            step gave only per-example values.
        outputs: Loss values by output name, in the model's order; empty if the step gave only
            scalars.
        metadata: What is known about the run (versions, strategy, …), and what the user added.
        digest: SHA-256 (hex) over dtype, shape and bytes of every loss and of every output's
            values, in order; see `compute_digest`.
    """

    run: str
    step: int
    wall_time: float
    losses: Mapping[str, Array]
    outputs: Mapping[str, OutputLoss]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        losses = {name: frozen(loss) for name, loss in self.losses.items()}
        for name, loss in losses.items():
            if loss.ndim:
                raise ValueError(f"losses: {name!r} is {describe(loss)}; give the sum, a scalar")
        object.__setattr__(self, "losses", MappingProxyType(losses))
        object.__setattr__(self, "outputs", MappingProxyType(dict(self.outputs)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        if not self.digest:
            object.__setattr__(self, "digest", compute_digest(self.losses, self.outputs))

    def __reduce__(self) -> tuple[Any, ...]:
        # Executors pickle a FirstBatch, which a mappingproxy prevents.
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields |= {name: dict(fields[name]) for name in ("losses", "outputs", "metadata")}
        return _rebuild, (fields,)  # as arguments, which a deep copy copies

    @property
    def loss(self) -> Array | None:
        """The only loss, else the one named "loss", []; None without either."""
        if len(self.losses) == 1:
            return next(iter(self.losses.values()))
        return self.losses.get("loss")

    @property
    def is_empty(self) -> bool:
        """Whether the step gave neither a loss nor values per example."""
        return not (self.losses or self.outputs)

    @functools.cached_property
    def sole_output(self) -> OutputLoss:
        """The only output.

        Raises:
            ValueError: There is none, or there are several; the message names them.
        """
        if len(self.outputs) == 1:
            return next(iter(self.outputs.values()))
        if not self.outputs:
            raise ValueError(
                f"{self.run}: only a scalar loss was recorded; for values per example, return "
                "the per-example loss from the step as well and select it with loss="
            )
        names = ", ".join(repr(name) for name in self.outputs)
        raise ValueError(f"{self.run}: several outputs ({names}); choose one: outputs[name]")

    @property
    def per_example(self) -> Array:
        """The only output's per-example values, any rank of at least 1.

        Raises:
            ValueError: There is no output or several, or the values were left out.
        """
        values = self.sole_output.per_example
        if values is None:
            raise ValueError(
                f"{self.run}: the per-example loss exceeded max_tensor_bytes, so the recording has "
                "only its statistics, histogram and digest"
            )
        return values

    @property
    def count(self) -> int:
        """Number of per-example values of the only output."""
        return self.sole_output.statistics.count

    @property
    def mean(self) -> float:
        """Mean of the finite per-example values of the only output."""
        return self.sole_output.statistics.mean

    @property
    def std(self) -> float:
        """Population standard deviation of the finite per-example values of the only output."""
        return self.sole_output.statistics.std

    @property
    def min(self) -> float:
        """Smallest finite per-example value of the only output."""
        return self.sole_output.statistics.min

    @property
    def max(self) -> float:
        """Largest finite per-example value of the only output."""
        return self.sole_output.statistics.max

    @property
    def nonfinite_count(self) -> int:
        """Number of NaN and infinite per-example values of the only output."""
        return self.sole_output.statistics.nonfinite_count

    def __repr__(self) -> str:
        parts = [f"run={self.run!r}", f"step={self.step}"]
        for row in tabulate(self).rows:
            if row.loss is not None:
                parts.append(f"{row.loss.name}={row.loss.value}")
            if row.output is not None:
                s = row.output.statistics
                bad = f", non-finite {s.nonfinite_count}" if s.nonfinite_count else ""
                parts.append(
                    f"{row.output.name}: {row.output.kind} mean {s.mean:.6g}, std {s.std:.4g}, "
                    f"min {s.min:.6g}, max {s.max:.6g}{bad}"
                )
        return printable(f"FirstBatch({', '.join(parts)}, digest={self.digest[:12]}…)")

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: a small table with a histogram."""
        from tb_firstloss.notebook import to_html  # only a notebook needs it

        return to_html(tabulate(self))


def _rebuild(fields: dict[str, Any]) -> FirstBatch:
    return FirstBatch(**fields)


def tabulate(first: FirstBatch) -> LossTable:
    """Returns the rows that every view shows of a first batch."""
    return LossTable(
        run=first.run,
        step=first.step,
        digest=first.digest,
        expectation=first.metadata.get("expected_loss"),
        losses=tuple(LossRow(name, describe(loss), loss) for name, loss in first.losses.items()),
        outputs=tuple(
            OutputRow(name, _kind_of(out), out.statistics, out.per_example, out.row_splits)
            for name, out in first.outputs.items()
        ),
        all_seen=not first.metadata.get("unseen_losses"),
    )


def _kind_of(output: OutputLoss) -> str:
    if output.per_example is None:
        return "left out, too large"
    return describe(output.per_example) + (", ragged" if output.row_splits else "")


def compute_digest(losses: Mapping[str, Array], outputs: Mapping[str, OutputLoss]) -> str:
    """Returns a digest, which two first batches share if they are equal bit for bit.

    It covers, in order, each loss (None where there is none) and each output's per-example values
    and row splits, as `digest_of` hashes them. It ignores names. Of contract version 1, the loss
    may have any shape.
    """
    arrays: list[Array | None] = list(losses.values()) or [None]
    for output in outputs.values():
        arrays += [output.per_example, *output.row_splits]
    return digest_of(arrays)
