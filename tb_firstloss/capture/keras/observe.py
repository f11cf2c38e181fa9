"""What a Keras training step makes its loss of, seen while the step runs or is traced.

This module and `keras_model` hold everything of ours that touches private parts of Keras 3 and
tf_keras. The hooks add no operation to the graph and call what they stand for exactly once, so
that a step computes with them what it computes without: an operation more would shift the seeds
that TensorFlow gives to the random operations behind it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.distribution.replicas import local_values
from tb_firstloss.capture.keras.library import library_of
from tb_firstloss.errors import CaptureError

_REDUCTIONS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    # Module, function that a Loss calls with its unreduced values, argument → field of LossCall.
    "keras": [
        (
            "keras.src.losses.loss",
            "reduce_weighted_values",
            {
                "values": "values",
                "sample_weight": "sample_weight",
                "mask": "mask",
                "reduction": "reduction",
            },
        )
    ],
    "tf_keras": [
        (
            "tf_keras.src.utils.losses_utils",
            "apply_valid_mask",
            {"sw": "sample_weight", "mask": "mask"},
        ),
        (
            "tf_keras.src.utils.losses_utils",
            "compute_weighted_loss",
            {"losses": "values", "reduction": "reduction"},
        ),
    ],
}
_LOSS_MODULES = {"keras": "keras.src.losses.loss", "tf_keras": "tf_keras.src.losses"}
_TRAINER_MODULES = {
    "keras": "keras.src.backend.tensorflow.trainer",
    "tf_keras": "tf_keras.src.engine.training",
}
_SCALING_METHODS = ("scale_loss", "get_scaled_loss")  # of a Keras 3 and of a tf_keras optimizer


@dataclasses.dataclass
class LossCall:
    """One call of a Keras Loss, with what it reduced; tensors of the step's graph, or eager."""

    loss: Any
    values: Any = None
    sample_weight: Any = None
    mask: Any = None
    reduction: Any = None
    predicted_shape: Any = None


class Observation:
    """What one training step did with losses.

    Attributes:
        calls: Outermost Loss calls, in order.
        totals: What each outermost ``compute_loss`` returned, and its share of ``calls``.
        missing: Why something could not be seen, one line each.
    """

    def __init__(self) -> None:
        self.calls: list[LossCall] = []
        self.totals: list[tuple[Any, list[LossCall]]] = []
        self.missing: list[str] = []
        self._open_calls: list[LossCall] = []
        self._computing = False
        self._targets: list[Any] = []
        self._scaled: list[tuple[Any, Any]] = []

    @property
    def differentiated(self) -> list[Any]:
        """The tensors whose gradient was taken for variables, each once and without its scale."""
        return [self._unscaled(target) for target in self._targets]

    @contextlib.contextmanager
    def loss_call(self, loss: Any, predicted: Any) -> Iterator[None]:
        """Stands around a Loss call; one inside another belongs to the outer one."""
        call = LossCall(loss, predicted_shape=getattr(predicted, "shape", None))
        self._open_calls.append(call)
        try:
            yield
        finally:
            self._open_calls.pop()
        if not self._open_calls:
            self.calls.append(call)

    def note(self, field: str, value: Any) -> None:
        """Notes what the innermost open Loss call reduces."""
        if self._open_calls:
            setattr(self._open_calls[-1], field, value)

    def compute(self, compute_loss: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls ``compute_loss`` and notes its result, unless it was called by itself."""
        if self._computing:
            return compute_loss(*args, **kwargs)
        before = len(self.calls)
        self._computing = True
        try:
            total = compute_loss(*args, **kwargs)
        finally:
            self._computing = False
        self.totals.append((total, self.calls[before:]))
        return total

    def differentiate(self, target: Any, sources: Any) -> None:
        """Notes a gradient that is taken for variables; others are gradient penalties."""
        if any(hasattr(source, "assign") for source in tf.nest.flatten(sources)):
            new = [t for t in tf.nest.flatten(target) if not _contains(self._targets, t)]
            self._targets.extend(new)

    def scale(self, loss: Any, scaled: Any) -> None:
        """Notes that a loss was scaled for mixed precision."""
        self._scaled.append((scaled, loss))

    def _unscaled(self, target: Any) -> Any:
        return next((loss for scaled, loss in self._scaled if scaled is target), target)


@contextlib.contextmanager
def observe(model: Any) -> Iterator[Observation]:
    """Watches the losses that a model's training step computes in this thread.

    The threads of several replicas trace one step each, by turns, on the same model.
    """
    seen = Observation()
    library = library_of(model) or ""
    with contextlib.ExitStack() as stack:
        for module, function, fields in _REDUCTIONS.get(library, ()):
            watch = functools.partial(_watch_arguments, fields=fields)
            seen.missing += stack.enter_context(_hook(sys.modules.get(module), function, watch))
        loss_class = getattr(sys.modules.get(_LOSS_MODULES.get(library, "")), "Loss", None)
        seen.missing += stack.enter_context(_hook(loss_class, "__call__", _watch_loss))
        seen.missing += stack.enter_context(_hook(tf.GradientTape, "gradient", _watch_gradient))
        stack.enter_context(_hook(model, "compute_loss", _watch_total))
        for method in _SCALING_METHODS:
            if hasattr(model.optimizer, method):
                stack.enter_context(_hook(model.optimizer, method, _watch_scaling))
        outer, _watching.seen = _watching.seen, seen
        try:
            yield seen
        finally:
            _watching.seen = outer


@contextlib.contextmanager
def keep_per_replica(model: Any, prefix: str) -> Iterator[None]:
    """Keeps Keras from averaging what a step returns under names of ours over the replicas.

    The train function returns a tuple of each replica's value in their place: AutoGraph's loops
    can carry that, and no per-replica values.

    Args:
        model: The model whose train function is called or traced inside.
        prefix: What the names begin with.

    Raises:
        CaptureError: This version of Keras reduces it somewhere else.
    """

    def watch(reduce: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reduce)
        def reduce_per_replica(values: Any, *args: Any, **kwargs: Any) -> Any:
            if type(values) is not dict:
                return reduce(values, *args, **kwargs)
            ours = {name: value for name, value in values.items() if name.startswith(prefix)}
            others = {name: value for name, value in values.items() if name not in ours}
            kept = {name: local_values(value) for name, value in ours.items()}
            return {**reduce(others, *args, **kwargs), **kept}

        return reduce_per_replica

    module = sys.modules.get(_TRAINER_MODULES.get(library_of(model) or "", ""))
    with _hook(module, "reduce_per_replica", watch) as missing:
        if missing:
            raise CaptureError(f"several replicas cannot be captured: {missing[0]}")
        yield


class _Watching(threading.local):
    """The observation of this thread's training step; the hooks serve all threads."""

    seen: Observation | None = None


_watching = _Watching()
_hook_lock = threading.Lock()


@dataclasses.dataclass
class _Installed:
    """A hook, by how many it is used, and what it stands in front of; None: of the class."""

    hook: Any
    before: Any
    users: int = 0


_hooks: dict[tuple[int, str], _Installed] = {}


@contextlib.contextmanager
def _hook(owner: Any, name: str, watch: Callable[[Any], Any]) -> Iterator[list[str]]:
    """Puts a hook on a function of a module, class or object while any thread watches.

    Yields:
        Why there is no hook, if the owner has no such function.
    """
    original = getattr(owner, name, None)
    if original is None:
        yield [f"this version of Keras has no {name} where it is looked for"]
        return
    key = (id(owner), name)
    with _hook_lock:
        if key not in _hooks:
            _hooks[key] = _Installed(watch(original), vars(owner).get(name))
            _put(owner, name, _hooks[key].hook)
        installed = _hooks[key]
        installed.users += 1
    try:
        yield []
    finally:
        with _hook_lock:
            installed.users -= 1
            if not installed.users:
                del _hooks[key]
                # Somebody may have put a hook of his own on top of ours; ours then lets all pass.
                if vars(owner).get(name) is installed.hook:
                    _put(owner, name, installed.before)


def _put(owner: Any, name: str, function: Any) -> None:
    """Sets a function past Keras's tracking of attributes; None takes it away."""
    if isinstance(owner, (type, types.ModuleType)):
        setattr(owner, name, function) if function is not None else delattr(owner, name)
    elif function is None:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = function


def _watch_total(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        seen = _watching.seen
        return original(*args, **kwargs) if seen is None else seen.compute(original, args, kwargs)

    return compute_loss


def _watch_scaling(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scale(*args: Any, **kwargs: Any) -> Any:
        scaled = original(*args, **kwargs)
        loss = args[0] if args else kwargs.get("loss")
        if _watching.seen is not None and not callable(loss):
            _watching.seen.scale(loss, scaled)
        return scaled

    return scale


def _watch_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __call__(loss: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it stands for one
        seen = _watching.seen
        if seen is None:
            return original(loss, *args, **kwargs)
        predicted = args[1] if len(args) > 1 else kwargs.get("y_pred")
        with seen.loss_call(loss, predicted):
            return original(loss, *args, **kwargs)

    return __call__


def _watch_arguments(original: Callable[..., Any], *, fields: dict[str, str]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def hook(*args: Any, **kwargs: Any) -> Any:
        seen = _watching.seen
        if seen is not None:
            with contextlib.suppress(TypeError):  # a call that cannot be bound fails by itself
                given = signature.bind(*args, **kwargs)
                given.apply_defaults()
                for argument, field in fields.items():
                    seen.note(field, given.arguments.get(argument))
        return original(*args, **kwargs)

    return hook


def _watch_gradient(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        seen = _watching.seen
        if seen is not None:
            seen.differentiate(target, sources)
        return original(tape, target, sources, *args, **kwargs)

    return gradient


def _contains(tensors: list[Any], tensor: Any) -> bool:
    return any(known is tensor for known in tensors)  # == would compare their values
