"""Which tensors of a step are made from which."""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

_KEEP_MEANING = ("Identity", "Mean", "Cast")
"""Types of operations after which a person still calls a loss by the same name."""


def is_usable(value: Any) -> bool:
    """Returns whether a value is a tensor that the function being traced can return.

    What an inner tf.function or tf.cond of the step computes belongs to another graph.
    """
    if isinstance(value, tf.RaggedTensor):
        return is_usable(value.flat_values)
    if not isinstance(value, tf.Tensor):
        return False
    if tf.is_symbolic_tensor(value):
        return bool(value.graph is tf.compat.v1.get_default_graph())
    return bool(tf.executing_eagerly())


def is_made_from(made: Any, source: Any) -> bool:
    """Returns whether a tensor is another one, or its mean or sum and nothing else.

    Eager tensors do not know what they were made from; there, values decide.
    """
    if made is source:
        return True
    if not (is_usable(made) and is_usable(source)):
        return False
    if isinstance(made, tf.RaggedTensor) or isinstance(source, tf.RaggedTensor):
        return False
    if tf.is_symbolic_tensor(made):
        return any(tensor.name == source.name for tensor in _steps_back(made, source))
    if made.shape.rank or not source.shape.rank or not source.dtype.is_floating:
        return False
    reduced = (reduce(source).numpy().tobytes() for reduce in (tf.reduce_mean, tf.reduce_sum))
    return made.numpy().tobytes() in reduced


def _steps_back(made: tf.Tensor, source: tf.Tensor) -> Iterator[tf.Tensor]:
    """Yields a tensor and what it repeats: copies, means, and the sum of all of the source."""
    tensor = made
    while True:
        yield tensor
        sums = tensor.op.type == "Sum" and not tensor.shape.rank and source.shape.rank
        if not (sums or tensor.op.type in _KEEP_MEANING) or not tensor.dtype.is_floating:
            return
        tensor = tensor.op.inputs[0]


def find_contributions(
    values: Sequence[Any], totals: Sequence[Sequence[Any]], tape: tf.GradientTape | None
) -> list[list[int]]:
    """Returns for each value the numbers of the totals, each a sum of tensors, that it goes into.

    Of eager tensors, ``tape`` has watched the values; it is None for those of a graph.
    """
    if tape is not None:
        return [[k for k, total in enumerate(totals) if _is_in(v, total, tape)] for v in values]
    named = {i: _operation(value) for i, value in enumerate(values) if is_usable(value)}
    if not named:
        return [[] for _ in values]
    graph = tf.compat.v1.get_default_graph()
    order = {operation.name: i for i, operation in enumerate(graph.get_operations())}
    # What was created before the first value cannot have been made from one.
    first = min(order[operation.name] for operation in named.values())
    behind = [_operations_behind(members, order, first) for members in totals]
    return [
        [k for k, found in enumerate(behind) if i in named and named[i].name in found]
        for i in range(len(values))
    ]


def _is_in(value: Any, total: Sequence[Any], tape: tf.GradientTape) -> bool:
    usable = [member for member in total if is_usable(member)] if is_usable(value) else []
    return any(tape.gradient(member, value) is not None for member in usable)


def _operation(value: Any) -> tf.Operation:
    return value.flat_values.op if isinstance(value, tf.RaggedTensor) else value.op


def _operations_behind(members: Sequence[Any], order: dict[str, int], first: int) -> set[str]:
    found: set[str] = set()
    waiting = [_operation(member) for member in members if is_usable(member)]
    while waiting:
        operation = waiting.pop()
        if operation.name not in found and order[operation.name] >= first:
            found.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
    return found
