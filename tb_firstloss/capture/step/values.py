"""One value of a step's result, of whatever type → an array in the dtype of training."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array, describe, to_float64
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.errors import LossNotFoundError

_NUMBERS = (np.ndarray, np.generic, float, int)


def to_array(value: Any, name: str = "") -> tuple[Array, tuple[Array, ...]]:
    """Turns one loss value, of one replica or several, into its array, and row splits if ragged.

    A LossNotFoundError says by that name that it is a symbolic tensor, or has no real numbers.
    """
    what = "the loss" if name in ("", "loss") else f"the loss {name!r}"
    return replicas.combine([_one_array(part, what) for part in replicas.local_values(value)])


def add_up(values: Array) -> Array:
    """Returns the sum of the elements, [] in their dtype: what is differentiated of a tensor."""
    if values.dtype.itemsize == 1:  # float8, which TensorFlow cannot add
        return np.asarray(to_float64(values).sum().astype(values.dtype))
    return tf.reduce_sum(tf.constant(values)).numpy() if values.ndim else values


def _one_array(value: Any, what: str = "the loss") -> tuple[Array, tuple[Array, ...]]:
    if isinstance(value, tf.RaggedTensor):
        array, _ = _one_array(value.flat_values, what)
        return array, tuple(_one_array(splits)[0] for splits in value.nested_row_splits)
    value = getattr(value, "value", value) if _is_keras_variable(value) else value
    if tf.is_symbolic_tensor(value):
        raise LossNotFoundError(
            f"{what} is a symbolic tensor ({value.name}), which has no value outside its "
            "tf.function; return it from the step, and wrap or record where you call the step"
        )
    if isinstance(value, (tf.SparseTensor, tf.IndexedSlices)):
        raise LossNotFoundError(
            f"{what} is of type {type(value).__name__}; return a dense tensor "
            "(tf.sparse.to_dense, tf.convert_to_tensor)"
        )
    if isinstance(value, (tf.Tensor, tf.Variable)):
        if value.dtype in (tf.string, tf.resource, tf.variant):
            raise LossNotFoundError(f"{what} is a tensor of {value.dtype.name}, not of numbers")
        try:
            array = value.numpy()
        except tf.errors.UnimplementedError as error:
            raise LossNotFoundError(
                f"{what} is a DTensor in shards; return it replicated (dtensor.relayout)"
            ) from error
    elif isinstance(value, _NUMBERS):
        array = np.asarray(value)
    else:
        raise LossNotFoundError(f"{what} is {outline(value)}, not a tensor; return the tensor")
    if not _is_real_number(array.dtype):
        raise LossNotFoundError(f"{what} has dtype {array.dtype.name}; it needs real numbers")
    return array, ()


def count_rows(value: Any) -> tuple[int, ...]:
    """Returns each replica's number of examples in a per-replica value; () for other values."""
    parts = replicas.local_values(value)
    return tuple(replicas.row_count(_one_array(part)) for part in parts) if len(parts) > 1 else ()


def is_value(value: Any) -> bool:
    """Returns whether a value is a tensor, array or number, and no structure of them."""
    tensors = (tf.Tensor, tf.Variable, tf.RaggedTensor, tf.distribute.DistributedValues)
    sparse = (tf.SparseTensor, tf.IndexedSlices)  # to be refused by name
    return isinstance(value, (*tensors, *_NUMBERS, *sparse)) or _is_keras_variable(value)


def _is_keras_variable(value: Any) -> bool:
    """Returns whether a value is a Keras 3 Variable, which is no tf.Variable but holds one."""
    held = getattr(value, "value", None)
    return isinstance(held, (tf.Variable, tf.Tensor)) and hasattr(value, "assign")


def outline(value: Any) -> str:
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


def is_floating(array: Array) -> bool:
    """Returns whether an array's dtype has a gradient."""
    return bool(tf.as_dtype(array.dtype).is_floating)


def _is_real_number(dtype: np.dtype[Any]) -> bool:
    if dtype.isbuiltin == 1:
        return dtype.kind in "fiu"
    return getattr(ml_dtypes, dtype.name, None) is not None


def unique(name: str, taken: set[str]) -> str:
    """Returns the name, numbered if it is in ``taken``, and adds it there."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    free = next(candidate for candidate in names if candidate not in taken)
    taken.add(free)
    return free
