import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tb_firstloss import FirstLoss, FirstLossCallback, probe, read_first_loss
from tb_firstloss.capture.keras.expectation import infer_expectation
from tb_firstloss.errors import CaptureError, UnexpectedLossError, UnexpectedLossWarning

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
LABELS = np.arange(12) % 3


class Doubled(keras.losses.CategoricalCrossentropy):
    def call(self, y_true, y_pred):
        return 2 * super().call(y_true, y_pred)


def build(loss, *, units=3, scale=0.01, library=keras):
    """A compiled network whose first outputs are nearly equal for small scales."""
    start = library.initializers.RandomNormal(stddev=scale, seed=1)
    layers = [library.Input((4,)), library.layers.Dense(units, kernel_initializer=start)]
    model = library.Sequential(layers)
    model.compile("sgd", loss)
    return model


def named(loss, **options):
    """A loss of each library."""
    return [getattr(library.losses, loss)(**options) for library in (keras, tf_keras)]


@pytest.mark.parametrize(
    ("loss", "options", "shape", "expected"),
    [
        ("SparseCategoricalCrossentropy", {}, (None, 10), math.log(10)),
        ("SparseCategoricalCrossentropy", {"from_logits": True}, (8, 5, 7), math.log(7)),
        ("CategoricalCrossentropy", {"label_smoothing": 0.3}, (None, 4), math.log(4)),
        ("CategoricalCrossentropy", {"axis": 1}, (None, 4, 9), math.log(4)),
        ("BinaryCrossentropy", {"from_logits": True}, (None, 1), math.log(2)),
        ("MeanSquaredError", {}, (None, 10), None),
        ("CategoricalCrossentropy", {}, (None, None), None),
        ("CategoricalCrossentropy", {}, (None, 1), None),
        ("CategoricalCrossentropy", {}, None, None),
        ("CategoricalCrossentropy", {}, (), None),
    ],
)
def test_only_cross_entropies_of_known_classes_have_an_expectation(loss, options, shape, expected):
    for each in named(loss, **options):
        found = infer_expectation(each, shape)
        assert found.value == expected
        assert found.reason


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_what_is_inferred_is_the_loss_of_equal_outputs(library):
    """The formula, held against the libraries' own numbers."""
    logits = np.full((6, 5), 0.7, np.float32)
    labels = np.eye(5, dtype=np.float32)[np.arange(6) % 5]
    for loss in (
        library.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        library.losses.BinaryCrossentropy(label_smoothing=0.2),
    ):
        predicted = logits if "categorical" in loss.name else np.full((6, 5), 0.5, np.float32)
        expected = infer_expectation(loss, predicted.shape).value
        assert float(loss(labels, predicted)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, p: p,
        Doubled(),
        keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        keras.losses.CategoricalFocalCrossentropy(),
        "a string",
    ],
    ids=["function", "subclass", "ignore-class", "focal", "text"],
)
def test_nothing_is_guessed_for_other_losses(loss):
    assert infer_expectation(loss, (None, 10)).value is None


@pytest.mark.parametrize(
    ("library", "loss"),
    [
        (keras, keras.losses.SparseCategoricalCrossentropy()),
        (keras, "sparse_categorical_crossentropy"),
        (tf_keras, tf_keras.losses.SparseCategoricalCrossentropy()),
        (tf_keras, tf_keras.losses.sparse_categorical_crossentropy),
    ],
    ids=["keras-object", "keras-name", "tf_keras-object", "tf_keras-function"],
)
def test_fit_infers_the_expectation_however_the_loss_is_given(tmp_path, library, loss):
    model = build(loss, library=library)
    model.add(library.layers.Softmax())
    model.compile("sgd", loss)
    callback = FirstLossCallback(
        tmp_path, expect="auto", graph=False, profile=False, on_error="raise"
    )
    model.fit(X, LABELS, batch_size=4, verbose=0, callbacks=[callback])
    back = read_first_loss(tmp_path)
    assert back.metadata["expected_loss"] == pytest.approx(math.log(3))
    assert back.metadata["expected_from"] == "sparse_categorical_crossentropy: ln 3"
    assert back.mean == pytest.approx(math.log(3), rel=0.1)


def test_fit_warns_of_a_loss_that_is_too_high_once_it_is_recorded_and_trains_on(tmp_path):
    model = build(keras.losses.SparseCategoricalCrossentropy(from_logits=True), scale=30)
    callback = FirstLossCallback(tmp_path, expect="auto", graph=False, profile=False)
    with pytest.warns(UnexpectedLossWarning, match=r"expected 1.09861: off by") as caught:
        history = model.fit(X, LABELS, batch_size=4, verbose=0, callbacks=[callback])
    assert len(caught) == 1
    assert read_first_loss(tmp_path).mean == pytest.approx(callback.first_batch.mean)
    assert len(history.history["loss"]) == 1


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ("mse", "only Keras cross-entropies are supported"),
        (lambda y, p: p**2, "only Keras cross-entropies are supported"),
    ],
    ids=["mse", "function"],
)
def test_fit_says_why_it_expects_nothing(tmp_path, loss, reason):
    model = build(loss, units=1)
    callback = FirstLossCallback(
        tmp_path, expect="auto", graph=False, profile=False, on_error="raise"
    )
    with pytest.raises(CaptureError, match=reason):
        model.fit(X, LABELS, batch_size=4, verbose=0, callbacks=[callback])
    assert "expected_loss" not in read_first_loss(tmp_path).metadata


def test_a_loop_warns_after_the_value_is_on_disk(tmp_path):
    first = FirstLoss(tmp_path, expect=2.0)
    with pytest.warns(UnexpectedLossWarning, match="mean per-example loss 5, expected 2: off by 3"):
        first.record(tf.constant([4.0, 6.0]))
    assert read_first_loss(tmp_path).metadata["expected_loss"] == 2.0


def test_a_loop_with_the_expected_loss_is_silent(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FirstLoss(tmp_path, expect="4 + 1", on_error="raise").record(tf.constant([4.0, 6.0]))


def test_in_ci_an_unexpected_loss_is_an_error_and_recorded(tmp_path):
    with pytest.raises(UnexpectedLossError, match="expected 2"):
        FirstLoss(tmp_path, expect=2.0, on_error="raise").record(tf.constant([4.0, 6.0]))
    assert read_first_loss(tmp_path).per_example.tolist() == [4.0, 6.0]


def test_a_filter_that_makes_it_an_error_gets_the_warning_itself(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnexpectedLossWarning)
        with pytest.raises(UnexpectedLossWarning, match="expected 2"):
            FirstLoss(tmp_path, expect=2.0).record(tf.constant([4.0, 6.0]))


def test_a_loop_cannot_infer_and_says_who_can(tmp_path):
    with pytest.raises(ValueError, match="'auto' is for FirstLossCallback and probe"):
        FirstLoss(tmp_path, expect="auto")


@pytest.mark.parametrize("given", [True, False], ids=["given-loss", "compiled-loss"])
def test_probe_infers_from_either_loss(tmp_path, given):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    first = probe(
        build(loss), (X, LABELS), loss=loss if given else None, logdir=tmp_path, expect="auto"
    )
    assert first.metadata["expected_loss"] == pytest.approx(math.log(3))
    assert read_first_loss(tmp_path).metadata == first.metadata


@pytest.mark.parametrize("logdir", [True, False], ids=["written", "not-written"])
def test_probe_warns_of_an_unexpected_loss(tmp_path, logdir):
    model = build("mse", units=1)
    with pytest.warns(UnexpectedLossWarning, match="probe: mean per-example loss"):
        probe(model, (X, LABELS), logdir=tmp_path if logdir else None, expect=1e6)


def test_probe_refuses_an_expectation_it_cannot_read_before_it_runs():
    with pytest.raises(ValueError, match="expect: 'nonsense'"):
        probe(lambda x: pytest.fail("was run"), (X, LABELS), loss="unused", expect="nonsense")
