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
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.keras_model import library_of, own_attribute

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
    """Watches the losses that a model's training step computes in this thread."""
    seen = Observation()
    library = library_of(model) or ""
    with contextlib.ExitStack() as stack:
        for module, function, fields in _REDUCTIONS.get(library, ()):
            watch = functools.partial(_watch_arguments, fields=fields)
            stack.enter_context(_shared_hook(sys.modules.get(module), function, watch, seen))
        loss_class = getattr(sys.modules.get(_LOSS_MODULES.get(library, "")), "Loss", None)
        stack.enter_context(_shared_hook(loss_class, "__call__", _watch_loss, seen))
        stack.enter_context(_shared_hook(tf.GradientTape, "gradient", _watch_gradient, seen))
        stack.enter_context(_own_hook(model, "compute_loss", seen.compute))
        for method in _SCALING_METHODS:
            if hasattr(model.optimizer, method):
                stack.enter_context(
                    _own_hook(model.optimizer, method, functools.partial(_scale, seen))
                )
        outer, _watching.seen = _watching.seen, seen
        try:
            yield seen
        finally:
            _watching.seen = outer


class _Watching(threading.local):
    """The observation of this thread's training step; the shared hooks serve all threads."""

    seen: Observation | None = None


_watching = _Watching()
_hook_lock = threading.Lock()
_hooks: dict[tuple[int, str], tuple[int, Any, Any]] = {}  # number of users, original, hook


@contextlib.contextmanager
def _shared_hook(
    owner: Any, name: str, watch: Callable[[Any], Any], seen: Observation
) -> Iterator[None]:
    """Puts a hook on a module's function or a class's method while any thread watches."""
    original = getattr(owner, "__dict__", {}).get(name)
    if original is None:
        seen.missing.append(f"this version of Keras has no {name} where it is looked for")
        yield
        return
    key = (id(owner), name)
    with _hook_lock:
        users, original, hook = _hooks.get(key) or (0, original, watch(original))
        _hooks[key] = (users + 1, original, hook)
        if not users:
            setattr(owner, name, hook)
    try:
        yield
    finally:
        with _hook_lock:
            users = _hooks[key][0] - 1
            _hooks[key] = (users, original, hook)
            if not users:
                del _hooks[key]
                # Somebody may have put a hook of his own on top of ours; ours then lets all pass.
                if vars(owner)[name] is hook:
                    setattr(owner, name, original)


def _own_hook(
    owner: Any, name: str, around: Callable[[Any, Any, Any], Any]
) -> contextlib.AbstractContextManager[None]:
    original = getattr(owner, name)

    @functools.wraps(original)
    def hook(*args: Any, **kwargs: Any) -> Any:
        return around(original, args, kwargs)

    return own_attribute(owner, name, hook)


def _scale(seen: Observation, scale_loss: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    scaled = scale_loss(*args, **kwargs)
    loss = args[0] if args else kwargs.get("loss")
    if not callable(loss):
        seen.scale(loss, scaled)
    return scaled


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
