"""Per-example values of a jit-compiled step, recomputed so that XLA compiles the rest unchanged.

See "The XLA barrier" in the README beside this file.
"""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.window import tensorflow_private

_BARRIER = "XlaOptimizationBarrier"
"""Operation that returns its inputs and is opaque to XLA's optimizations."""

_KEPT = re.compile(
    r"MatMul|Conv\dD|Conv2d|Convolution|Einsum|Dot|FusedBatchNorm|While|FFT|TopK|Sort|Scan"
    r"|Cholesky|Qr|Svd|Eig|MatrixInverse|MatrixSolve|MatrixTriangularSolve|CustomCall"
    r"|Range|LinSpace"
)
"""Types of operations whose results XLA keeps and that would be costly to run twice, and of those
whose floats it must know at compile time."""


_Bodies = dict[str, Any]
"""FunctionDef protos by name."""


def recompute(values: tf.Tensor) -> tf.Tensor:
    """Returns values recomputed from what the same forward pass keeps.

    The operations are copied in the graph, which XLA has to compile, since no other device has the
    barrier: no Python code of the user runs again, nothing is added in front of an operation of the
    step, and nothing that keeps a state runs twice. Values with nothing to copy, such as an
    argument of the step, a product, or what is computed from integers alone, are returned as given.
    """
    copied = {operation.name: operation for operation in _operations_of(values)}
    definition = tf.compat.v1.GraphDef(versions=values.graph.graph_def_versions)
    barrier = definition.node.add(name=_BARRIER, op=_BARRIER)
    given: dict[str, tf.Tensor] = {}
    names: dict[str, str] = {}
    for operation in copied.values():
        node = definition.node.add(name=operation.name, op=operation.type)
        for tensor in operation.inputs:
            if tensor.op.name not in copied:
                given[tensor.name] = tensor
                # Integers may be shapes and axes, which XLA must know at compile time.
                is_float = tensor.dtype.is_floating or tensor.dtype.is_complex
                if is_float and tensor.name not in names and tensor.op.type != "Const":
                    names[tensor.name] = f"{_BARRIER}:{len(names)}"
                    barrier.input.append(tensor.name)
                    barrier.attr["T"].list.type.append(tensor.dtype.as_datatype_enum)
            node.input.append(names.get(tensor.name, tensor.name))
        for name, attribute in operation.node_def.attr.items():
            if name != tensorflow_private.COLOCATION:  # it may name operations that are not copied
                node.attr[name].CopyFrom(attribute)
    if not names:
        return values
    try:
        (copy,) = tf.graph_util.import_graph_def(
            definition, input_map=given, return_elements=[values.name], name="first_loss"
        )
    except (ValueError, tf.errors.OpError):  # a version of TensorFlow without the barrier
        return values
    return copy


def _operations_of(values: tf.Tensor) -> list[tf.Operation]:
    """Returns the operations between what XLA keeps and the values, in the order of the graph."""

    @functools.cache
    def bodies() -> _Bodies:
        return {body.signature.name: body for body in values.graph.as_graph_def().library.function}

    found: set[str] = set()
    waiting = [values.op]
    while waiting:
        operation = waiting.pop()
        if operation.name not in found and not _is_kept(operation, bodies):
            found.add(operation.name)
            waiting.extend(tensor.op for tensor in operation.inputs)
    return [operation for operation in values.graph.get_operations() if operation.name in found]


def _is_kept(operation: tf.Operation, bodies: Callable[[], _Bodies]) -> bool:
    """Returns whether copying stops at an operation."""
    if operation.type.startswith("CheckNumerics"):
        return False  # it is stateful only so that TensorFlow does not prune it
    if operation.type in ("Const", "Placeholder") or operation.op_def.is_stateful:
        return True
    return _is_heavy(operation.node_def, bodies)


def _is_heavy(node: tf.compat.v1.NodeDef, bodies: Callable[[], _Bodies]) -> bool:
    """Returns whether XLA keeps a node's result, or that of a node in the functions it calls."""
    if _KEPT.search(node.op):
        return True
    called = itertools.chain(*([each.func, *each.list.func] for each in node.attr.values()))
    for name in (function.name for function in called if function.name):
        body = bodies().get(name)
        if body is None or body.signature.is_stateful:
            return True
        if any(_is_heavy(inner, bodies) for inner in body.node_def):
            return True
    return False
