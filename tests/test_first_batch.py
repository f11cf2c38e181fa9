import copy
import dataclasses
import hashlib
import math
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest

from tb_firstloss.arrays import LossStatistics
from tb_firstloss.first_batch import FirstBatch, OutputLoss


def first_batch(loss=None, **outputs):
    outputs = {name: OutputLoss(per_example=values) for name, values in outputs.items()}
    losses = {} if loss is None else {"loss": loss}
    return FirstBatch(run="r", step=0, wall_time=1.0, losses=losses, outputs=outputs)


def losses(**values):
    values = {name: np.float32(value) for name, value in values.items()}
    return FirstBatch(run="r", step=0, wall_time=1.0, losses=values, outputs={})


@pytest.mark.parametrize(
    ("given", "loss"),
    [({"d": 1}, 1), ({"d": 1, "loss": 2}, 2), ({"d": 1, "g": 2}, None), ({}, None)],
    ids=["only", "of-that-name", "several", "none"],
)
def test_the_loss_is_the_only_one_or_the_one_of_that_name(given, loss):
    first = losses(**given)
    assert first.loss == loss
    assert list(first.losses) == list(given)
    with pytest.raises(TypeError):
        first.losses["more"] = np.float32(1)


def test_a_loss_is_a_scalar():
    with pytest.raises(ValueError, match=r"losses: 'd' is float32\[2\]"):
        FirstBatch(run="r", step=0, wall_time=1.0, losses={"d": np.ones(2, "f4")}, outputs={})


def test_statistics_ignore_and_count_non_finite_values():
    values = np.array([[1.0, np.nan], [-np.inf, 4.0]], np.float32)
    s = LossStatistics.of(values)
    assert (s.count, s.nonfinite_count, s.mean, s.std, s.min, s.max) == (4, 2, 2.5, 1.5, 1.0, 4.0)


@pytest.mark.parametrize(
    "values", [np.empty(0), np.array([np.nan, np.inf])], ids=["empty", "none-finite"]
)
def test_statistics_without_a_finite_value_are_nan(values):
    s = LossStatistics.of(values)
    assert s.count == s.nonfinite_count == values.size
    assert all(math.isnan(x) for x in (s.mean, s.std, s.min, s.max))


def test_statistics_of_half_precision_are_computed_in_double():
    values = np.full(70_000, 1.0, np.float16)  # a float16 sum would stop at 2048 or overflow
    assert LossStatistics.of(values).mean == 1.0


def test_digest_is_sha256_over_dtype_shape_and_bytes_in_order():
    first = first_batch(np.float32(1.5), a=np.array([1.0, 2.0]))
    expected = hashlib.sha256(
        b'["float32",[]]\n' + struct.pack("<f", 1.5)
        + b'["float64",[2]]\n' + struct.pack("<2d", 1.0, 2.0)
    )  # fmt: skip
    assert first.digest == expected.hexdigest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (first_batch(a=np.float32([0.0])), first_batch(a=np.float32([-0.0]))),
        (first_batch(a=np.zeros((2, 3))), first_batch(a=np.zeros((3, 2)))),
        (first_batch(a=np.zeros(2, "f4")), first_batch(a=np.zeros(2, "i4"))),
        (first_batch(a=np.zeros(1)), first_batch(np.float64(0))),
        (losses(a=1, b=2), losses(a=2, b=1)),
        (losses(a=1, b=2), losses(a=1)),
        (first_batch(a=np.ones(1), b=np.zeros(1)), first_batch(a=np.zeros(1), b=np.ones(1))),
    ],
    ids=["signed-zero", "shape", "dtype", "loss-or-output", "losses", "one-more", "order"],
)
def test_digests_differ(one, other):
    assert one.digest != other.digest


def test_the_digest_ignores_byte_order():
    values = np.arange(5, dtype=np.float32)
    assert first_batch(a=values).digest == first_batch(a=values.astype(">f4")).digest


def test_captured_values_cannot_change_afterwards():
    source = np.ones(3, np.float32)
    first = first_batch(a=source)
    source[:] = 7
    assert first.per_example.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        first.per_example[0] = 7
    with pytest.raises(TypeError):
        first.outputs["b"] = None


def test_per_example_of_a_scalar_recording_says_what_to_return():
    with pytest.raises(ValueError, match="return the per-example loss"):
        _ = first_batch(np.float32(1)).per_example


def test_per_example_of_several_outputs_names_them():
    with pytest.raises(ValueError, match="'left', 'right'"):
        _ = first_batch(left=np.ones(1), right=np.ones(1)).mean


def test_a_scalar_is_not_a_per_example_loss():
    with pytest.raises(ValueError, match="one value per example"):
        OutputLoss(per_example=np.float32(1))


def test_a_deep_copy_shares_no_metadata():
    first = dataclasses.replace(first_batch(), metadata={"user": {"seeds": [1]}})
    copied = copy.deepcopy(first)
    copied.metadata["user"]["seeds"].append(2)
    assert first.metadata == {"user": {"seeds": [1]}}


def test_pickle_keeps_every_bit():
    bits = np.array([0x7FC1, 0x8000, 0xFF81], np.uint16).view(ml_dtypes.bfloat16)
    first = first_batch(np.float32(2), a=bits)
    copied = pickle.loads(pickle.dumps(first))
    assert copied.per_example.tobytes() == bits.tobytes()
    assert (copied.digest, copied.run, dict(copied.metadata)) == (first.digest, "r", {})


def test_repr_shows_every_loss_next_to_its_output():
    first = dataclasses.replace(
        first_batch(g=np.array([1.0, 3.0]), x=np.float32([5.0])),
        losses={"d": np.float32(0.5), "g": np.float32(2.5)},
    )
    text = repr(first)
    shown = ["d=0.5, g=2.5, ", "g: float64[2] mean 2, ", "x: float32[1] mean 5, ", "digest="]
    assert [text.index(part) for part in shown] == sorted(text.index(part) for part in shown)


def test_repr_shows_no_control_characters():
    first = first_batch(**{"\x1b[31mred\n": np.ones(2), "\u202ethgir": np.ones(2)})
    assert repr(first).isprintable()
    assert "\\x1b[31mred\\n: float64[2]" in repr(first)


def test_repr_shows_loss_shape_and_statistics():
    text = repr(first_batch(np.float32(2.5), a=np.array([[1.0, np.nan]])))
    for part in ("loss=2.5", "float64[1, 2]", "mean 1", "non-finite 1"):
        assert part in text
