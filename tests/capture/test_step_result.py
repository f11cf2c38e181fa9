"""Loss tensors of every dtype come back bit for bit, and every other reader can read them."""

import ml_dtypes
import numpy as np
import pytest
import tbparse
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tb_firstloss import FirstLoss, iter_tensors, read_first_loss

SMALL = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
}
OTHERS = {
    "float32": np.array([0x7FC00001, 0xFFA00001, 0x80000000, 0x00000001], "u4").view("f4"),
    "float64": np.array([0x7FF8000000000001, 0xFFF4000000000001, 1 << 63], "u8").view("f8"),
    "int32": np.array([-(2**31), 2**31 - 1], "i4"),
    "int64": np.array([-(2**63), 2**63 - 1], "i8"),
    "uint32": np.array([0, 2**32 - 1], "u4"),
    "uint64": np.array([0, 2**64 - 1], "u8"),
    "empty": np.zeros([0, 3], "f4"),
    "rank-5": np.arange(32.0, dtype="f4").reshape(2, 2, 2, 2, 2),
}


def every_bit_pattern(dtype):
    size = np.dtype(dtype).itemsize
    return np.arange(256**size, dtype=f"u{size}").view(dtype)


CASES = {**{name: every_bit_pattern(d) for name, d in SMALL.items()}, **OTHERS}


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """One recording per case, in a run of its name, as the per-example loss and as the total."""
    path = tmp_path_factory.mktemp("logs")
    for name, values in CASES.items():
        first = FirstLoss(path / name, graph=False, profile=False, on_error="raise")
        first.record(tf.constant(values), total=tf.constant(values[:1].reshape(values.shape[1:])
                     if values.ndim == 1 else values))  # fmt: skip
    FirstLoss(path / "ragged", on_error="raise").record(
        {"a/b": tf.ragged.constant([[1.0, 2.0], [], [3.0]]), "c d": tf.constant([1.0])}
    )
    return path


@pytest.mark.parametrize("name", CASES)
def test_every_bit_comes_back(logdir, name):
    back = read_first_loss(logdir / name).per_example
    assert (back.dtype, back.shape) == (CASES[name].dtype, CASES[name].shape)
    assert back.tobytes() == CASES[name].tobytes()


def test_a_scalar_total_comes_back_in_its_own_dtype(logdir):
    for name in SMALL:
        loss = read_first_loss(logdir / name).loss
        assert (loss.dtype, loss.shape) == (CASES[name].dtype, ())
        assert loss.tobytes() == CASES[name][:1].tobytes()


def test_a_ragged_loss_comes_back_ragged(logdir):
    output = read_first_loss(logdir / "ragged").outputs["a/b"]
    ragged = tf.RaggedTensor.from_row_splits(output.per_example, output.row_splits[0])
    assert ragged.to_list() == [[1, 2], [], [3]]


def test_a_total_of_higher_rank_is_kept_without_a_scalar_summary(logdir):
    assert read_first_loss(logdir / "rank-5").loss.shape == (2, 2, 2, 2, 2)
    tags = {d.tag for d in iter_tensors(logdir / "rank-5") if d.plugin_name == "scalars"}
    assert "first_batch/loss_mean" in tags
    assert "first_batch/loss" not in tags


@pytest.mark.parametrize("name", [*CASES, "ragged"])
def test_tensorboards_own_reader_decodes_every_tensor(logdir, name):
    reader = EventAccumulator(str(logdir / name / "first_batch"), size_guidance={"tensors": 0})
    reader.Reload()
    tags = reader.Tags()["tensors"]
    assert any(tag.startswith("first_batch/tensors/") for tag in tags)
    for tag in tags:
        for event in reader.Tensors(tag):
            tensor_util.make_ndarray(event.tensor_proto)


@pytest.mark.parametrize("name", ["float32", "int64", "rank-5"])
def test_tensorboards_own_reader_finds_the_same_numbers(logdir, name):
    reader = EventAccumulator(str(logdir / name / "first_batch"), size_guidance={"tensors": 0})
    reader.Reload()
    (event,) = reader.Tensors("first_batch/tensors/outputs/loss/per_example")
    assert tensor_util.make_ndarray(event.tensor_proto).tobytes() == CASES[name].tobytes()


def test_tbparse_reads_the_whole_logdir(logdir):
    reader = tbparse.SummaryReader(str(logdir), extra_columns={"dir_name"})
    found = reader.tensors.set_index(["dir_name", "tag"]).value
    assert found["rank-5/first_batch", "first_batch/loss_mean"] == 15.5
    assert set(found.index.get_level_values(0)) == {f"{n}/first_batch" for n in [*CASES, "ragged"]}
