"""The configurations: two networks, each in two dtype policies, compiled by XLA or not.

Weights and batches are drawn by NumPy, so that a GPU and a CPU start from the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tb_firstloss import demo

Batch = tuple[np.ndarray, np.ndarray]
STEP_COUNT = 5
"""Batches that a deterministic training sees."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One network in one dtype policy, compiled by XLA or not.

    Attributes:
        network: "demo" or "resnet".
        policy: "float32" or "mixed_float16".
        jit: Whether the step is compiled by XLA.
        quick: Whether to take sizes that two CPU cores train in seconds.
    """

    network: str
    policy: str
    jit: bool
    quick: bool

    @staticmethod
    def parse(name: str, *, quick: bool) -> Configuration:
        """Returns the configuration of a name such as "resnet/mixed_float16/jit"."""
        network, policy, *jit = name.split("/")
        return Configuration(network, policy, bool(jit), quick)

    @property
    def batch_size(self) -> int:
        """Examples of a batch."""
        if self.network == "demo":
            return demo.BATCH_SIZE
        return 8 if self.quick else 256


def make_network(configuration: Configuration, policy: str | None = None) -> keras.Model:
    """Returns a new network: images [batch, side, side, channels] → logits [batch, 10].

    Args:
        configuration: Which one.
        policy: Its dtype policy instead of the configuration's.
    """
    keras.config.set_dtype_policy(policy or configuration.policy)
    if configuration.network == "demo":
        network = demo.make_model(seed=0)
    else:
        keras.utils.set_random_seed(0)
        network = make_resnet(quick=configuration.quick)
    draw_kernels(network)
    return network


def make_resnet(*, quick: bool) -> keras.Model:
    """Returns a residual network with batch normalisation, 18 layers deep unless quick."""
    stages = [(8, 1), (16, 1)] if quick else [(64, 2), (128, 2), (256, 2), (512, 2)]
    images = keras.Input((8, 8, 3) if quick else (32, 32, 3))
    x = convolve(images, stages[0][0], strides=1)
    for stage, (channels, blocks) in enumerate(stages):
        for block in range(blocks):
            x = add_block(x, channels, strides=2 if stage and not block else 1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(10)(x))


def add_block(x: keras.KerasTensor, channels: int, strides: int) -> keras.KerasTensor:
    y = convolve(convolve(x, channels, strides), channels, strides=1, activation=None)
    if x.shape != y.shape:
        x = convolve(x, channels, strides, size=1, activation=None)
    return keras.layers.ReLU()(keras.layers.Add()([x, y]))


def convolve(
    x: keras.KerasTensor,
    channels: int,
    strides: int,
    size: int = 3,
    activation: str | None = "relu",
) -> keras.KerasTensor:
    x = keras.layers.Conv2D(channels, size, strides, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return x if activation is None else keras.layers.Activation(activation)(x)


def draw_kernels(network: keras.Model) -> None:
    """Gives every kernel Glorot-uniform values from NumPy's generator."""
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        if len(variable.shape) > 1:
            *field, fan_in, fan_out = variable.shape
            limit = np.sqrt(6 / (np.prod(field, dtype=int) * (fan_in + fan_out)))
            variable.assign(rng.uniform(-limit, limit, variable.shape).astype("float32"))


def load_batches(configuration: Configuration) -> list[Batch]:
    """Returns images [batch, side, side, channels] float32 and labels [batch] int32."""
    size = configuration.batch_size
    if configuration.network == "demo":
        (images, labels), _ = demo.load_images()
        cuts = range(0, STEP_COUNT * size, size)
        return [(images[cut : cut + size], labels[cut : cut + size]) for cut in cuts]
    rng = np.random.default_rng(1)
    shape = (size, 8, 8, 3) if configuration.quick else (size, 32, 32, 3)
    return [
        (rng.normal(size=shape).astype("float32"), rng.integers(0, 10, size).astype("int32"))
        for _ in range(STEP_COUNT)
    ]


def to_tensors(batches: list[Batch]) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields the batches where the step runs, so that none of it is the transfer."""
    return ((tf.constant(x), tf.constant(y)) for x, y in batches)


def compute_losses(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of labels [batch] and logits [batch, 10], float32 [batch]."""
    y, logits = tf.cast(y, tf.int32), tf.cast(logits, tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


def make_optimizer(policy: str) -> keras.optimizers.Optimizer:
    """Returns Adam, with a loss scale where float16 gradients would vanish."""
    adam = keras.optimizers.Adam(1e-3)
    return keras.optimizers.LossScaleOptimizer(adam) if policy == "mixed_float16" else adam


def make_step(network: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns a Python function that trains on one batch: the loss per example, and their mean."""
    optimizer = make_optimizer(network.dtype_policy.name)
    optimizer.build(network.trainable_variables)

    def step(x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            per_example = compute_losses(y, network(x, training=True))
            loss = tf.reduce_mean(per_example)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return {"per_example": per_example, "loss": loss}

    return step
