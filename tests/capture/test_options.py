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
    ("given", "kept"), [("auto", "auto"), ("log(1) + 2", 2.0), (3, 3.0), (None, None)], ids=str
)
def test_an_expectation_is_a_number_auto_or_none(tmp_path, given, kept):
    assert Options(logdir=tmp_path, expect=given).expect == kept


def test_options_are_frozen_and_keep_their_own_metadata(tmp_path):
    metadata = {"labels": ["a"]}
    options = Options(logdir=tmp_path, metadata=metadata)
    metadata["labels"].append("b")
    assert options.metadata == {"labels": ["a"]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.tag = "other"
