"""One of two workers, started by test_workers.py: python worker.py LOGDIR OUT.json.

Trains once per case, each in a separate run, and saves what it found.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from tb_firstloss import FirstBatch, FirstLoss, FirstLossCallback
from tb_firstloss.capture.writing import packed

SHAPES = {
    "ragged": lambda values, worker: tf.ones([tf.shape(values)[0], 2 + worker]) * (worker + 1.0),
    "ranks": lambda values, worker: tf.ones([tf.shape(values)[0]] + [1] * worker),
    "empty": lambda values, worker: values[: 0 if worker else 100],
    "bfloat16": lambda values, _: tf.cast(values, tf.bfloat16),
    "scalar": lambda values, _: tf.reduce_sum(values) / 4,
    "losses": lambda values, _: {"d": tf.reduce_sum(values) / 4, "g": tf.reduce_sum(values) / 2},
    "names": lambda values, worker: {"dg"[worker]: tf.reduce_sum(values) / 4},
    "vector-total": lambda values, _: tf.ones_like(values),
}
SELECT = {"vector-total": {"total": lambda result: result}}
CASES = ("data", "off", *SHAPES, "reduced", "one-fails", "one-declines")
FITS = ("fit", "fit-declines")


def train(case, logdir, strategy):
    """Trains on every batch and returns what this worker knows afterwards."""
    worker = strategy.cluster_resolver.task_id
    policy = "OFF" if case == "off" else "DATA"
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy[policy]
    rows = tf.data.Dataset.from_tensor_slices(np.arange(20, dtype=np.float32).reshape(10, 2))
    batches = strategy.experimental_distribute_dataset(rows.batch(4).with_options(options))
    with strategy.scope():
        weight = tf.Variable(1.0)

    def replica_step(x):
        values = tf.reduce_sum(x, axis=1) * weight
        weight.assign_add(0.5)
        return SHAPES.get(case, lambda values, _: values)(values, worker)

    @tf.function
    def train_step(x):
        values = strategy.run(replica_step, args=(x,))
        if case == "losses":  # of two losses, the step combines one
            values["d"] = strategy.reduce("SUM", values["d"], axis=None)
        return strategy.reduce("SUM", values, axis=0) if case == "reduced" else values

    first = FirstLoss(logdir / case, strategy=strategy, graph=False, profile=case == "data")
    if case == "one-declines" and worker:
        earlier = FirstBatch(
            run="r", step=0, wall_time=0.0, losses={"loss": np.float32(5)}, outputs={}
        )
        first.deserialize(packed.to_bytes(earlier))
    fails = case == "one-fails" and worker
    select = {"loss": lambda _: None} if fails else SELECT.get(case, {})
    step = first.wrap(train_step, **select)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in batches:
            step(x)
    return {
        "weight": float(weight.numpy()),
        "run_dir": first.run_dir,
        "digest": first.first_batch and first.first_batch.digest,
        "warnings": [str(w.message) for w in caught if "first loss" in str(w.message)],
    }


def train_with_fit(case, logdir, strategy):
    """Fits a linear model, four rows per batch, and returns what this worker knows afterwards.

    In tf_keras: Keras 3 (3.15) cannot take batches from several workers.
    """
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    with strategy.scope():
        ones = tf_keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = tf_keras.Sequential([tf_keras.layers.Input((2,)), ones])
        model.compile(tf_keras.optimizers.SGD(0.001), "mae")
    first = FirstLossCallback(logdir / case, profile=False)
    declines = case == "fit-declines" and strategy.cluster_resolver.task_id
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = tf.data.Dataset.from_tensor_slices((rows, np.zeros(10, np.float32))).batch(4)
        start = 1 if declines else 0  # a resumed run is not recorded
        model.fit(dataset, epochs=start + 2, initial_epoch=start, verbose=0, callbacks=[first])
    return {
        "weight": float(model.get_weights()[0].sum()),
        "run_dir": first.run_dir,
        "digest": first.first_batch and first.first_batch.digest,
        "warnings": [str(w.message) for w in caught if "first loss" in str(w.message)],
    }


if __name__ == "__main__":
    logdir, out = map(Path, sys.argv[1:])
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    said = {case: train(case, logdir, strategy) for case in CASES}
    said |= {case: train_with_fit(case, logdir, strategy) for case in FITS}
    out.write_text(json.dumps(said))
