"""What a training step returned → its loss as NumPy arrays, in the dtype of training."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from tb_firstloss.arrays import Array, describe
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.capture.step import values
from tb_firstloss.errors import LossNotFoundError
from tb_firstloss.first_batch import FirstBatch, OutputLoss

RemoteValue = tf.distribute.experimental.coordinator.RemoteValue

Selector = str | int | Callable[[Any], Any]
"""A key, an index, or a callable that takes what the step returned."""

Selectors = Selector | list[Selector] | tuple[Selector, ...] | Mapping[str, Selector]
"""Where one loss is, or several: a list of keys or indexes, or a selector for each name."""


@dataclasses.dataclass(frozen=True)
class Captured:
    """The loss of one step.

    Attributes:
        losses: What the step differentiates, each [], by name; empty if it returned none.
        outputs: Per-example values by output name.
        replica_counts: Number of examples per replica, in their order; empty if not per replica.
    """

    losses: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, OutputLoss] = dataclasses.field(default_factory=dict)
    replica_counts: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the step gave no loss at all."""
        return not self.losses and not self.outputs

    def describe_batch(self) -> dict[str, Any]:
        """Returns the batch's size, and each replica's share of it, for the metadata."""
        facts: dict[str, Any] = {}
        output = next(iter(self.outputs.values()), None)
        if output is not None and output.per_example is not None:
            rows = replicas.row_count((output.per_example, output.row_splits))
            facts["global_batch_size"] = rows
        if self.replica_counts:
            facts["replica_counts"] = list(self.replica_counts)
            facts["replicas"] = len(self.replica_counts)
        return facts

    def as_first_batch(self, *, run: str, step: int = 0, metadata: Mapping[str, Any]) -> FirstBatch:
        """Returns the loss as a first batch, captured now."""
        return FirstBatch(
            run=run,
            step=step,
            wall_time=time.time(),
            losses=self.losses,
            outputs=self.outputs,
            metadata=metadata,
        )


class HasLoss(Protocol):
    """A step's result in which the loss is still to be read."""

    def captured(self) -> Captured:
        """Reads the loss; raises a LossNotFoundError if there is nothing usable as one."""


@dataclasses.dataclass
class StepResult:
    """What a step returned, and where its losses are in it, as `FirstLoss.wrap` describes."""

    value: Any
    loss: Selector | None = None
    total: Selectors | None = None
    _captured: Captured | None = dataclasses.field(default=None, init=False)

    def captured(self) -> Captured:
        """Reads the losses, once; see `HasLoss`. Its error's message lists what was returned."""
        if self._captured is None:
            self._captured = self._read()
        return self._captured

    def _read(self) -> Captured:
        result = self.value
        if isinstance(result, RemoteValue):
            result = result.fetch()
        totals = [] if self.total is None else _pick_totals(result, self.total)
        value = self._pick_loss(result)
        if losses := _losses_of(value):
            return _capture(totals or list(losses.items()))
        if isinstance(value, (Mapping, list, tuple)):
            outputs = dict(_outputs(value))
            return _capture(totals, outputs, values.count_rows(next(_leaves(value, ()))[1]))
        given = (None, *(total for _, total in totals)) if self.loss is None else ()
        if totals and any(value is each for each in given):
            return _capture(totals)  # nothing but what is differentiated
        name = self.loss if isinstance(self.loss, str) else "loss"
        array, row_splits = values.to_array(value, name)
        if array.ndim == 0:
            return _capture(totals or [(name, value)])
        output = OutputLoss(per_example=array, row_splits=row_splits)
        return _capture(totals, {name: output}, values.count_rows(value))

    def _pick_loss(self, result: Any) -> Any:
        if self.loss is not None:
            return _pick(result, self.loss, "loss")
        fields = _fields(result)
        if "loss" in fields:
            return fields["loss"]
        if self.total is None and (losses := _losses_of(fields)):
            return losses
        if values.is_value(result):
            return result
        if self.total is not None:
            return None
        raise LossNotFoundError(f"the step returned {values.outline(result)}; {_remedy(result)}")


def _pick_totals(result: Any, total: Selectors) -> list[tuple[str, Any]]:
    """Returns what is differentiated, by name.

    A lone loss without a name is "loss"; several are "loss_1", "loss_2" …
    """
    found: list[tuple[Any, Any]]
    if isinstance(total, Mapping):
        found = [(name, _pick(result, each, "total")) for name, each in total.items()]
    elif isinstance(total, (list, tuple)):
        once = [each for index, each in enumerate(total) if each not in total[:index]]
        found = [(_name_of(each), _pick(result, each, "total")) for each in once]
    else:
        picked = _pick(result, total, "total")
        if isinstance(picked, (list, tuple)) and not _fields(picked):
            found = [(None, value) for value in picked]
        else:
            found = list(_fields(picked).items()) or [(_name_of(total), picked)]
    if not found:
        raise LossNotFoundError(f"total={total!r} selects nothing; name at least one loss")
    numbers = itertools.count(1)
    usual = "loss" if len(found) == 1 else None
    return [
        (usual or f"loss_{next(numbers)}" if name is None else str(name), value)
        for name, value in found
    ]


def _name_of(selector: Selector) -> str | None:
    return selector if isinstance(selector, str) else None


def _capture(
    totals: list[tuple[str, Any]],
    outputs: Mapping[str, OutputLoss] | None = None,
    replica_counts: tuple[int, ...] = (),
) -> Captured:
    """Reads the losses; one of rank 1 or more is the output of its name if there is no other."""
    losses: dict[str, Array] = {}
    vectors: dict[str, OutputLoss] = {}
    for given, value in totals:
        name = values.unique(str(given), set(losses))
        array, row_splits = values.to_array(value, name)
        if not values.is_floating(array):
            raise LossNotFoundError(
                f"the loss {name!r} is {describe(array)}, which has no gradient; return the float "
                "that the step differentiates (of several values, select it with total=)"
            )
        losses[name] = values.add_up(array)
        if array.ndim:
            vectors[name] = OutputLoss(per_example=array, row_splits=row_splits, reduction="sum")
            replica_counts = replica_counts or values.count_rows(value)
    return Captured(losses, vectors if outputs is None else outputs, replica_counts)


def _fields(result: Any) -> Mapping[Any, Any]:
    """Returns what a mapping or named tuple holds by name; nothing of anything else."""
    if isinstance(result, tuple) and hasattr(result, "_asdict"):
        return dict(result._asdict())
    return result if isinstance(result, Mapping) else {}


def _losses_of(value: Any) -> Mapping[Any, Array]:
    """Returns what a mapping of floating scalars alone holds, read once; {} of anything else."""
    if not isinstance(value, Mapping):
        return {}
    try:
        arrays = {name: values.to_array(each)[0] for name, each in value.items()}
    except LossNotFoundError:
        return {}
    are_losses = all(array.ndim == 0 and values.is_floating(array) for array in arrays.values())
    return arrays if are_losses else {}


def _remedy(result: Any) -> str:
    """Returns what to do about a result: selecting a loss works only if there is one."""
    for _, leaf in _leaves(result, ()):
        with contextlib.suppress(LossNotFoundError):
            array, _ = values.to_array(leaf)
            if array.ndim or values.is_floating(array):
                return (
                    "say which part is the loss per example, with loss=, and what is "
                    "differentiated, with total= (keys, indexes or callables)"
                )
    return "return the loss from the step: per example, or the float that it differentiates"


def _pick(result: Any, selector: Selector, option: str) -> Any:
    try:
        if callable(selector):
            return selector(result)
        if isinstance(selector, str) and not isinstance(result, Mapping):
            return getattr(result, selector)
        return result[selector]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise LossNotFoundError(
            f"{option}={selector!r} is not in what the step returned: {values.outline(result)}"
        ) from error


def _outputs(value: Any) -> Iterator[tuple[str, OutputLoss]]:
    """Yields the name, made unique, and the values of each output of a nested structure."""
    taken: set[str] = set()
    leaves = list(_leaves(value, ()))
    if not leaves:
        raise LossNotFoundError(f"the loss is {values.outline(value)}, with no tensor in it")
    for path, leaf in leaves:
        name = values.unique("/".join(path), taken)
        array, row_splits = values.to_array(leaf, name)
        if array.ndim == 0:
            raise LossNotFoundError(
                f"the loss {name!r} is a scalar among several values; return a flat mapping of "
                "scalars alone, the losses, or values per example alone"
            )
        yield name, OutputLoss(per_example=array, row_splits=row_splits)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) or _fields(value):
        for key, item in _fields(value).items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, value
