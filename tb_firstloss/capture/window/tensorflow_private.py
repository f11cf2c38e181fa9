"""What TensorFlow 2.16 to 2.21 has no public call for.

No other file of the package names a private part of TensorFlow; a test holds that. Where a future
version has moved one, its function returns an empty answer; callers then do without it and say
what is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

COLOCATION = "_class"
"""Attribute of a node: the operations next to which it is to run."""

_ENDS = frozenset({"_Arg", "_DeviceArg", "_Retval", "_DeviceRetval"})


class UnchangingState(tf.train.experimental.PythonState):  # type: ignore[misc]  # TensorFlow is untyped
    """State of a checkpoint that never changes once it is set, and so is its own copy."""

    def _copy_trackable_to_cpu(self, object_map: dict[Any, Any]) -> None:
        # Asynchronous checkpoints ask for a copy.
        object_map[self] = self


def graph_collector() -> Any:
    """Returns the eager context, which collects graphs; None if it cannot be stopped again.

    ``tf.summary.trace_on`` starts the collection. trace_off and trace_export leave it on, so that
    every function built later is copied into memory; only the context's own method ends it.
    """
    context = getattr(_module("tensorflow.python.eager.context"), "context", lambda: None)()
    needed = ("export_run_metadata", "disable_graph_collection")
    return context if all(hasattr(context, name) for name in needed) else None


def running_trace() -> Any:
    """Returns what ``tf.summary.trace_on`` has started, or None."""
    summary_ops = _module("tensorflow.python.ops.summary_ops_v2")
    return getattr(summary_ops, "_current_trace_context", None)


def running_profiler() -> Any:
    """Returns the profiler session of ``tf.profiler.experimental.start``, or None."""
    return getattr(_module("tensorflow.python.profiler.profiler_v2"), "_profiler", None)


def op_determinism() -> bool | None:
    """Returns whether ``enable_op_determinism`` has been called; None if that is unknown."""
    ask = getattr(_module("tensorflow.python.framework.config"), "is_op_determinism_enabled", None)
    return None if ask is None else bool(ask())


def is_default_strategy(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether a strategy is the one in scope where none has been chosen."""
    return type(strategy).__name__ == "_DefaultDistributionStrategy"


def concrete_functions(function: Any) -> Sequence[Any]:
    """Returns the concrete functions of a traced tf.function; empty where they are unknown."""
    functions: Sequence[Any] = getattr(function, "_list_all_concrete_functions", lambda: ())()
    return functions


def operation_types(nodes: Sequence[Any]) -> set[str]:
    """Returns the types of a collected function's nodes, without its arguments and results."""
    # Where oneDNN has a custom kernel, the node that it replaced is listed too.
    return {node.op.removeprefix("_Mkl") for node in nodes if node.op not in _ENDS}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
