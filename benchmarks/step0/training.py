"""Deterministic trainings, with and without the recorders, as digests of everything they leave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from step0 import networks
from step0.networks import Configuration
from tb_firstloss import FirstBatch, FirstLoss, FirstLossCallback


def train_deterministically(configuration: Configuration, scratch: Path, *, again: bool) -> Any:
    """Returns what trainings leave that start from the same weights; each is {name: digest}.

    Args:
        configuration: What to train.
        scratch: Where the recordings go.
        again: Whether this is the second process: it repeats the recorded loop, and trains
            without the recorders.

    Returns:
        By name of the training; or under "unsupported", which operation TensorFlow cannot run
        deterministically.
    """
    tf.config.experimental.enable_op_determinism()
    # Otherwise a float32 matrix product on a GPU has float32's range and 10 bits of mantissa.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        facts = {"loop recorded": train_loop(configuration, scratch / "loop")}
        if again:
            facts["loop"] = train_loop(configuration, None)
            facts["fit"] = train_fit(configuration, None)
        else:
            facts["fit recorded"] = train_fit(configuration, scratch / "fit")
    except tf.errors.OpError as error:
        lines = [line for line in error.message.splitlines() if "determinis" in line.lower()]
        if not lines:
            raise
        return {"unsupported": lines[0].strip()}
    return facts


def train_loop(configuration: Configuration, logdir: Path | None) -> dict[str, Any]:
    """Trains in a custom loop, recorded if there is a logdir."""
    network = networks.make_network(configuration)
    step = tf.function(networks.make_step(network), jit_compile=configuration.jit)
    first = None
    if logdir is not None:
        first = FirstLoss(logdir, on_error="raise")
        step = first.wrap(step, loss="per_example", total="loss")
    batches = networks.to_tensors(networks.load_batches(configuration))
    losses = [float(step(x, y)["loss"]).hex() for x, y in batches]
    facts = {"losses": losses, "weights": digest(network.weights)}
    return facts | describe_first(first)


def train_fit(configuration: Configuration, logdir: Path | None) -> dict[str, Any]:
    """Trains by model.fit, recorded if there is a logdir."""
    network = networks.make_network(configuration)
    network.compile(
        networks.make_optimizer(configuration.policy),
        networks.compute_losses,
        metrics=["accuracy"],
        jit_compile=configuration.jit,
    )
    callbacks = []
    if logdir is not None:
        callbacks = [FirstLossCallback(logdir, on_error="raise")]
    images, labels = map(np.concatenate, zip(*networks.load_batches(configuration), strict=True))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(configuration.batch_size)
    history = network.fit(data, epochs=2, verbose=0, callbacks=callbacks).history
    facts = {
        "losses": [float(loss).hex() for loss in history["loss"]],
        "metrics": [float(value).hex() for value in history["accuracy"]],
        "weights": digest(network.weights),
        "optimizer": digest(network.optimizer.variables),
    }
    return facts | describe_first(callbacks[0] if callbacks else None)


def describe_first(recorder: FirstLoss | FirstLossCallback | None) -> dict[str, Any]:
    """Returns the first loss in every bit, as a digest and as numbers."""
    first: FirstBatch | None = None if recorder is None else recorder.first_batch
    if first is None:
        return {}
    per_example = [float(value) for value in first.per_example]
    return {"first_loss": first.digest, "per_example": per_example}


def digest(variables: Iterable[keras.Variable]) -> str:
    """Returns the SHA-256 of all bytes of some variables."""
    sha = hashlib.sha256()
    for variable in variables:
        sha.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return sha.hexdigest()
