"""What TensorFlow 2.16 to 2.21 has no public call for.

No other file of the package names a private part of TensorFlow; a test holds that. Where a future
version has moved one, its function returns an empty answer; callers then do without it and say
what is missing.
"""

import functools
import importlib
import inspect
import threading
import types
import weakref
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


class _CallsInstead:
    """Mixed into a tf.function's class: calls something else; in all else it is the original.

    It shares the original's ``__dict__``, and so its traces and attributes. What TensorFlow makes
    of it to call that instead, bound to an instance or for strategy.run, goes through ``wrap``;
    ``on_schedule`` is called when ``ClusterCoordinator.schedule`` runs the original on a worker.
    """

    __slots__ = ("_bound", "_instead", "_on_schedule", "_original", "_wrap")

    def __init__(
        self,
        original: Any,
        instead: Callable[..., Any],
        wrap: Callable[[Any], Any],
        on_schedule: Callable[[], None],
    ) -> None:
        self.__dict__ = vars(original)  # type: ignore[misc]  # the slot of the tf.function's class
        self._original, self._instead = original, instead
        self._wrap, self._on_schedule = wrap, on_schedule
        self._bound: Any = weakref.WeakKeyDictionary()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._instead(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        bound = self._original.__get__(instance, owner)
        if bound is self._original:
            return self
        if not is_tf_function(bound):  # a CompositeTensor's method
            return types.MethodType(self, instance)
        if instance not in self._bound:
            self._bound[instance] = self._wrap(bound)
        return self._bound[instance]

    def __reduce__(self) -> tuple[Any, ...]:
        return _call, (self._wrap, self._original)

    @property
    def __wrapped__(self) -> Any:
        return self._original

    @__wrapped__.setter
    def __wrapped__(self, function: Any) -> None:
        vars(self)["__wrapped__"] = function  # AutoGraph's version of the Python function

    def _clone(self, python_function: Any) -> Any:
        # MirroredStrategy.run calls a clone, which calls the Python function in each replica.
        return self._wrap(self._original._clone(python_function))  # noqa: SLF001 - TensorFlow's

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> Any:
        # ClusterCoordinator.schedule has it run on a worker.
        if getattr(tf.distribute.get_strategy().extended, "_being_scheduled", False):
            self._on_schedule()
        return self._original.get_concrete_function(*args, **kwargs)


def is_tf_function(function: Any) -> bool:
    """Returns whether a function is what ``tf.function`` makes, traced or not."""
    return isinstance(function, tf.types.experimental.PolymorphicFunction)


@functools.cache
def class_that_calls_instead(kind: Any) -> Any:
    """Returns the class of a tf.function with `_CallsInstead` mixed in."""
    if issubclass(kind, _CallsInstead):
        return kind  # another recorder's
    return type(kind.__name__, (_CallsInstead, kind), {"__slots__": ()})


def _call(wrap: Callable[[Any], Any], function: Any) -> Any:
    return wrap(function)


def owner_of(function: Any) -> Any:
    """Returns whose method a function is, a tf.function or not; None if it is no method."""
    method = inspect.unwrap(getattr(function, "python_function", function))
    owner: Any = getattr(method, "__self__", None)
    return owner.target if type(owner).__name__ == "TfMethodTarget" else owner


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
    return getattr(_module(Precedence.TRACE[0]), "_current_trace_context", None)


def running_profiler() -> Any:
    """Returns the profiler session of ``tf.profiler.experimental.start``, or None."""
    return getattr(_module(Precedence.PROFILER[0]), "_profiler", None)


def forget_profiler() -> None:
    """Discards the session of ``tf.profiler.experimental.start``; its lock is held."""
    vars(_module(Precedence.PROFILER[0]))["_profiler"] = None


class Precedence:
    """Gives all other callers of TensorFlow's profiler, or of its trace, precedence over ours.

    A process has one of each, and TensorFlow takes a lock to start, stop or export it. This stands
    in for that lock: whoever takes it finds that ours has just been withdrawn.

    ``lock`` is its module and name; ``withdraw`` discards ours, with the lock held; ``running``,
    whether ours runs, is to be set once it has started.
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
        if lock is not None and not isinstance(lock, Precedence):
            self._lock = lock
            setattr(self._module, self._name, self)
        return not isinstance(lock, Precedence)

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
        with self._lock:
            if self.running:
                self._end()
                self._withdraw()
        self._lock.acquire()

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
    return list(getattr(function, "_list_all_concrete_functions", list)())


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
