"""model.fit on several replicas: every example once, and training unchanged bit for bit."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLossCallback, read_first_loss

COUNT = 29
RNG = np.random.default_rng(1)
X = RNG.normal(size=(COUNT, 4)).astype(np.float32)
Y = RNG.normal(size=(COUNT, 3)).astype(np.float32)
WEIGHTS = RNG.random(COUNT).astype(np.float32)


def make_model(library, devices=("CPU:0", "CPU:1"), **compile_options):
    k = importlib.import_module(library)
    k.backend.clear_session()
    k.utils.set_random_seed(3)
    # Collectives of several strategies interfere with each other in one process.
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
    with strategy.scope():
        hidden = k.layers.Dense(5, "tanh", kernel_regularizer=k.regularizers.L2(0.01))
        model = k.Sequential([k.layers.Input((4,)), hidden, k.layers.Dense(3)])
        model.compile(k.optimizers.Adam(0.01), "mse", **compile_options)
    return model


def fit(model, callbacks, batch_size=8):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(batch_size)
    return model.fit(dataset, epochs=2, verbose=0, callbacks=callbacks).history


def state(model):
    variables = model.optimizer.variables
    variables = variables() if callable(variables) else variables
    return [w.tobytes() for w in model.get_weights()] + [v.numpy().tobytes() for v in variables]


def expected_losses(weights, batch_size):
    """Returns the unweighted loss per example and the first kernel, by the formula."""
    kernel, bias, kernel_2, bias_2 = (w.astype(np.float64) for w in weights)
    rows = slice(0, batch_size)
    predicted = np.tanh(X[rows] @ kernel + bias) @ kernel_2 + bias_2
    per_example = ((predicted - Y[rows]) ** 2).mean(1)
    return per_example, kernel


@pytest.mark.parametrize(
    ("library", "options"),
    [
        ("keras", {}),
        ("keras", {"run_eagerly": True}),
        ("keras", {"steps_per_execution": 2}),
        ("tf_keras", {}),
        ("tf_keras", {"run_eagerly": True}),
        ("tf_keras", {"steps_per_execution": 2}),
    ],
    ids=[
        "keras",
        "keras-eager",
        "keras-several-steps",
        "tf_keras",
        "tf_keras-eager",
        "tf_keras-several-steps",
    ],
)
def test_training_is_the_same_and_every_example_is_there(library, options, tmp_path):
    plain = make_model(library, **options)
    plain_history = fit(plain, [])
    model = make_model(library, **options)
    initial = model.get_weights()
    attributes = set(vars(model)), set(vars(model.optimizer))
    history = fit(model, [FirstLossCallback(tmp_path, on_error="raise")])
    assert repr(history) == repr(plain_history)
    assert state(model) == state(plain)
    hooks = {"compute_loss", "scale_loss", "get_scaled_loss", "train_step"}
    assert not hooks & (
        vars(model).keys() - attributes[0] | vars(model.optimizer).keys() - attributes[1]
    )

    first = read_first_loss(tmp_path)
    per_example, kernel = expected_losses(initial, 8)
    np.testing.assert_allclose(first.per_example, per_example, rtol=1e-5)
    (output,) = first.outputs.values()
    assert output.sample_weight.ravel().tolist() == WEIGHTS[:8].tolist()
    whole = (per_example * WEIGHTS[:8]).mean() + 0.01 * (kernel**2).sum()
    np.testing.assert_allclose(first.loss, whole, rtol=1e-5)
    assert first.metadata["replica_counts"] == [4, 4]
    assert first.metadata["global_batch_size"] == 8
    assert first.metadata["strategy"] == "MirroredStrategy"


def test_replicas_with_unequal_shares_keep_the_order(tmp_path):
    """In tf_keras: Keras 3 averages the first batch over replicas, whose shares must be equal."""
    model = make_model("tf_keras")
    initial = model.get_weights()
    fit(model, [FirstLossCallback(tmp_path, on_error="raise")], batch_size=7)
    first = read_first_loss(tmp_path)
    np.testing.assert_allclose(first.per_example, expected_losses(initial, 7)[0], rtol=1e-5)
    assert first.metadata["replica_counts"] == [4, 3]


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_one_replica_is_captured_as_well(library, tmp_path):
    """As on a machine with one GPU. The last batch is smaller, so the step is traced again."""
    plain = make_model(library, ["CPU:0"])
    fit(plain, [])
    model = make_model(library, ["CPU:0"])
    initial = model.get_weights()
    fit(model, [FirstLossCallback(tmp_path, on_error="raise")])
    assert state(model) == state(plain)
    first = read_first_loss(tmp_path)
    np.testing.assert_allclose(first.per_example, expected_losses(initial, 8)[0], rtol=1e-5)
    assert first.metadata["replicas"] == 1


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_each_of_several_losses_is_the_sum_of_its_shares(library, tmp_path):
    k = importlib.import_module(library)

    def two_layers():
        k.utils.set_random_seed(3)
        reduction = tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)
        with strategy.scope():
            model = Model([k.layers.Input((4,)), k.layers.Dense(3), k.layers.Dense(2)])
            model.compile("sgd")
            model.optimizer.build(model.trainable_variables)
        return model

    class Model(k.Sequential):
        def train_step(self, data):
            x, first, last = data[0], *self.layers[-2:]
            with tf.GradientTape(persistent=True) as tape:
                a = tf.reduce_sum(first(x) ** 2) / 8
                b = tf.reduce_sum(last(first(x)) ** 2, -1)
            for loss, layer in (a, first), (b, last):
                gradients = tape.gradient(loss, layer.trainable_variables)
                self.optimizer.apply_gradients(
                    zip(gradients, layer.trainable_variables, strict=True)
                )
            return {"a_loss": a, "b_loss": tf.reduce_mean(b)}

    plain, model = two_layers(), two_layers()
    (kernel, bias), (kernel_2, bias_2) = (layer.get_weights() for layer in model.layers[-2:])
    assert repr(fit(plain, [])) == repr(fit(model, [FirstLossCallback(tmp_path)]))
    assert state(model) == state(plain)
    first = read_first_loss(tmp_path)
    hidden = X[:8].astype(np.float64) @ kernel + bias
    squares = ((hidden @ kernel_2 + bias_2) ** 2).sum(1)
    assert list(first.losses) == ["a_loss", "b_loss"]
    np.testing.assert_allclose(first.losses["a_loss"], (hidden**2).sum() / 8, rtol=1e-5)
    np.testing.assert_allclose(first.losses["b_loss"], squares.sum(), rtol=1e-5)
    np.testing.assert_allclose(first.per_example, squares, rtol=1e-5)
    assert first.metadata["replica_counts"] == [4, 4]
