"""Per-replica values → one tensor, with the examples in replica order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array, describe
from tb_firstloss.errors import LossNotFoundError

Values = tuple[Array, tuple[Array, ...]]
"""Values, and their row splits if they are ragged."""


def local_values(value: Any) -> tuple[Any, ...]:
    """Returns the values of this process's replicas, in replica order; a lone value as one.

    What it has returned before, a tuple, it returns unchanged.
    """
    if isinstance(value, tuple):
        return value
    if not is_per_replica(value):
        return (value,)
    # strategy.experimental_local_results returns the same, but only for the strategy's own values,
    # and nothing public says which strategy a value belongs to (TensorFlow 2.16 to 2.21).
    return tuple(value.values)


def is_per_replica(value: Any) -> bool:
    """Returns whether a value has one component per replica; a variable counts as one value."""
    distributed = isinstance(value, tf.distribute.DistributedValues)
    return distributed and hasattr(value, "values") and not hasattr(value, "assign")


def combine(parts: Sequence[Values]) -> Values:
    """Combines the values of all replicas into one tensor, with the examples in replica order.

    Scalars are summed, as in training: each replica's loss is its share of the global one. Tensors
    are concatenated, into a ragged one if they differ in their second dimension; a
    LossNotFoundError lists other differences.
    """
    if len(parts) == 1:
        return parts[0]
    with_rows = [part for part in parts if part[0].ndim == 0 or len(part[0])]
    parts = with_rows or parts[:1]
    arrays = [array for array, _ in parts]
    if len({(array.dtype, array.ndim) for array in arrays}) > 1:
        raise _different(arrays)
    if arrays[0].ndim == 0:
        return tf.add_n([tf.constant(array) for array in arrays]).numpy(), ()
    if not any(splits for _, splits in parts):
        if len({array.shape[1:] for array in arrays}) == 1:
            return np.concatenate(arrays), ()
        if len({array.shape[2:] for array in arrays}) > 1:
            raise _different(arrays)
        parts = [_as_ragged(array) for array in arrays]
    if len({len(splits) for _, splits in parts}) > 1:
        raise _different(arrays)
    flat = np.concatenate([array for array, _ in parts])
    levels = zip(*(splits for _, splits in parts), strict=True)
    return flat, tuple(_join_row_splits(level) for level in levels)


def row_count(values: Values) -> int:
    """Returns the number of examples of one replica."""
    array, row_splits = values
    return len(row_splits[0]) - 1 if row_splits else len(array)


def _as_ragged(array: Array) -> Values:
    rows, columns = array.shape[:2]
    flat = array.reshape(rows * columns, *array.shape[2:])
    return flat, (np.arange(rows + 1, dtype=np.int64) * columns,)


def _join_row_splits(level: Sequence[Array]) -> Array:
    joined = [level[0]]
    for splits in level[1:]:
        joined.append(splits[1:] + joined[-1][-1])
    return np.concatenate(joined)


def _different(arrays: Sequence[Array]) -> LossNotFoundError:
    found = ", ".join(describe(array) for array in arrays)
    return LossNotFoundError(
        f"the replicas' losses do not fit together: {found}; return tensors of one dtype that "
        "differ in their first two dimensions only"
    )
