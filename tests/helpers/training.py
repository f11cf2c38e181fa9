"""A tiny deterministic training job, in every style, to run with and without capture."""

import numpy as np
import tensorflow as tf


def batches(count=3, size=8):
    """Returns batches of x [size, 4] float32 and y [size] float32, the same ones every time."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count * size, 4)).astype(np.float32)
    y = rng.normal(size=(count * size,)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


class Linear:
    """Least squares by gradient descent: one weight vector [4]."""

    def __init__(self, style="function", returns=lambda per_example, loss: per_example):
        self.weight = tf.Variable(np.linspace(-1, 1, 4, dtype=np.float32))
        self._returns = returns
        self.step = {
            "eager": lambda: self._step,
            "function": lambda: tf.function(self._step),
            "jit": lambda: tf.function(self._step, jit_compile=True),
        }[style]()

    def _step(self, x, y):
        with tf.GradientTape() as tape:
            per_example = (tf.linalg.matvec(x, self.weight) - y) ** 2
            loss = tf.reduce_mean(per_example)
        self.weight.assign_sub(0.1 * tape.gradient(loss, self.weight))
        return self._returns(per_example, loss)
