"""The options' one definition, against the public signatures that repeat it."""

import dataclasses
import inspect

import pytest

from tb_firstloss import FirstLoss, FirstLossCallback
from tb_firstloss.capture.options import Options


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
