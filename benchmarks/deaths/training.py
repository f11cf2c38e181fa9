"""One tiny training, as a loop and as a fit, that tells which moment it has come to.

All numbers are small multiples of powers of two, so that float32 holds every intermediate result
exactly, whatever the order of the operations: NumPy's loss is bit for bit the one to be found.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tb_firstloss import FirstLoss, FirstLossCallback
from tb_firstloss.capture.writing import durable

BATCH_SIZE = 8
STEP_COUNT = 3

BEFORE = (
    "in step 0",
    "claiming the run directory",
    "values flushed without their manifest",
    "values written, not flushed",
    "flushed, file not synced",
    "file synced, directory not",
    "synced, not read back",
    "writing the report",
    "closing the file",
)
"""Moments before step 0 returns, in order; all but the first belong to the capture."""

AFTER = ("right after step 0", "at step 1")

OPTIONS = {"profile": False}


@dataclasses.dataclass
class Plan:
    """What is to happen to a training process.

    Attributes:
        moment: Name of the moment; one that is never reached lets the training end by itself.
        end: Ends the process.
    """

    moment: str
    end: Callable[[], None]

    def reach(self, moment: str) -> None:
        """Ends the process if its moment has come."""
        if moment == self.moment:
            self.end()


def batches() -> tuple[np.ndarray, np.ndarray]:
    """Returns x [24, 4] and y [24, 1], float32 and integral."""
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (STEP_COUNT * BATCH_SIZE, 4)).astype(np.float32)
    return x, rng.integers(-8, 9, (len(x), 1)).astype(np.float32)


def expected() -> tuple[np.ndarray, np.ndarray]:
    """Returns the first loss [] and the loss per example [8], float32, without TensorFlow."""
    x, y = (array[:BATCH_SIZE] for array in batches())
    per_example = ((x.sum(axis=1) * np.float32(0.5) - y[:, 0]) ** 2).astype(np.float32)
    return per_example.mean(dtype=np.float32), per_example


def watch_capture(plan: Plan) -> None:
    """Tells of every moment at which the capture is about to touch the disk, or has just done so.

    FirstLoss syncs, in this order: the logdir and its parent, both newly made; the event file;
    the run directory. The closed file is read, to see whether what follows the values is intact.
    """
    fsync, write, calls = os.fsync, tf.summary.write, itertools.count(1)
    verify = durable.verify
    before = dict(zip((1, 3, 4), (BEFORE[1], BEFORE[4], BEFORE[5]), strict=True))

    def reach_and_sync(descriptor: int) -> None:
        number = next(calls)
        plan.reach(before.get(number, ""))
        fsync(descriptor)
        if number == 4:
            plan.reach("synced, not read back")

    def reach_and_write(tag: str, *args: object, **kwargs: object) -> object:
        is_manifest = tag.endswith("/manifest")
        if is_manifest and plan.moment == "values flushed without their manifest":
            tf.summary.flush()
            plan.end()
        if tag.endswith("/report"):
            plan.reach("writing the report")
        written = write(tag, *args, **kwargs)
        if is_manifest:
            plan.reach("values written, not flushed")
        return written

    def reach_and_verify(path: str) -> object:
        plan.reach("closing the file")
        return verify(path)

    os.fsync, tf.summary.write = reach_and_sync, reach_and_write
    durable.verify = reach_and_verify


def make_step(plan: Plan) -> Callable[[int], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the step of a custom loop: number → loss [] and loss per example [8]."""
    weight = tf.Variable(tf.fill([4, 1], 0.5))
    x, y = (tf.split(array, STEP_COUNT) for array in batches())

    @tf.function(autograph=False)
    def train(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            per_example = tf.reduce_mean((tf.matmul(x, weight) - y) ** 2, axis=-1)
            loss = tf.reduce_mean(per_example)
        weight.assign_sub(0.125 * tape.gradient(loss, weight))
        return loss, per_example

    def step(number: int) -> tuple[tf.Tensor, tf.Tensor]:
        losses = train(x[number], y[number])
        plan.reach("in step 0" if number == 0 else f"at step {number}")
        return losses

    return step


def loop_with_tb_firstloss(logdir: str, plan: Plan) -> None:
    watch_capture(plan)
    step = FirstLoss(logdir, **OPTIONS).wrap(make_step(plan), total=0, loss=1)
    for number in range(STEP_COUNT):
        step(number)
        plan.reach("right after step 0")


def loop_with_tf_summary(logdir: str, plan: Plan) -> None:
    step = make_step(plan)
    writer = tf.summary.create_file_writer(logdir)
    with writer.as_default():
        for number in range(STEP_COUNT):
            loss, _ = step(number)
            tf.summary.scalar("loss", loss, step=number)
            plan.reach("right after step 0")


def fit(callback: object, plan: Plan) -> None:
    """Trains with model.fit; step 0 is reached while it is traced, as its Python runs only then."""

    @tf.autograph.experimental.do_not_convert
    def squared_error(y: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
        plan.reach("in step 0")
        return tf.reduce_mean((predicted - y) ** 2, axis=-1)

    class Reaching(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            del logs
            plan.reach(f"at step {batch}")

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            del batch, logs
            plan.reach("right after step 0")

    half = keras.initializers.Constant(0.5)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer=half)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(0.125), squared_error)
    x, y = batches()
    callbacks = [callback, Reaching()]
    model.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=callbacks)


def fit_with_tb_firstloss(logdir: str, plan: Plan) -> None:
    watch_capture(plan)
    fit(FirstLossCallback(logdir, **OPTIONS), plan)


def fit_with_tf_summary(logdir: str, plan: Plan) -> None:
    fit(keras.callbacks.TensorBoard(logdir, update_freq="batch"), plan)


TRAININGS = {
    ("tb_firstloss", "loop"): loop_with_tb_firstloss,
    ("tb_firstloss", "fit"): fit_with_tb_firstloss,
    ("tf.summary", "loop"): loop_with_tf_summary,
    ("tf.summary", "fit"): fit_with_tf_summary,
}
"""By recorder and way of training; in fit, tf.summary is what Keras's TensorBoard callback uses."""
