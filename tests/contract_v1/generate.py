"""Recordings of contract version 1, each with the values that its reader must find in it.

Made once, by the last commit that wrote this version: ``python tests/contract_v1/generate.py`` in a
checkout of 4df61c7. Version 1 had one loss of any shape and no names for losses.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tb_firstloss import FirstLoss, FirstLossCallback
from tb_firstloss.capture.writing import packed

HERE = Path(__file__).parent
SMALL = {"graph": False, "profile": False}


def main():
    """Writes every recording, the bytes of a checkpoint, and expected.json."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out, and of what is not as expected
        recorders = {name: make(name) for name, make in RECORDINGS.items()}
    expected = {}
    for name, recorder in recorders.items():
        source = Path(recorder.run_dir)
        target = HERE / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (event_file,) = source.glob("events.out.tfevents.*")
        shutil.copy(event_file, target / f"events.out.tfevents.0.host.1.{name}.tb_firstloss.v2")
        expected[name] = describe(recorder.first_batch)
    scalar_and_values = recorders["loop"].first_batch
    (HERE / "checkpoint.bin").write_bytes(packed.to_bytes(scalar_and_values))
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def describe(first):
    """Returns every array of a first batch as dtype, shape and hexadecimal bytes, and the rest."""
    return {
        "step": first.step,
        "digest": first.digest,
        "loss": bits(first.loss),
        "outputs": {
            name: {
                "per_example": bits(output.per_example),
                "row_splits": [bits(splits) for splits in output.row_splits],
                "sample_weight": bits(output.sample_weight),
                "mask": bits(output.mask),
                "reduction": output.reduction,
                "loss_weight": output.loss_weight,
                "mean": output.statistics.mean,
            }
            for name, output in first.outputs.items()
        },
        "expected_loss": first.metadata.get("expected_loss"),
    }


def bits(array):
    return array if array is None else [array.dtype.name, list(array.shape), array.tobytes().hex()]


def loop(name):
    first = FirstLoss(tempfile.mkdtemp(), tag=name, expect="log(10)", step=7, **SMALL)
    per_example = tf.constant([2.25, -0.0, float("nan"), 2.5])
    first.record(per_example, total=tf.constant(2.3))
    return first


def lone_scalar(name):
    first = FirstLoss(tempfile.mkdtemp(), tag=name, **SMALL)
    first.record(tf.constant(1.5, tf.bfloat16))
    return first


def values_alone(name):
    first = FirstLoss(tempfile.mkdtemp(), tag=name, **SMALL)
    first.record({"a/b": tf.ragged.constant([[1.0], [2.0, 3.0]]), "c": tf.ones([2], tf.float16)})
    return first


def left_out(name):
    first = FirstLoss(tempfile.mkdtemp(), tag=name, max_tensor_bytes=64, **SMALL)
    first.record(tf.range(100.0), total=tf.constant(49.5))
    return first


def no_loss(name):
    class Model(keras.Model):
        def train_step(self, data):
            return {"nothing": tf.constant(1.0)}

    model = Model(*2 * [keras.Input((2,))])
    model.compile("sgd")
    first = FirstLossCallback(tempfile.mkdtemp(), tag=name, **SMALL)
    model.fit(np.zeros((4, 2), "float32"), callbacks=[first], verbose=0)
    return first


def vector_total(name):
    class Model(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum((self(x, training=True) - y) ** 2, -1)
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
            return {"loss": tf.reduce_mean(loss)}

    return fit(name, Model)


def unreduced(name):
    keras.utils.set_random_seed(2)
    return fit(name, keras.Model, loss=keras.losses.MeanSquaredError(reduction="none"))


def fit(name, model_class, **compiled):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    model = model_class(inputs, keras.layers.Dense(2, name="head")(inputs))
    model.compile("sgd", **compiled)
    rng = np.random.default_rng(0)
    x, y = (rng.random((8, n), dtype=np.float32) for n in (3, 2))
    first = FirstLossCallback(tempfile.mkdtemp(), tag=name, **SMALL)
    weights = np.linspace(0.5, 2, 8, dtype=np.float32) if compiled else None
    model.fit(x, y, batch_size=8, sample_weight=weights, callbacks=[first], verbose=0)
    return first


def two_outputs(name):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    heads = [keras.layers.Dense(2, name=head)(inputs) for head in ("a", "b")]
    model = keras.Model(inputs, heads)
    model.compile("sgd", ["mse", "mae"], loss_weights=[0.5, 2.0])
    first = FirstLossCallback(tempfile.mkdtemp(), tag=name, expect="3", **SMALL)
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    model.fit(x, [y, y], batch_size=4, callbacks=[first], verbose=0)
    return first


RECORDINGS = {
    "loop": loop,
    "lone_scalar": lone_scalar,
    "values_alone": values_alone,
    "left_out": left_out,
    "no_loss": no_loss,
    "vector_total": vector_total,
    "unreduced": unreduced,
    "two_outputs": two_outputs,
}

if __name__ == "__main__":
    main()
