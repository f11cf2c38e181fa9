"""What a training step returned → its loss as NumPy arrays, in the dtype of training."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array, describe
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.errors import LossNotFoundError
from tb_firstloss.first_batch import FirstBatch, OutputLoss

RemoteValue = tf.distribute.experimental.coordinator.RemoteValue

Selector = str | int | Callable[[Any], Any]
"""A key, an index, or a callable that takes what the step returned."""


@dataclasses.dataclass(frozen=True)
class Captured:
    """The loss of one step.

    Attributes:
        losses: What the step differentiates, each [], by name; empty if it returned none.
        outputs: Per-example values by output name.
        replica_counts: Number of examples per replica, in the order of the examples; empty for a
            value that is not per replica.
    """

    losses: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, OutputLoss] = dataclasses.field(default_factory=dict)
    replica_counts: tuple[int, ...] = ()

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
        """Reads the loss.

        Raises:
            LossNotFoundError: The result holds nothing usable as a loss.
        """


@dataclasses.dataclass
class StepResult:
    """What a step returned, and where its loss is in it.

    Attributes:
        value: What the step returned.
        loss: Where the loss is: of rank 0 it is the total, of rank 1 or more the per-example loss;
            a mapping or sequence of tensors holds one output each. None takes a lone tensor, or a
            mapping's "loss".
        total: Where the differentiated loss is, if the step returns that too.
    """

    value: Any
    loss: Selector | None = None
    total: Selector | None = None
    _captured: Captured | None = dataclasses.field(default=None, init=False)

    def captured(self) -> Captured:
        """Reads the loss, once; see `HasLoss`. The message of its error lists what was returned."""
        if self._captured is None:
            self._captured = self._read()
        return self._captured

    def _read(self) -> Captured:
        result = self.value
        if isinstance(result, RemoteValue):
            result = result.fetch()
        if self.loss is None and self.total is not None and not _has_default(result):
            return Captured({"loss": _read_total(result, self.total)})
        value = _default(result) if self.loss is None else _pick(result, self.loss, "loss")
        losses = {} if self.total is None else {"loss": _read_total(result, self.total)}
        if isinstance(value, (Mapping, list, tuple)):
            outputs = dict(_outputs(value))
            return Captured(losses, outputs, count_rows(next(_leaves(value, ()))[1]))
        array, row_splits = to_array(value)
        if array.ndim == 0:
            return Captured(losses or {"loss": array})
        name = self.loss if isinstance(self.loss, str) else "loss"
        output = OutputLoss(per_example=array, row_splits=row_splits)
        return Captured(losses, {name: output}, count_rows(value))


def count_rows(value: Any) -> tuple[int, ...]:
    """Returns each replica's number of examples in a per-replica value; () for other values."""
    parts = replicas.local_values(value)
    return tuple(replicas.row_count(_one_array(part)) for part in parts) if len(parts) > 1 else ()


def to_array(value: Any) -> tuple[Array, tuple[Array, ...]]:
    """Turns one loss value into its array, and its row splits if it is ragged.

    `replicas.combine` makes one value out of those of several replicas.

    Raises:
        LossNotFoundError: A symbolic tensor, or no real numbers.
    """
    return replicas.combine([_one_array(part) for part in replicas.local_values(value)])


def _one_array(value: Any) -> tuple[Array, tuple[Array, ...]]:
    if isinstance(value, tf.RaggedTensor):
        array, _ = _one_array(value.flat_values)
        return array, tuple(_one_array(splits)[0] for splits in value.nested_row_splits)
    if tf.is_symbolic_tensor(value):
        raise LossNotFoundError(
            f"the loss is a symbolic tensor ({value.name}), which has no value outside its "
            "tf.function; return it from the step, and wrap or record where you call the step"
        )
    if isinstance(value, (tf.Tensor, tf.Variable)):
        if value.dtype in (tf.string, tf.resource, tf.variant):
            raise LossNotFoundError(f"the loss is a tensor of {value.dtype.name}, not of numbers")
        array = value.numpy()
    elif isinstance(value, (np.ndarray, np.generic, float, int)):
        array = np.asarray(value)
    else:
        raise LossNotFoundError(f"the loss is {_outline(value)}, not a tensor")
    if not _is_real_number(array.dtype):
        raise LossNotFoundError(f"the loss has dtype {array.dtype.name}; it needs real numbers")
    return array, ()


def _outline(value: Any) -> str:
    """Describes in a few words what a step returned, for messages."""
    if isinstance(value, Mapping):
        return "a mapping with " + (_list((f"{k!r}", v) for k, v in value.items()) or "no keys")
    if isinstance(value, (list, tuple)):
        items = _list((f"[{i}]", v) for i, v in enumerate(value)) or "no items"
        return f"a {type(value).__name__} with {items}"
    return _outline_leaf(value)


def _list(items: Iterator[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}: {_outline_leaf(value)}" for name, value in items)


def _outline_leaf(value: Any) -> str:
    if replicas.is_per_replica(value):
        parts = ", ".join(_outline_leaf(part) for part in replicas.local_values(value))
        return f"per replica ({parts})"
    if value is None:
        return "None"
    if isinstance(value, (np.ndarray, np.generic)):
        return describe(np.asarray(value))
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tf.TensorShape) and dtype is not None:
        return f"{tf.as_dtype(dtype).name}{shape.as_list() if shape.rank is not None else ''}"
    if isinstance(value, (float, int)):
        return repr(value)
    return f"a {type(value).__name__}"


def _is_value(value: Any) -> bool:
    tensors = (tf.Tensor, tf.Variable, tf.RaggedTensor, tf.distribute.DistributedValues)
    return isinstance(value, (*tensors, np.ndarray, np.generic, float, int))


def _has_default(result: Any) -> bool:
    return _is_value(result) or (isinstance(result, Mapping) and "loss" in result)


def _default(result: Any) -> Any:
    if not _has_default(result):
        raise LossNotFoundError(
            f"the step returned {_outline(result)}; say which part is the loss, with loss= (a "
            "key, an index or a callable)"
        )
    return result["loss"] if isinstance(result, Mapping) else result


def _pick(result: Any, selector: Selector, option: str) -> Any:
    try:
        if callable(selector):
            return selector(result)
        if isinstance(selector, str) and not isinstance(result, Mapping):
            return getattr(result, selector)
        return result[selector]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise LossNotFoundError(
            f"{option}={selector!r} is not in what the step returned: {_outline(result)}"
        ) from error


def _read_total(result: Any, total: Selector) -> Array:
    array, row_splits = to_array(_pick(result, total, "total"))
    if row_splits:
        raise LossNotFoundError("the total loss is ragged; give a dense tensor")
    return add_up(array)


def add_up(values: Array) -> Array:
    """Returns the sum of the elements, [] in their dtype: what is differentiated of a tensor."""
    return tf.reduce_sum(tf.constant(values)).numpy() if values.ndim else values


def _outputs(value: Any) -> Iterator[tuple[str, OutputLoss]]:
    """Yields the name, made unique, and the values of each output of a nested structure."""
    taken: set[str] = set()
    leaves = list(_leaves(value, ()))
    if not leaves:
        raise LossNotFoundError(f"the loss is {_outline(value)}, with no tensor in it")
    for path, leaf in leaves:
        array, row_splits = to_array(leaf)
        name = unique("/".join(path), taken)
        if array.ndim == 0:
            raise LossNotFoundError(
                f"the loss {name!r} is a scalar among several outputs; return its per-example loss"
            )
        yield name, OutputLoss(per_example=array, row_splits=row_splits)


def unique(name: str, taken: set[str]) -> str:
    """Returns the name, numbered if it is in ``taken``, and adds it there."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, value


def _is_real_number(dtype: np.dtype[Any]) -> bool:
    if dtype.isbuiltin == 1:
        return dtype.kind in "fiu"
    return getattr(ml_dtypes, dtype.name, None) is not None
