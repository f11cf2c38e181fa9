"""What a Keras model says of itself: its library, its compiled losses, its steps per execution.

Keras 3 and tf_keras keep these in places of their own, some of them private and moved between
versions; where one is missing, callers get an empty answer and not an exception.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

LIBRARIES = ("keras", "tf_keras")


@dataclasses.dataclass(frozen=True)
class CompiledLoss:
    """One entry of what a model was compiled with: a Loss, its output's name, its weight."""

    loss: Any
    name: str
    weight: Any


def library_of(model: Any) -> str | None:
    """Returns the library that a model is of, "keras" or "tf_keras"; None for neither."""
    packages = (base.__module__.partition(".")[0] for base in type(model).__mro__)
    return next((package for package in packages if package in LIBRARIES), None)


def is_librarys_own(method: Any) -> bool:
    """Tells whether a model's method is Keras's, not one that the user has put in its place."""
    return str(method.__module__).partition(".")[0] in LIBRARIES


def check_backend() -> None:
    """Makes sure that Keras computes with TensorFlow.

    Raises:
        ValueError: Keras 3 is set to another backend, and tf_keras is not what is used.
    """
    keras = sys.modules.get("keras")
    if keras is None:
        # Importing it for the question would cost seconds; a model of Keras 3 cannot exist yet.
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    else:
        backend = keras.config.backend()
    if backend != "tensorflow" and "tf_keras" not in sys.modules:
        raise ValueError(
            f"FirstLossCallback: Keras computes with {backend}; it captures from TensorFlow only: "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )


def why_not_capturable(model: Any) -> str | None:
    """Returns why a model's training step cannot be captured, or None if it can."""
    if library_of(model) is None:
        return "the model is neither of Keras 3 nor of tf_keras"
    if not is_librarys_own(model.make_train_function):
        return (
            "the model has a make_train_function of its own, whose steps only it knows; wrap the "
            "step in it with FirstLoss.wrap, or override train_step instead"
        )
    if getattr(model, "_cluster_coordinator", None) is not None:
        return (
            f"{type(model.distribute_strategy).__name__} runs its steps elsewhere and later; write "
            "the loop by hand and use FirstLoss.wrap"
        )
    if getattr(model, "autotune_steps_per_execution", False):
        return "autotune_steps_per_execution changes the steps of an execution while it runs"
    return None


def is_distributed(model: Any) -> bool:
    """Tells whether a model is trained under a strategy, be it on a single replica."""
    with model.distribute_strategy.scope():
        return bool(tf.distribute.has_strategy())


def compiled_losses(model: Any) -> list[CompiledLoss]:
    """Returns the model's compiled losses, in the order in which ``compute_loss`` calls them."""
    container = getattr(model, "_compile_loss", None) or getattr(model, "compiled_loss", None)
    flat = getattr(container, "_flat_losses", None)  # Keras 3.7 and later
    if flat is not None:
        return [CompiledLoss(loss, name, weight) for _, loss, weight, name in flat]
    for attributes in ("flat_losses", "flat_loss_weights"), ("_losses", "_loss_weights"):
        losses, weights = (getattr(container, name, None) for name in attributes)
        if isinstance(losses, list) and isinstance(weights, list):
            names = _output_names(model, container, losses)
            entries = zip(losses, names, weights, strict=False)
            return [CompiledLoss(*entry) for entry in entries if entry[0] is not None]
    return []


def _output_names(model: Any, container: Any, losses: list[Any]) -> list[str]:
    for owner in container, model:
        names = getattr(owner, "_output_names", None) or getattr(owner, "output_names", None)
        if names and len(names) == len(losses):
            return [str(name) for name in names]
    return [str(getattr(loss, "name", "loss")) for loss in losses]


def iterations_of(model: Any) -> int:
    """Returns how many batches the optimizer has been given; 0 where it cannot tell."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # The public property divides under gradient accumulation, and in tf_keras's legacy optimizers
    # it creates the counter when it is first asked for, which training is to do. In Keras 3.0 it
    # is no property.
    counter = getattr(optimizer, "_iterations", None)
    if counter is None:
        counter = getattr(optimizer, "__dict__", {}).get("iterations")
    return 0 if counter is None else int(counter.numpy())


def steps_per_execution(model: Any) -> int:
    """Returns how many steps one call of the train function takes."""
    variable = getattr(model, "_steps_per_execution", None)  # tf_keras: a variable, None for 1
    if isinstance(variable, tf.Variable):
        return int(variable.numpy())
    return int(getattr(model, "steps_per_execution", None) or 1)


@contextlib.contextmanager
def steps_set_to(model: Any, steps: int) -> Iterator[None]:
    """Makes an execution of a tf_keras model take that many steps; Keras 3 compiles them in."""
    variable = getattr(model, "_steps_per_execution", None)
    if not isinstance(variable, tf.Variable):
        yield
        return
    before = variable.numpy()
    variable.assign(steps)
    try:
        yield
    finally:
        variable.assign(before)


def binds_train_step(model: Any) -> bool:
    """Tells whether a train function keeps the train_step that it was made with (Keras 3.7 on).

    The others look the model's up whenever they are traced.
    """
    return hasattr(model, "_make_function")


class _OneStep(int):
    """One step an execution, made in the way of several.

    Since Keras 3.7 an execution of several steps is a loop that ends where the data ends. For
    exactly 1 there is no loop, and at the end of the data what does not depend on the batch, such
    as counting the optimizer's iterations, has been done once too often.
    """

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 1


ONE_STEP = _OneStep(1)


def tf_function_of(train_function: Any) -> Any:
    """Returns the tf.function in a train function: itself, or since Keras 3.7 one that it calls."""
    cells = getattr(train_function, "__closure__", None) or ()
    for candidate in (train_function, *(cell.cell_contents for cell in cells)):
        if hasattr(candidate, "get_concrete_function"):
            return candidate
    return None


def has_been_traced(train_function: Any) -> bool:
    """Tells whether a train function has been traced, as far as it can be seen."""
    function = tf_function_of(train_function)
    return function is not None and function.experimental_get_tracing_count() > 0


@contextlib.contextmanager
def own_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an object an attribute for a while, past Keras's tracking of attributes."""
    attributes = vars(owner)
    had, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:
            attributes.pop(name, None)
