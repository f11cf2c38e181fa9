"""What a training program is, and what all of them use."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

LIBRARIES = ("keras", "tf_keras")
BATCH_SIZE = 8
BATCHES = 3

PROGRAMS: list["Program"] = []


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that trains with ``fit``, and what is expected of its first batch.

    Attributes:
        make: Takes the library, and options for compile; returns a model and a dataset.
        losses: Names of what the step differentiates, in the order of the gradients.
        outputs: Shape of each output; None where the rules leave their names open.
        vectors: Names of the losses that are differentiated as a tensor of rank 1 or more.
        by_hand: Where the step cannot be asked: what turns its logs into the loss of that name.
        libraries: Which can run it.
        jit: In which of them it is also compiled by XLA (which ignores the seed of tf.random).
        since: The first version of Keras 3 that can run it.
    """

    make: Callable[..., tuple[Any, Any]]
    losses: tuple[str, ...]
    outputs: Mapping[str, tuple[int, ...]] | None = None
    vectors: tuple[str, ...] = ()
    by_hand: Mapping[str, Callable[[dict[str, Any]], Any]] = dataclasses.field(default_factory=dict)
    libraries: tuple[str, ...] = LIBRARIES
    jit: tuple[str, ...] = ()
    since: tuple[int, int] = (3, 0)

    def __str__(self):
        return self.make.__name__.replace("_", "-")


def program(*losses: str, **facts: Any) -> Callable[[Any], Any]:
    """Registers the decorated function as a program that differentiates these losses."""

    def register(make):
        PROGRAMS.append(Program(make, losses, **facts))
        return make

    return register


class Exposing:
    """A model whose copy also returns the tensors that its step differentiates.

    This is the expectation: the step itself says what it differentiated, in plain Keras.
    """

    expose = False

    def logs(self, logs, /, **losses):
        """Returns a step's logs; in the copy, with what it differentiated."""
        if not self.expose:
            return logs
        exact = {f"exact/{name}": tf.reduce_sum(loss) for name, loss in losses.items()}
        return {**logs, **exact}


def network(k, inputs, *units, activation="tanh", last=None, dtype=None):
    """Returns dense layers; ``last`` is the activation of the last one."""
    layers = [k.layers.Dense(unit, activation=activation, dtype=dtype) for unit in units[:-1]]
    layers.append(k.layers.Dense(units[-1], activation=last, dtype=dtype))
    return k.Sequential([k.layers.Input((inputs,)), *layers])


def numbers(*shape, seed=0):
    """Returns normally distributed float32 numbers for each example, [examples, *shape]."""
    drawn = np.random.default_rng(seed).normal(size=(BATCH_SIZE * BATCHES, *shape))
    return drawn.astype(np.float32)


def classes(count, *shape, seed=1):
    """Returns class numbers for each example, [examples, *shape] int32."""
    drawn = np.random.default_rng(seed).integers(count, size=(BATCH_SIZE * BATCHES, *shape))
    return drawn.astype(np.int32)


def batches(*arrays):
    """Returns a dataset of batches: of tensors, or of tuples of them."""
    elements = arrays if len(arrays) > 1 else arrays[0]
    return tf.data.Dataset.from_tensor_slices(elements).batch(BATCH_SIZE)


def descend(optimizer, tape, loss, variables):
    """Differentiates a loss and updates the variables."""
    gradients = tape.gradient(loss, variables)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def latent(optimizer, rows, size):
    """Returns standard normal noise that XLA repeats too: its seed is the step's number."""
    seed = tf.stack([7, tf.cast(optimizer.iterations, tf.int32)])
    return tf.random.stateless_normal((rows, size), seed)
