"""Values per example of a jit-compiled step, taken so that XLA compiles the step as without us.

XLA adds up the values of a batch in one go, without keeping them, only while nobody else asks for
them: a step that also returned them would report a loss that differs in its last bits. So what is
returned is a copy: the same operations on the same predictions, behind a barrier that keeps XLA
from finding out that they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

_BARRIER = "XlaOptimizationBarrier"
"""Operation that returns its inputs, and that XLA does not look through."""


def recompute(values: tf.Tensor, predictions: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns values, computed once more from the predictions of the same forward pass.

    Operations are copied in the graph; no Python of the user's is called again, and nothing is
    added before an operation of the step's own.

    Args:
        values: Tensor of a graph that is compiled by XLA; what it runs without has no such barrier.
        predictions: Tensors of that graph from which the values are computed.

    Returns:
        A tensor of the same dtype and shape; the values themselves where no copy can be made:
        between the two is an operation with a state, such as a random one, or none at all.
    """
    operations = _between(predictions, values)
    if not operations or any(operation.op_def.is_stateful for operation in operations):
        return values
    graph = values.graph
    definition = tf.compat.v1.GraphDef(versions=graph.graph_def_versions)
    barrier = definition.node.add(name=_BARRIER, op=_BARRIER)
    barrier.attr["T"].list.type.extend(tensor.dtype.as_datatype_enum for tensor in predictions)
    barrier.input.extend(tensor.name for tensor in predictions)
    names = {tensor.name: f"{_BARRIER}:{n}" for n, tensor in enumerate(predictions)}
    given = {tensor.name: tensor for tensor in predictions}
    copied = {operation.name for operation in operations}
    for operation in operations:
        node = definition.node.add(name=operation.name, op=operation.type)
        node.input.extend(names.get(tensor.name, tensor.name) for tensor in operation.inputs)
        for name, attribute in operation.node_def.attr.items():
            if not name.startswith("_"):  # where it is, and how its gradient is taken
                node.attr[name].CopyFrom(attribute)
        outside = [tensor for tensor in operation.inputs if tensor.op.name not in copied]
        given |= {tensor.name: tensor for tensor in outside if tensor.name not in names}
    try:
        (copy,) = tf.graph_util.import_graph_def(
            definition, input_map=given, return_elements=[values.name], name="first_loss"
        )
    except (ValueError, tf.errors.OpError):  # a version of TensorFlow without the barrier
        return values
    return copy


def _between(sources: Sequence[tf.Tensor], target: tf.Tensor) -> list[tf.Operation]:
    """Returns the operations that lead from sources to a target, in the order of the graph."""
    starts = {tensor.name for tensor in sources}
    behind: dict[str, tf.Operation] = {}
    for operation in target.graph.get_operations():
        if any(t.name in starts or t.op.name in behind for t in operation.inputs):
            behind[operation.name] = operation
    needed: set[str] = set()
    waiting = [target]
    while waiting:
        tensor = waiting.pop()
        name = tensor.op.name
        if name in behind and name not in needed and tensor.name not in starts:
            needed.add(name)
            waiting.extend(behind[name].inputs)
    return [operation for name, operation in behind.items() if name in needed]
