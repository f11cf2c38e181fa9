import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import probe, read_first_loss
from tb_firstloss.errors import LossNotFoundError

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = np.arange(16) % 3


def make_model(**layers):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    variables += [v for metric in model.metrics for v in metric.variables]
    return {v.path: np.asarray(v).tobytes() for v in variables}


def random_draws():
    """One number from each stream that a training script may use."""
    return (
        tf.random.normal([]).numpy().tobytes(),
        tf.random.get_global_generator().normal([]).numpy().tobytes(),
        keras.random.normal([]).numpy().tobytes(),
        random.random(),
        np.random.random(),
    )


def cross_entropy(logits, labels):
    shifted = logits - logits.max(-1, keepdims=True)
    return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_weights_statistics_metrics_and_seeds_are_as_before(training):
    model = make_model()
    model.train_on_batch(X, Y)
    before = state_of(model)
    assert len(before) > 20
    probe(model, (X, Y), training=training)
    assert state_of(model) == before


@pytest.mark.parametrize("eagerly", [False, True], ids=["graph", "run-functions-eagerly"])
def test_every_random_stream_continues_as_without_probe(eagerly):
    tf.config.run_functions_eagerly(eagerly)
    try:
        drawn = []
        for probed in (False, True):
            model = make_model()
            tf.random.set_global_generator(tf.random.Generator.from_seed(3))
            random_draws()
            if probed:
                probe(model, (X, Y))
            drawn.append([random_draws() for _ in range(3)])
        assert tf.config.functions_run_eagerly() is eagerly
    finally:
        tf.config.run_functions_eagerly(False)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("built", [True, False], ids=["built", "not-built"])
def test_training_after_probe_is_bit_for_bit_training_without_it(built):
    def train(probed):
        keras.utils.set_random_seed(5)
        layers = [keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((4,)), *layers] if built else layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        if probed:
            probe(model, (X, Y))
        history = model.fit(X, Y, batch_size=4, epochs=2, verbose=0).history
        return history, [w.tobytes() for w in model.get_weights()]

    assert train(probed=True) == train(probed=False)


def test_seeded_legacy_random_operations_are_not_advanced():
    """tf.random.* keeps its state in the kernel, where no variable holds it."""

    def run(probed):
        tf.random.set_seed(11)
        module = tf.Module()
        module.weight = tf.Variable([1.0, 2.0])

        def model(x):
            return x * module.weight + tf.random.normal([2], seed=4)

        def step(x):
            return model(x) + tf.random.normal([2], seed=4)

        step(tf.zeros([2]))
        if probed:
            probe(model, tf.zeros([2]), loss=lambda _, out: out)
        return [step(tf.zeros([2])).numpy().tolist() for _ in range(3)]

    assert run(probed=True) == run(probed=False)


def test_inference_values_are_the_loss_of_the_initial_weights():
    model = make_model()
    logits = model(X, training=False).numpy()
    first = probe(model, (X, Y), training=False)
    np.testing.assert_allclose(first.per_example, cross_entropy(logits, Y), rtol=1e-5)
    penalty = 0.1 * (model.layers[0].kernel.numpy() ** 2).sum()
    np.testing.assert_allclose(first.loss, first.per_example.mean() + penalty, rtol=1e-5)


def test_training_mode_uses_batch_statistics_and_dropout():
    model = make_model()
    inference = probe(model, (X, Y), training=False).per_example
    training = probe(model, (X, Y), training=True).per_example
    assert not np.allclose(inference, training)
    assert probe(model, (X, Y)).per_example.tobytes() == training.tobytes()


def test_training_mode_gives_the_loss_that_the_first_step_has():
    model = make_model()
    before = probe(model, (X, Y)).loss
    logged = model.train_on_batch(X, Y, return_dict=True)["loss"]
    np.testing.assert_allclose(before, logged, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda y, p: tf.nn.sparse_softmax_cross_entropy_with_logits(y, p),
    ],
    ids=["keras-loss", "function"],
)
def test_a_given_loss_needs_no_compiled_model(loss):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    first = probe(model, (X, Y), loss=loss)
    np.testing.assert_allclose(
        first.per_example, cross_entropy(model(X).numpy(), Y), rtol=1e-5, atol=1e-6
    )
    assert first.loss is None


def test_a_scalar_loss_is_the_total():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    first = probe(model, (X, Y), loss=lambda _, p: tf.reduce_sum(p))
    np.testing.assert_allclose(first.losses["loss"], model(X).numpy().sum(), rtol=1e-5)
    assert not first.outputs


def test_an_integer_is_no_loss():
    with pytest.raises(LossNotFoundError, match=r"int32\[\], which has no gradient"):
        probe(lambda x: x, (X, Y), loss=lambda _, p: tf.size(p))


def test_a_loss_function_may_return_several_losses():
    first = probe(lambda x: x, (X, Y), loss=lambda _, p: {"a": p[0, 0], "b": p[1, 1]})
    assert list(first.losses.items()) == [("a", X[0, 0]), ("b", X[1, 1])]


def test_a_compiled_model_has_its_total_as_the_only_loss():
    first = probe(make_model(), (X, Y))
    assert list(first.losses) == ["loss"]


def test_sample_weights_are_kept_with_the_values():
    model = make_model()
    weights = np.linspace(0, 1, 16).astype(np.float32)
    first = probe(model, (X, Y, weights), training=False)
    (output,) = first.outputs.values()
    assert output.sample_weight.tolist() == weights.tolist()
    np.testing.assert_allclose(
        output.per_example, cross_entropy(model(X, training=False).numpy(), Y), rtol=1e-5
    )


def test_the_recording_is_named_probe(tmp_path):
    first = probe(make_model(), (X, Y), logdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]
    assert read_first_loss(tmp_path).digest == first.digest


@pytest.mark.parametrize("model", [lambda x: x, keras.Sequential([keras.layers.Dense(1)])])
def test_without_any_loss_the_error_says_to_give_one(model):
    with pytest.raises(ValueError, match="give loss="):
        probe(model, (X, Y))


def test_a_batch_of_four_parts_is_refused():
    with pytest.raises(ValueError, match="4 parts"):
        probe(lambda x: x, (X, Y, Y, Y), loss=lambda _, p: p)
