"""Values of a jit-compiled step, taken so that XLA compiles the rest of it as without us.

XLA adds up the values of a batch in one go, without keeping them, only while nobody else asks for
them: a step that also returned them would report a loss that differs in its last bits. So what is
returned is a copy: the operations behind the last products and convolutions, whose results XLA
keeps anyway, once more on these results. A barrier keeps XLA from finding out that they are the
same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_BARRIER = "XlaOptimizationBarrier"
"""Operation that returns its inputs, and that XLA does not look through."""

_KEPT = re.compile(
    r"MatMul|Conv\dD|Conv2d|Convolution|Einsum|Dot|FusedBatchNorm|While|FFT|TopK|Sort|Scan"
    r"|Cholesky|Qr|Svd|Eig|MatrixInverse|MatrixSolve|MatrixTriangularSolve|CustomCall"
    r"|Range|LinSpace"
)
"""Types of operations whose results XLA keeps, and that would cost time twice; and those whose
floats it has to know when it compiles."""


def recompute(values: tf.Tensor) -> tf.Tensor:
    """Returns values, computed once more from what the same forward pass keeps.

    Operations are copied in the graph: no Python of the user's is called again, nothing is added
    before an operation of the step's own, and nothing that keeps a state is run twice.

    Args:
        values: Tensor of a graph that XLA compiles; no other device has the barrier.

    Returns:
        A tensor of the same dtype and shape; the values themselves where nothing is to be copied:
        they are an argument of the step, or a product, or come from integers alone.
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
                # Integers may be shapes and axes, which XLA has to know when it compiles.
                if _is_float(tensor) and tensor.name not in names and tensor.op.type != "Const":
                    names[tensor.name] = f"{_BARRIER}:{len(names)}"
                    barrier.input.append(tensor.name)
                    barrier.attr["T"].list.type.append(tensor.dtype.as_datatype_enum)
            node.input.append(names.get(tensor.name, tensor.name))
        for name, attribute in operation.node_def.attr.items():
            if name != "_class":  # beside which other operation it is to run
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


def _is_float(tensor: tf.Tensor) -> bool:
    return bool(tensor.dtype.is_floating or tensor.dtype.is_complex)


def _operations_of(values: tf.Tensor) -> list[tf.Operation]:
    """Returns the operations that lead to values from what is kept, in the order of the graph."""
    bodies = _Bodies(values.graph)
    found: set[str] = set()
    waiting = [values.op]
    while waiting:
        operation = waiting.pop()
        if operation.name not in found and not bodies.is_kept(operation):
            found.add(operation.name)
            waiting.extend(tensor.op for tensor in operation.inputs)
    return [operation for operation in values.graph.get_operations() if operation.name in found]


class _Bodies:
    """Tells which operations of a graph are kept, looking into the functions that they call."""

    def __init__(self, graph: tf.Graph) -> None:
        self._graph = graph
        self._library: dict[str, Any] | None = None  # FunctionDef protos by name

    def is_kept(self, operation: tf.Operation) -> bool:
        """Tells whether an operation is an end of what is copied."""
        if operation.type.startswith("CheckNumerics"):
            return False  # it has a state only so that TensorFlow does not leave it out
        if operation.type in ("Const", "Placeholder") or operation.op_def.is_stateful:
            return True
        if _KEPT.search(operation.type):
            return True
        return any(not self._is_light(name) for name in _functions_in(operation.node_def))

    def _is_light(self, function: str) -> bool:
        if self._library is None:
            functions = self._graph.as_graph_def().library.function
            self._library = {body.signature.name: body for body in functions}
        body = self._library.get(function)
        if body is None or body.signature.is_stateful:
            return False
        return not any(
            _KEPT.search(node.op) or any(not self._is_light(name) for name in _functions_in(node))
            for node in body.node_def
        )


def _functions_in(node: tf.compat.v1.NodeDef) -> Iterator[str]:
    """Yields the names of the functions that a node calls."""
    for attribute in node.attr.values():
        called = [attribute.func, *attribute.list.func]
        yield from (function.name for function in called if function.name)
