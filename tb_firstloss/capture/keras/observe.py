"""What a Keras training step makes its loss from, seen while the step runs or is traced.

The hooks add no operation to the graph and call what they stand in front of exactly once.
"""

import contextlib
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.distribution.replicas import local_values
from tb_firstloss.capture.keras import library
from tb_firstloss.capture.keras.hooks import hooked
from tb_firstloss.capture.signals import deferred, let_through
from tb_firstloss.capture.window import tensorflow_private
from tb_firstloss.errors import CaptureError


@dataclasses.dataclass
class LossCall:
    """One call of a Keras Loss, its result and what it reduced: tensors of the graph, or eager."""

    loss: Any
    result: Any = None
    values: Any = None
    sample_weight: Any = None
    mask: Any = None
    reduction: Any = None
    predicted_shape: Any = None


class Observation:
    """What one training step did with losses.

    Each method stands in front of a function of Keras or TensorFlow: it takes the function and a
    call's arguments, notes what matters, and returns the function's result.

    Attributes:
        calls: Outermost Loss calls, in order.
        totals: What each outermost ``compute_loss`` returned, and the calls made in it.
        updates: Name of a metric, and the value that it was updated with.
        continues: Whether a gradient for variables was given gradients from elsewhere.
        tape: Of a step that runs eagerly, what it makes of the Loss calls' results; else None.
        has_custom_gradients: Whether asking the tape would run code of the user's.
        missing: What could not be observed, and why, one line each.
    """

    def __init__(self) -> None:
        self.calls: list[LossCall] = []
        self.totals: list[tuple[Any, list[LossCall]]] = []
        self.updates: list[tuple[str, Any]] = []
        self.continues = False
        self.tape: tf.GradientTape | None = None
        self.has_custom_gradients = False
        self.missing: list[str] = []
        self._open_calls: list[LossCall] = []
        self._computing = False
        self._in_gradient = False
        self._targets: list[list[Any]] = []
        self._scaled: list[tuple[Any, Any]] = []

    @property
    def differentiated(self) -> list[list[Any]]:
        """What gradients were taken of for variables, in order, each once and without its scale.

        Each is the tensors whose elements add up to a loss; usually one scalar.
        """
        found: list[list[Any]] = []
        for target in self._targets:
            members = [self._unscaled(member) for member in target]
            if not any(are_same(members, known) for known in found):
                found.append(members)
        return found

    def call_loss(self, loss_call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a Loss and notes the call; one inside another is part of the outer one."""
        predicted = args[2] if len(args) > 2 else kwargs.get("y_pred")
        call = LossCall(args[0], predicted_shape=getattr(predicted, "shape", None))
        self._open_calls.append(call)
        try:
            call.result = loss_call(*args, **kwargs)
        finally:
            self._open_calls.pop()
        if not self._open_calls:
            self.calls.append(call)
            if self.tape is not None and isinstance(call.result, tf.Tensor):
                self.tape.watch(call.result)
        return call.result

    def reduce(
        self, reduce: Callable[..., Any], args: Any, kwargs: Any, *, arguments: Mapping[str, str]
    ) -> Any:
        """Notes what the innermost open Loss call reduces, and reduces it."""
        if self._open_calls:
            with contextlib.suppress(TypeError):  # a call that cannot be bound raises its own error
                given = inspect.signature(reduce).bind(*args, **kwargs)
                given.apply_defaults()
                for field, argument in arguments.items():
                    setattr(self._open_calls[-1], field, given.arguments.get(argument))
        return reduce(*args, **kwargs)

    def compute_loss(self, compute_loss: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls ``compute_loss`` and notes its result, unless it is called by itself."""
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

    def differentiate(
        self,
        gradient: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        arguments: tuple[str, ...] = ("tape", "target", "sources", "output_gradients"),
    ) -> Any:
        """Notes a target differentiated for variables, unless it gets gradients from elsewhere."""
        given = {**dict(zip(arguments, args, strict=False)), **kwargs}
        target, sources, continued = (given.get(name) for name in arguments[-3:])
        members = tf.nest.flatten(target)
        variables = any(hasattr(source, "assign") for source in tf.nest.flatten(sources))
        if members and variables and not self._in_gradient:
            self.continues = self.continues or continued is not None
            if continued is None:
                self._targets.append(members)
        return self.backpropagate(gradient, args, kwargs)

    def backpropagate(self, gradient: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Takes gradients; what is differentiated inside, as in tf.recompute_grad, is no loss."""
        if self._in_gradient:
            return gradient(*args, **kwargs)
        self._in_gradient = True
        try:
            # Gradients are not part of how a loss is made, and an optimizer must run as ever.
            with contextlib.nullcontext() if self.tape is None else self.tape.stop_recording():
                return gradient(*args, **kwargs)
        finally:
            self._in_gradient = False

    def update_metric(
        self, update_state: Callable[..., Any], args: Any, kwargs: Any, *, name: str
    ) -> Any:
        """Notes what a metric is updated with, and updates it."""
        self.updates.append((name, args[0] if args else next(iter(kwargs.values()), None)))
        return update_state(*args, **kwargs)

    def differentiate_by_hand(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a function with a gradient of its own, and notes that."""
        if not (library.is_librarys(args[0]) or args[0].__module__.startswith("tensorflow.")):
            self.has_custom_gradients = True
        return call(*args, **kwargs)

    def scale(self, scale: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Scales a loss for mixed precision, or what computes it, and notes what it was before."""
        optimizer, loss = (*args, *kwargs.values())[:2]

        def noted(value: Any) -> Any:
            scaled = scale(optimizer, value)
            if scaled is not value:
                self._scaled.append((scaled, value))
            return scaled

        def noted_later() -> Any:
            return noted(loss())

        return noted_later if callable(loss) else noted(loss)

    def _unscaled(self, target: Any) -> Any:
        """Returns what a target was before one optimizer, or one around another, scaled it."""
        for scaled, loss in reversed(self._scaled):
            if scaled is target:
                target = loss
        return target


def are_same(one: list[Any], other: list[Any]) -> bool:
    """Returns whether two lists hold the same objects; == would compare tensors by value."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


_watching = threading.local()  # has `seen`, of this thread's step; all threads share the hooks


def _in_front(note: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a hook that, in a thread that observes, calls a method of Observation."""

    @functools.wraps(original)
    def hook(*args: Any, **kwargs: Any) -> Any:
        seen = getattr(_watching, "seen", None)
        if seen is None:
            return original(*args, **kwargs)
        return note(seen, original, args, kwargs)

    return hook


@contextlib.contextmanager
def observe(model: Any) -> Iterator[Observation]:
    """Observes the losses that a model's training step computes in this thread.

    With several replicas, one thread per replica traces the step, in turn, on the same model.
    """
    seen = Observation()
    with deferred(), contextlib.ExitStack() as stack:

        def hook(owner: Any, name: str, note: Callable[..., Any]) -> list[str]:
            return stack.enter_context(hooked(owner, name, functools.partial(_in_front, note)))

        for module, name, arguments in library.reductions(model):
            note = functools.partial(Observation.reduce, arguments=arguments)
            seen.missing += hook(module, name, note)
        seen.missing += hook(library.loss_class(model), "__call__", Observation.call_loss)
        seen.missing += hook(tf.GradientTape, "gradient", Observation.differentiate)
        for name in ("jacobian", "batch_jacobian"):
            hook(tf.GradientTape, name, Observation.backpropagate)
        in_graphs = functools.partial(Observation.differentiate, arguments=("ys", "xs", "grad_ys"))
        hook(tf, "gradients", in_graphs)
        hook(model, "compute_loss", Observation.compute_loss)
        for owner, method in library.scaling_methods(model):
            hook(owner, method, Observation.scale)
        for metric in library.metrics_of(model):
            note = functools.partial(Observation.update_metric, name=str(metric.name))
            hook(metric, "update_state", note)
        if tf.executing_eagerly():
            # It records nothing but what is made of what it is told to watch.
            tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
            seen.tape = stack.enter_context(tape)
            hook(*tensorflow_private.custom_gradient_call(), Observation.differentiate_by_hand)
        outer, _watching.seen = getattr(_watching, "seen", None), seen
        try:
            with let_through():
                yield seen
        finally:
            _watching.seen = outer


@contextlib.contextmanager
def keep_per_replica(model: Any, prefix: str) -> Iterator[None]:
    """Keeps Keras from averaging the captured tensors over the replicas.

    In their place the train function returns a tuple with each replica's value: AutoGraph's loops
    can carry tuples, but not per-replica values. The tensors' names begin with ``prefix``.
    """

    def watch(reduce: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reduce)
        def reduce_per_replica(values: Any, *args: Any, **kwargs: Any) -> Any:
            if type(values) is not dict:
                return reduce(values, *args, **kwargs)
            ours = {k: local_values(value) for k, value in values.items() if k.startswith(prefix)}
            others = {name: value for name, value in values.items() if name not in ours}
            return {**reduce(others, *args, **kwargs), **ours}

        return reduce_per_replica

    with hooked(*library.replica_reduction(model), watch) as missing:
        if missing:
            raise CaptureError(f"several replicas cannot be captured: {missing[0]}")
        yield
