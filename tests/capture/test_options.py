"""The options' one definition, against the public signatures that repeat it."""

import dataclasses
import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, FirstLossCallback, errors
from tb_firstloss.capture.options import Options

DEEP = functools.reduce(lambda inner, _: [inner], range(200), 0)


@pytest.mark.parametrize(
    ("recorder", "without"), [(FirstLoss, set()), (FirstLossCallback, {"strategy"})]
)
def test_a_public_signature_has_every_option_and_its_default(recorder, without):
    fields = dataclasses.fields(Options)
    expected = {field.name: field.default for field in fields if field.name not in without}
    found = {n: p.default for n, p in inspect.signature(recorder).parameters.items()}
    assert list(found) == list(expected)
    del found["logdir"], expected["logdir"]  # has no default
    assert found == expected


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("auto", "auto"),
        ("log(1) + 2", 2.0),
        (3, 3.0),
        (None, None),
        ({"a": "log(1) + 2", "b": 3}, {"a": 2.0, "b": 3.0}),
    ],
    ids=str,
)
def test_an_expectation_is_a_number_or_one_per_name_or_auto_or_none(tmp_path, given, kept):
    assert Options(logdir=tmp_path, expect=given).expect == kept


def test_options_are_frozen_and_copy_the_metadata_and_the_expectations(tmp_path):
    metadata, expect = {"labels": ["a"]}, {"a": 1.0}
    options = Options(logdir=tmp_path, metadata=metadata, expect=expect)
    metadata["labels"].append("b")
    expect["a"] = 2.0
    assert options.metadata == {"labels": ["a"]}
    assert options.expect == {"a": 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.tag = "other"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tag": "a/b"}, ValueError, "tag: 'a/b'"),
        ({"on_error": "ignore"}, ValueError, "on_error: 'ignore' is none of"),
        ({"on_resume": "x"}, ValueError, "on_resume"),
        ({"max_tensor_bytes": 0}, ValueError, "max_tensor_bytes"),
        ({"step": 1.5}, TypeError, "step: 1.5"),
        ({"profile": "yes"}, TypeError, "profile: 'yes' is neither"),
        ({"profile": 1}, TypeError, "profile: 1 is neither"),
        ({"profile": False, "warm_step": 3}, ValueError, "warm_step: 3 needs a profile"),
        ({"warm_step": 0}, ValueError, "warm_step"),
        ({"warm_step": -1}, ValueError, "warm_step: -1 is too small"),
        ({"expect": "log("}, ValueError, "expect"),
        ({"expect": {}}, ValueError, "expect: an empty mapping"),
        ({"expect": {"a": "log("}}, ValueError, r"expect\['a'\]: 'log\('"),
        ({"expect": {"a": "auto"}}, ValueError, r"expect\['a'\]: 'auto'"),
        ({"expect": {1: 2.0}}, TypeError, "expect: 1 is not the name"),
        ({"expect": [1.0]}, TypeError, r"expect: \[1.0\] is neither"),
        ({"metadata": {"a": object()}}, ValueError, "metadata: JSON"),
        ({"metadata": {"a": float("nan")}}, ValueError, "metadata: JSON"),
        ({"logdir": ""}, ValueError, "logdir: '' is empty"),
        ({"logdir": "a\0b"}, ValueError, "NUL"),
        ({"logdir": "s4://x"}, ValueError, "s4://"),
        ({"metadata": {"config": "x" * (1 << 22)}}, ValueError, "give at most 4,194,304"),
        (
            {"metadata": {"a": functools.reduce(lambda x, _: [x], range(200), 0)}},
            ValueError,
            "deep",
        ),
        ({"logdir": None}, TypeError, "None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_unusable_option_raises_at_once(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        FirstLoss(**{"logdir": tmp_path, **options})


def test_the_logdir_is_resolved_once(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    first = FirstLoss("logs", on_error="raise")
    monkeypatch.chdir(tmp_path / "other")
    first.record(1.0)
    assert first.run_dir == str(tmp_path / "logs" / "first_batch")


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FirstLoss("~/logs").logdir == str(tmp_path / "logs")


@pytest.mark.parametrize("tag", ["first_batch", "a.b-c_1", "X", "RUN-Z9"])
def test_a_tag_of_letters_digits_and_marks_is_valid(tag):
    assert Options(logdir="runs", tag=tag).tag == tag


@pytest.mark.parametrize("tag", ["", "a/b", "..", ".", "a b", "a\n", "ä", None])
def test_any_other_tag_is_refused(tag):
    with pytest.raises(ValueError, match="tag: "):
        Options(logdir="runs", tag=tag)


@pytest.mark.parametrize("kind", [FirstLoss, FirstLossCallback])
def test_integers_of_numpy_are_integers(kind, tmp_path):
    options = {"step": np.int64(3), "warm_step": np.int32(2), "max_tensor_bytes": np.uint64(10)}
    assert kind(tmp_path, **options)._recorder.step == 3
    with pytest.raises(TypeError, match="is not an integer"):
        kind(tmp_path, step=np.float32(3))


def test_a_tag_fits_into_a_file_name_with_its_endings(tmp_path):
    first = FirstLoss(tmp_path, tag="t" * 200)
    first.record(tf.constant(1.0))
    assert first.first_batch is not None
    with pytest.raises(ValueError, match="at most 200"):
        FirstLoss(tmp_path, tag="t" * 201)


def test_what_is_in_the_wrong_place_is_one_clear_error(tmp_path):
    with pytest.raises(TypeError, match="'loss' is no function"):
        FirstLoss(tmp_path).wrap("loss")
    with pytest.raises(TypeError, match="call it on an instance"):
        FirstLoss.wrap(lambda x: x)
    with pytest.raises(TypeError, match="is no path"):
        FirstLoss(lambda x: x)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"give model\.fit a FirstLossCallback"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0, callbacks=[FirstLoss(tmp_path)])


def test_a_fingerprint_does_without_weights_that_are_not_there_yet(tmp_path):
    class Net(tf.Module):
        @property
        def trainable_variables(self):
            raise ValueError("no variables yet")

    net = Net()

    def batch_digest(names, number):
        first = FirstLoss(tmp_path / str(number), fingerprint=True, graph=False, profile=False)
        first.wrap(lambda names: (net, tf.constant(1.0))[1])(tf.constant(names))
        return first.first_batch.metadata["fingerprint"]

    first = batch_digest(["a", "b"], 1)
    assert first.keys() == {"batch"}
    assert batch_digest(["a", "b"], 2) == first
    assert batch_digest(["a", "c"], 3) != first


NO_DIRECTORIES = {
    "file": ("file", "file is a file"),
    "below a file": ("file/logs", "file is a file"),
    "broken link": ("link", "link is a link to gone, which does not exist"),
    "below a broken link": ("link/logs", "link is a link to gone, which does not exist"),
}


@pytest.mark.parametrize(("logdir", "found"), NO_DIRECTORIES.values(), ids=NO_DIRECTORIES)
def test_a_logdir_that_is_no_directory_is_named_in_one_warning(tmp_path, logdir, found):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    first = FirstLoss(tmp_path / logdir, graph=False, profile=False)
    with pytest.warns(errors.CaptureWarning) as said:
        assert first.wrap(lambda: tf.constant(2.0))().numpy() == 2
    (warning,) = said
    assert f": {tmp_path}/{found}; give a directory" in str(warning.message)
    assert first.first_batch.loss == 2


def test_a_second_try_has_no_fingerprint_of_the_first(tmp_path, monkeypatch):
    first = FirstLoss(tmp_path, fingerprint=True, graph=False, profile=False)

    class Unreadable:
        def __array__(self, *_args, **_options):
            raise MemoryError("too large")

    class Net:
        trainable_variables = (tf.Variable(1.0),)

    def step(net):
        if net.trainable_variables is Net.trainable_variables:
            raise LookupError
        return tf.constant(1.0)

    net, wrapped = Net(), first.wrap(step)
    with pytest.raises(LookupError):
        wrapped(net)
    net.trainable_variables = (Unreadable(),)
    with pytest.warns(errors.CaptureWarning, match="no fingerprint of the first batch"):
        wrapped(net)
    assert "fingerprint" not in first.first_batch.metadata
