import math
import warnings
from types import MappingProxyType

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tb_firstloss import FirstLoss, FirstLossCallback, probe, read_first_loss
from tb_firstloss.capture.expectation import Expectation
from tb_firstloss.capture.keras.expectation import infer_expectation
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.capture.step.result import Captured
from tb_firstloss.checks import check_recorded
from tb_firstloss.errors import (
    CaptureError,
    CaptureWarning,
    UnexpectedLossError,
    UnexpectedLossWarning,
)

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
    assert [warning.filename for warning in caught] == [__file__]
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
    with pytest.warns(UnexpectedLossWarning, match="probe: mean per-example loss") as caught:
        probe(model, (X, LABELS), logdir=tmp_path if logdir else None, expect=1e6)
    assert [warning.filename for warning in caught] == [__file__]


def test_probe_refuses_an_expectation_it_cannot_read_before_it_runs():
    with pytest.raises(ValueError, match="expect: 'nonsense'"):
        probe(lambda x: pytest.fail("was run"), (X, LABELS), loss="unused", expect="nonsense")


GAN = {"d_loss": np.float32(1.5), "g_loss": np.float32(0.75)}


def commit(logdir, expect, inferred=None, losses=GAN, **options):
    """Records these losses of a step; returns the warnings as (type, text after the run)."""
    recorder = Recorder(Options(logdir=logdir, expect=expect, **options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder.commit(Captured(losses), metadata={}, inferred=inferred)
    prefix = f"{recorder.run_dir}: "
    assert all(str(warning.message).startswith(prefix) for warning in caught)
    return [(w.category, str(w.message).removeprefix(prefix)) for w in caught]


def commit_and_raise(logdir, *given):
    """Records them where a finding is an error, and returns that error."""
    with pytest.raises(CaptureError) as caught:
        commit(logdir, *given, on_error="raise")
    return caught.value


def test_each_loss_has_its_expectation_and_as_expected_is_silent(tmp_path):
    expect = {"d_loss": "3 * log(2) - 0.58", "g_loss": 0.7}
    assert commit(tmp_path, expect, on_error="raise") == []
    back = read_first_loss(tmp_path)
    assert back.metadata["expected_loss"] == pytest.approx({"d_loss": 1.4994415, "g_loss": 0.7})
    assert "expected_from" not in back.metadata
    assert check_recorded(back).ok


def test_several_unexpected_losses_are_one_warning_or_one_error(tmp_path):
    expect = {"d_loss": 1, "g_loss": 0.5}
    ((category, text),) = commit(tmp_path, expect)
    assert category is UnexpectedLossWarning
    assert "loss 'd_loss' 1.5, expected 1: off by 0.5" in text
    assert "Loss 'g_loss' 0.75, expected 0.5: off by 0.25" in text
    error = commit_and_raise(tmp_path, expect)
    assert isinstance(error, UnexpectedLossError)
    assert str(error).endswith(text)


@pytest.mark.parametrize("expect", [1.386, "auto"], ids=["given", "inferred"])
def test_one_number_for_several_losses_is_one_warning_or_error_that_shows_a_mapping(
    tmp_path, expect
):
    text = (
        "not compared with the expectation: several losses ('d_loss', 'g_loss'); give a mapping "
        "such as {'d_loss': 1.386}"
    )
    inferred = Expectation(1.386, "binary_crossentropy: 2 ln 2")
    assert commit(tmp_path, expect, inferred) == [(CaptureWarning, text)]
    error = commit_and_raise(tmp_path, expect, inferred)
    assert type(error) is CaptureError
    assert str(error).endswith(text)
    assert read_first_loss(tmp_path / "first_batch").losses == GAN


def test_an_expectation_of_an_unknown_name_is_one_warning_that_lists_the_names(tmp_path):
    text = (
        "not compared with the expectation: no loss or output is named 'dloss'; known: 'd_loss', "
        "'g_loss'"
    )
    assert commit(tmp_path, {"dloss": 1}) == [(CaptureWarning, text)]


REST = "'g_loss': no initial loss is known for mse"


@pytest.mark.parametrize("expected", [1.5, 3.0], ids=["as-expected", "unexpected"])
def test_auto_judges_what_it_knows_and_says_what_has_no_expectation(tmp_path, expected):
    inferred = Expectation({"d_loss": expected}, "binary_crossentropy: ln 2", rest=REST)
    found = commit(tmp_path, "auto", inferred)
    assert found.pop() == (CaptureWarning, f"expect='auto' expects nothing of {REST}")
    assert [category for category, _ in found] == [UnexpectedLossWarning] * (expected == 3.0)
    error = commit_and_raise(tmp_path, "auto", inferred)
    assert isinstance(error, UnexpectedLossError) is (expected == 3.0)
    metadata = read_first_loss(tmp_path / "first_batch").metadata
    assert metadata["expected_loss"] == {"d_loss": expected}
    assert metadata["expected_from"] == "binary_crossentropy: ln 2"


def test_auto_that_knows_nothing_says_so_once(tmp_path):
    assert commit(tmp_path, "auto") == [
        (CaptureWarning, "expect='auto' expects nothing: the loss function was not seen")
    ]
    assert commit(tmp_path, None) == []
    assert commit(tmp_path, "auto", losses={}, inferred=Expectation(1.0)) == []


def test_the_expectation_in_the_metadata_is_a_plain_copy():
    given = {"a": 1.0}
    metadata = Expectation(MappingProxyType(given), "why", rest="not this").metadata()
    given["a"] = 2.0
    assert metadata == {"expected_loss": {"a": 1.0}, "expected_from": "why"}
    assert type(metadata["expected_loss"]) is dict
    assert Expectation(None, "why").metadata() == {"expected_from": "why"}
    assert Expectation(0.0).metadata() == {"expected_loss": 0.0}


def test_a_loop_takes_an_expectation_per_output(tmp_path):
    first = FirstLoss(tmp_path, expect={"a": "4 + 1", "b": 1, "loss": 9})
    with pytest.warns(UnexpectedLossWarning, match="mean per-example loss of 'b' 3, exp") as caught:
        first.record({"a": tf.constant([4.0, 6.0]), "b": tf.constant([2.0, 4.0])}, total=9.0)
    assert len(caught) == 1
    kinds = {name: part.kind for name, part in check_recorded(first.first_batch).parts.items()}
    assert kinds == {"a": "ok", "b": "high", "loss": "ok"}


def test_a_loop_refuses_auto_for_a_single_loss_too(tmp_path):
    with pytest.raises(ValueError, match=r"^expect\['a'\]: 'auto' is for the whole step"):
        FirstLoss(tmp_path, expect={"a": "auto"})


def test_fit_takes_an_expectation_by_name(tmp_path):
    callback = FirstLossCallback(
        tmp_path, expect={"loss": 1e6}, graph=False, profile=False, on_error="raise"
    )
    with pytest.raises(UnexpectedLossError, match=r"loss 'loss' .+, expected 1e.06"):
        build("mse", units=1).fit(X, LABELS, batch_size=4, verbose=0, callbacks=[callback])
    assert read_first_loss(tmp_path).metadata["expected_loss"] == {"loss": 1e6}


def test_probe_takes_an_expectation_by_name():
    with pytest.warns(UnexpectedLossWarning, match=r"probe: loss 'loss' .+, expected 1e.06"):
        first = probe(build("mse", units=1), (X, LABELS), expect={"loss": "1e6"})
    assert first.metadata["expected_loss"] == {"loss": 1e6}
