"""What a training step returned → the loss as NumPy arrays, in the dtype of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array, describe
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.errors import LossNotFoundError
from tb_firstloss.first_batch import OutputLoss

RemoteValue = tf.distribute.experimental.coordinator.RemoteValue

Selector = str | int | Callable[[Any], Any]
"""A key, an index, or a callable that takes what the step returned."""


@dataclasses.dataclass(frozen=True)
class Captured:
    """The loss of one step.

    Attributes:
        loss: What the optimizer differentiates, usually []; None when the step gave none.
        outputs: Per-example values by output name.
        replica_counts: Number of examples of each replica, in the order of the examples; empty
            for a value that is not per replica.
    """

    loss: Array | None
    outputs: dict[str, OutputLoss]
    replica_counts: tuple[int, ...] = ()


def select(result: Any, *, loss: Selector | None = None, total: Selector | None = None) -> Captured:
    """Takes the loss out of what a step returned.

    Args:
        result: What the step returned.
        loss: Where the loss is: of rank 0 it is the total, of rank 1 or more the per-example
            loss; a mapping or sequence of tensors gives one output each. None takes a lone tensor
            or a mapping's "loss".
        total: Where the loss that is differentiated is, if the step returns that too.

    Raises:
        LossNotFoundError: Nothing usable there; the message lists what was returned.
    """
    if isinstance(result, RemoteValue):
        result = result.fetch()
    if loss is None and total is not None and not _has_default(result):
        return Captured(loss=_total(_pick(result, total, "total")), outputs={})
    value = _default(result) if loss is None else _pick(result, loss, "loss")
    name = loss if isinstance(loss, str) else "loss"
    chosen_total = None if total is None else _total(_pick(result, total, "total"))
    if not isinstance(value, (Mapping, list, tuple)):
        array, row_splits = to_array(value)
        if array.ndim == 0:
            return Captured(loss=array if chosen_total is None else chosen_total, outputs={})
        output = OutputLoss(per_example=array, row_splits=row_splits)
        return Captured(chosen_total, {name: output}, count_rows(value))
    leaf = next((leaf for _, leaf in _leaves(value, ())), None)
    return Captured(chosen_total, dict(_outputs(value)), count_rows(leaf))


def describe_batch(captured: Captured) -> dict[str, Any]:
    """Returns what metadata says of the batch: its size, and each replica's share of it."""
    facts: dict[str, Any] = {}
    output = next(iter(captured.outputs.values()), None)
    if output is not None and output.per_example is not None:
        rows = replicas.row_count((output.per_example, output.row_splits))
        facts["global_batch_size"] = rows
    if captured.replica_counts:
        facts["replica_counts"] = list(captured.replica_counts)
        facts["replicas"] = len(captured.replica_counts)
    return facts


def count_rows(value: Any) -> tuple[int, ...]:
    """Returns the number of examples that each replica has in a per-replica value, or nothing."""
    parts = replicas.local_values(value)
    return tuple(replicas.row_count(_one_array(part)) for part in parts) if len(parts) > 1 else ()


def to_array(value: Any) -> tuple[Array, tuple[Array, ...]]:
    """Turns one loss value into its array, and the row splits if it is ragged.

    The values of several replicas become one: see `replicas.combine`.

    Raises:
        LossNotFoundError: No value of a real numeric dtype, or a symbolic tensor.
    """
    return replicas.combine([_one_array(part) for part in replicas.local_values(value)])


def _one_array(value: Any) -> tuple[Array, tuple[Array, ...]]:
    if isinstance(value, tf.RaggedTensor):
        array, _ = _one_array(value.flat_values)
        return array, tuple(_one_array(splits)[0] for splits in value.nested_row_splits)
    if tf.is_symbolic_tensor(value):
        raise LossNotFoundError(
            f"the loss is a symbolic tensor ({value.name}), which has no value outside its "
            "tf.function; return it from the step, and wrap or record where the step is called"
        )
    if isinstance(value, (tf.Tensor, tf.Variable)):
        if value.dtype in (tf.string, tf.resource, tf.variant):
            raise LossNotFoundError(f"the loss is a tensor of {value.dtype.name}, not of numbers")
        array = value.numpy()
    elif isinstance(value, (np.ndarray, np.generic, float, int)):
        array = np.asarray(value)
    else:
        raise LossNotFoundError(f"the loss is {outline(value)}, not a tensor")
    if not _is_real_number(array.dtype):
        raise LossNotFoundError(f"the loss has dtype {array.dtype.name}; it needs real numbers")
    return array, ()


def outline(value: Any) -> str:
    """Says in a few words what a step returned, for messages."""
    if isinstance(value, Mapping):
        return "a mapping with " + (_list((f"{k!r}", v) for k, v in value.items()) or "no keys")
    if isinstance(value, (list, tuple)):
        kind = type(value).__name__
        return f"a {kind} with " + (_list((f"[{i}]", v) for i, v in enumerate(value)) or "no items")
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
            f"the step returned {outline(result)}; say which of it is the loss, with loss= (a key, "
            "an index or a callable)"
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
            f"{option}={selector!r} is not in what the step returned: {outline(result)}"
        ) from error


def _total(value: Any) -> Array:
    array, row_splits = to_array(value)
    if row_splits:
        raise LossNotFoundError("the total loss is ragged; it needs a dense tensor")
    return array


def _outputs(value: Any) -> Iterator[tuple[str, OutputLoss]]:
    """Yields name and values of each output of a nested structure, names made unique."""
    taken: set[str] = set()
    leaves = list(_leaves(value, ()))
    if not leaves:
        raise LossNotFoundError(f"the loss is {outline(value)}, with no tensor in it")
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
