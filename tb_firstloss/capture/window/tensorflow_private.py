"""What TensorFlow has no public call for, in one place (2.16 to 2.21).

Where a future version has moved one of these, its function returns None, and callers do without and
say what is missing.
"""

from __future__ import annotations

import importlib
from typing import Any


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
    """Tells whether ``tf.config.experimental.enable_op_determinism`` is on; None if unknown."""
    ask = getattr(_module("tensorflow.python.framework.config"), "is_op_determinism_enabled", None)
    return None if ask is None else bool(ask())


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
