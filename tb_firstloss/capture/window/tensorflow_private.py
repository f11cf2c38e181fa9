"""What TensorFlow 2.16 to 2.21 has no public call for.

No other file of the package names a private part of TensorFlow; a test holds that. Where a future
version has moved one, its function returns an empty answer; callers then do without it and say
what is missing.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
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

    ``tf.summary.trace_on`` would start the collection too, but trace_off and trace_export leave it
    on, so that every function built later is copied into memory.
    """
    context = getattr(_module("tensorflow.python.eager.context"), "context", lambda: None)()
    needed = ("enable_graph_collection", "export_run_metadata", "disable_graph_collection")
    return context if all(hasattr(context, name) for name in needed) else None


def running_trace() -> Any:
    """Returns what ``tf.summary.trace_on`` has started, or None."""
    summary_ops = _module("tensorflow.python.ops.summary_ops_v2")
    return getattr(summary_ops, "_current_trace_context", None)


def running_profiler() -> Any:
    """Returns the profiler session of ``tf.profiler.experimental.start``, or None."""
    return getattr(_module("tensorflow.python.profiler.profiler_v2"), "_profiler", None)


def forget_profiler() -> None:
    """Discards the session of ``tf.profiler.experimental.start``; its lock is held."""
    vars(_module(Precedence.PROFILER[0]))["_profiler"] = None


class Precedence:
    """Gives all other callers of TensorFlow's profiler, or of its trace, precedence over ours.

    A process has one of each, and TensorFlow takes a lock to start, stop or export it. This stands
    in for that lock: whoever takes it finds that ours has just been withdrawn.

    Args:
        lock: Module and name of the lock.
        withdraw: Discards ours, with the lock held.

    Attributes:
        running: Whether ours runs; to be set once it has started.
    """

    PROFILER = ("tensorflow.python.profiler.profiler_v2", "_profiler_lock")
    TRACE = ("tensorflow.python.ops.summary_ops_v2", "_current_trace_context_lock")

    def __init__(self, lock: tuple[str, str], withdraw: Callable[[], None]) -> None:
        self.running = False
        self._module, self._name = _module(lock[0]), lock[1]
        self._lock = threading.Lock()
        self._withdraw = withdraw

    def begin(self) -> bool:
        """Takes the lock's place; returns whether no other recorder has."""
        lock = getattr(self._module, self._name, None)
        if isinstance(lock, Precedence):
            return False
        if lock is not None:
            self._lock = lock
            setattr(self._module, self._name, self)
        return True

    def end(self) -> bool:
        """Gives the place back; returns whether ours still runs, and is to be stopped now."""
        with self._lock:
            return self._end()

    def _end(self) -> bool:
        was_running, self.running = self.running, False
        if getattr(self._module, self._name, None) is self:
            setattr(self._module, self._name, self._lock)
        return was_running

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self.running:
                self._end()
                self._withdraw()
        except BaseException:
            self._lock.release()
            raise

    @property
    def __exit__(self) -> Any:  # noqa: PYI036 - the lock's: no signal comes between it and `with`
        return self._lock.__exit__


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


def custom_gradient_call() -> tuple[Any, str]:
    """Returns the module and name of what calls a ``tf.custom_gradient`` function eagerly."""
    return _module("tensorflow.python.ops.custom_gradient"), "_eager_mode_decorator"


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
