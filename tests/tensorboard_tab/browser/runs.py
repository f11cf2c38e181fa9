"""Real recordings to look at: a softmax regression on the digits, trained in several ways."""

import warnings

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from tb_firstloss import FirstLoss
from tb_firstloss.errors import UnexpectedLossWarning

BATCH_SIZE = 64


def digits():
    """Images [1797, 64] float32 in 0 to 1, and labels [1797] int32."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int32)


def train(logdir, *, seed=0, scale=1.0, steps=3, spoil=(), returns=None, hparams=None, **options):
    """Trains for a few steps with the first batch recorded; returns the recorder.

    Args:
        seed: Seed of the weights and of the order of the examples.
        scale: Standard deviation of the initial weights, relative to one that keeps logits small.
        spoil: Positions in the batch whose images become NaN.
        returns: Turns logits, labels and the per-example loss into what the step returns.
    """
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order], labels[order]
    images[list(spoil)] = np.nan
    weights = np.random.default_rng(seed + 100).normal(0, 0.05 * scale, (64, 10))
    weights = tf.Variable(weights.astype(np.float32))

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = tf.matmul(x, weights)
            per_example = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(per_example)
        weights.assign_sub(0.5 * tape.gradient(loss, weights))
        if returns is not None:
            return returns(logits, y, per_example)
        return {"per_example": per_example, "loss": loss}

    first = FirstLoss(logdir, hparams=hparams, **options)
    keys = {} if returns is not None else {"loss": "per_example", "total": "loss"}
    wrapped = first.wrap(step, **keys)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH_SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnexpectedLossWarning)  # some runs are meant to be off
        for x, y in data.take(steps):
            wrapped(x, y)
    return first


def train_runs(logdir):
    """Records six runs that differ in one respect each; two have a graph, the first a profile."""
    plain = {"graph": False, "profile": False, "expect": "log(10)"}
    hparams = {"seed": 0, "weight_scale": 1.0, "learning_rate": 0.5}
    train(logdir / "baseline", expect="log(10)", hparams=hparams)
    train(logdir / "baseline-repeated", hparams=hparams, **plain)
    train(logdir / "other-seed", seed=1, hparams={**hparams, "seed": 1}, **plain)
    scaled = {**hparams, "weight_scale": 20.0}
    train(logdir / "weights-too-large", scale=20.0, hparams=scaled, **plain)
    train(
        logdir / "images-with-nan",
        spoil=(3, 17, 40),
        hparams={**hparams, "seed": 2},
        seed=2,
        **plain,
    )
    train(logdir / "two-outputs", returns=digit_and_parity, profile=False)


def digit_and_parity(logits, labels, per_example):
    """The loss of two outputs: the digit, and whether it is odd."""
    odd = tf.cast(labels % 2, tf.float32)
    parity = tf.nn.sigmoid_cross_entropy_with_logits(odd, tf.reduce_sum(logits[:, 1::2], axis=1))
    return {"loss": {"digit": per_example, "parity": parity}}
