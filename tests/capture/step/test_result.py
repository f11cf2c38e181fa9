"""Loss tensors of every dtype come back bit for bit, and every other reader can read them."""

import subprocess
import sys
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import tbparse
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tb_firstloss import FirstLoss, iter_tensors, read_first_loss
from tb_firstloss.capture.step import values as step_values
from tb_firstloss.capture.step.result import StepResult
from tb_firstloss.errors import LossNotFoundError

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


def total_of(values):
    """The first value, all of them where the rank is higher; None of integers."""
    if np.issubdtype(values.dtype, np.integer):
        return None
    return tf.constant(values[0] if values.ndim == 1 else values)


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """One recording per case, in a run of its name, as the per-example loss and as the total."""
    path = tmp_path_factory.mktemp("logs")
    for name, values in CASES.items():
        first = FirstLoss(path / name, graph=False, profile=False, on_error="raise")
        first.record(tf.constant(values), total=total_of(values))
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
    for name in [name for name in SMALL if "float" in name]:
        loss = read_first_loss(logdir / name).loss
        assert (loss.dtype, loss.shape) == (CASES[name].dtype, ())
        assert loss.tobytes() == CASES[name][:1].tobytes()


def test_a_ragged_loss_comes_back_ragged(logdir):
    output = read_first_loss(logdir / "ragged").outputs["a/b"]
    ragged = tf.RaggedTensor.from_row_splits(output.per_example, output.row_splits[0])
    assert ragged.to_list() == [[1, 2], [], [3]]


def test_the_loss_of_a_total_of_higher_rank_is_its_sum(logdir):
    assert read_first_loss(logdir / "rank-5").loss == np.float32(sum(range(32)))
    found = {d.tag: d.value for d in iter_tensors(logdir / "rank-5", tags="first_batch/loss*")}
    assert found["first_batch/loss"] == sum(range(32))
    assert found["first_batch/loss_mean"] == 15.5


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


class Step(NamedTuple):
    values: Any
    total: Any


@pytest.fixture
def take(tmp_path):
    """Returns a function that captures the first batch of a step with the given result."""

    def captured(returned, **selectors):
        first = FirstLoss(tmp_path, graph=False, profile=False, on_error="raise")
        first.wrap(lambda: returned, **selectors)()
        return first.first_batch

    return captured


def values(*numbers):
    return np.array(numbers, np.float32)


@pytest.mark.parametrize(
    ("returned", "selectors", "name"),
    [
        (values(1, 2), {}, "loss"),
        ({"other": values(3), "loss": values(1, 2)}, {}, "loss"),
        ({"v": values(1, 2), "loss": values(3)}, {"loss": "v"}, "v"),
        ([values(3), values(1, 2)], {"loss": 1}, "loss"),
        (Step(values(1, 2), 3.0), {"loss": "values"}, "values"),
        (values(0, 1), {"loss": lambda result: result + 1}, "loss"),
    ],
    ids=["lone", "default key", "key", "index", "attribute", "callable"],
)
def test_values_per_example_are_taken_from_where_the_selector_points(
    take, returned, selectors, name
):
    first = take(returned, **selectors)
    assert {name: o.per_example.tolist() for name, o in first.outputs.items()} == {name: [1, 2]}
    assert first.loss is None
    assert first.metadata["global_batch_size"] == 2


@pytest.mark.parametrize(
    ("returned", "selectors", "outputs"),
    [
        (np.float32(7), {}, 0),
        ({"loss": np.float32(7), "other": values(1)}, {}, 0),
        ({"values": values(1, 2), "total": 7.0}, {"loss": "values", "total": "total"}, 1),
        ({"values": values(1, 2), "total": 7.0}, {"total": "total"}, 0),
        ({"loss": values(1, 2), "total": 7.0}, {"total": "total"}, 1),
        ({"loss": 3.0, "total": 7.0}, {"total": "total"}, 0),
        ((values(1, 2), values(3), 7.0), {"loss": lambda r: list(r[:2]), "total": 2}, 2),
    ],
    ids=["lone", "default", "both", "total alone", "default values", "default scalar", "several"],
)
def test_the_total_is_the_scalar_or_what_total_selects(take, returned, selectors, outputs):
    first = take(returned, **selectors)
    assert first.loss == 7
    assert len(first.outputs) == outputs


def test_a_nested_structure_gives_one_output_per_tensor_under_unique_names(take):
    nested = {"a": [values(0), values(1)], "a/1": values(2), "b": {"c": (values(3),)}}
    outputs = take({"losses": nested}, loss="losses").outputs
    assert {name: int(o.per_example[0]) for name, o in outputs.items()} == {
        "a/0": 0,
        "a/1": 1,
        "a/1_2": 2,
        "b/c/0": 3,
    }


@pytest.mark.parametrize(
    ("returned", "selectors"),
    [
        ({"a": values(1)}, {}),
        ({"a": values(1)}, {"loss": "b"}),
        ({"a": values(1)}, {"loss": "a", "total": "b"}),
        ({"a": values(1)}, {"total": "b"}),
        ([values(1)], {}),
        ([values(1)], {"loss": 1}),
        ([values(1)], {"loss": "a"}),
        (values(1), {"loss": lambda result: result.a}),
        ({"loss": []}, {}),
        ({"loss": {"a": 1.0, "b": values(1)}}, {}),
        ({"loss": {"a": "text"}}, {}),
        (None, {}),
        ({"loss": None}, {}),
        ({"loss": "text"}, {}),
        ({"loss": np.array([True])}, {}),
        ({"loss": np.array([1j])}, {}),
        ({"loss": np.array(["text"])}, {}),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0][:40],
)
def test_a_result_without_a_usable_loss_is_an_error(take, returned, selectors):
    with pytest.raises(LossNotFoundError):
        take(returned, **selectors)


def test_tensors_that_hold_no_numbers_are_an_error(take):
    for tensor in (tf.constant(["text"]), tf.constant([True]), tf.constant([1j])):
        with pytest.raises(LossNotFoundError, match=tensor.dtype.name):
            take(tensor)


def test_a_symbolic_tensor_is_an_error_that_names_it():
    messages = []

    @tf.function
    def step(x):
        with pytest.raises(LossNotFoundError, match="symbolic") as caught:
            step_values.to_array(x)
        messages.append(str(caught.value))
        return x

    step.get_concrete_function(tf.TensorSpec([2], tf.float32, name="given"))
    assert "given" in messages[0]


def test_an_error_describes_what_the_step_returned(take):
    returned = {
        "a": tf.constant([1.0, 2.0]),
        "b": np.float64(1),
        "c": tf.Variable([[1]]),
        "d": tf.ragged.constant([[1.0], []]),
        "e": None,
        "f": 1.5,
        "g": "text",
    }
    outline = "'a': float32[2], 'b': float64[], 'c': int32[1, 1], 'd': float32[2, None], 'e': None"
    with pytest.raises(LossNotFoundError) as caught:
        take(returned)
    assert f"a mapping with {outline}, 'f': 1.5, 'g': a str;" in str(caught.value)
    with pytest.raises(LossNotFoundError, match=r"a tuple with \[0\]: None, \[1\]: a list"):
        take((None, []))
    for returned, text in ({}, "a mapping with no keys"), ([], "a list with no items"):
        with pytest.raises(LossNotFoundError, match=text):
            take(returned)


def test_an_error_describes_each_replicas_value(take):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    given = strategy.experimental_distribute_values_from_function(
        lambda context: tf.ones([context.replica_id_in_sync_group, 3])
    )
    with pytest.raises(
        LossNotFoundError, match=r"per replica \(float32\[0, 3\], float32\[1, 3\]\)"
    ):
        take({"a": given})
    first = take({"a": given}, loss="a")
    assert first.metadata["replica_counts"] == [0, 1]
    assert take(given.values[1]).metadata.get("replica_counts") is None


def test_several_outputs_of_replicas_count_the_examples_once(take):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    given = strategy.experimental_distribute_values_from_function(
        lambda context: tf.ones([2 + context.replica_id_in_sync_group])
    )
    metadata = take({"loss": {"a": given, "b": given}}).metadata
    assert (metadata["replica_counts"], metadata["replicas"]) == ([2, 3], 2)
    assert metadata["global_batch_size"] == 5


def test_python_numbers_and_variables_are_values(take):
    assert take(2.5).loss == 2.5
    assert take(tf.Variable([1.0, 2.0])).per_example.tolist() == [1, 2]


def test_ragged_values_count_rows_as_examples(take):
    first = take(tf.ragged.constant([[1.0, 2.0], [], [3.0]]))
    assert first.metadata["global_batch_size"] == 3


def scalar(number, dtype="float32"):
    return np.dtype(dtype).type(number)


class Losses(NamedTuple):
    d: Any
    g: Any


@pytest.mark.parametrize(
    ("returned", "selectors", "expected"),
    [
        ({"d": scalar(1), "g": scalar(2, "float64")}, {}, {"d": 1, "g": 2}),
        (Losses(scalar(1), scalar(2)), {}, {"d": 1, "g": 2}),
        (Losses(scalar(1), scalar(2)), {"total": ["g", "d"]}, {"g": 2, "d": 1}),
        (Step(values(1, 2), scalar(7)), {"total": ["total"]}, {"total": 7}),
        ({"loss": scalar(1), "d": scalar(2)}, {}, {"loss": 1}),
        ({"loss": {"d": scalar(1), "g": scalar(2)}}, {}, {"d": 1, "g": 2}),
        ({"x": values(1), "l": {"d/r": 1.0, 3: 2.0}}, {"total": "l"}, {"d/r": 1, "3": 2}),
        ({1: scalar(1), "1": scalar(2)}, {}, {"1": 1, "1_2": 2}),
        ((scalar(1), values(0), scalar(2)), {"total": [2, 0]}, {"loss_1": 2, "loss_2": 1}),
        ((scalar(1), values(0)), {"total": [0]}, {"loss": 1}),
        ({"a": 1.0, "b": 3}, {"total": ["a", "a"]}, {"a": 1}),
        ((scalar(1), values(0)), {"total": lambda r: [r[0], r[0]]}, {"loss_1": 1, "loss_2": 1}),
        ({"a": 1.0, "b": [2.0]}, {"total": {"x": "a", "y": lambda r: r["b"][0]}}, {"x": 1, "y": 2}),
        ({"d_loss": 1.0, "acc": 3}, {"loss": "d_loss"}, {"d_loss": 1}),
        ({"d_loss": 1.0, "acc": 3}, {"total": "d_loss"}, {"d_loss": 1}),
    ],
    ids=[
        "mapping", "named-tuple", "keys-of-named-tuple", "one-key", "loss-goes-first",
        "loss-mapping", "total-mapping", "one-name-twice", "indexes", "one-index",
        "one-key-twice", "callable-list", "by-name", "loss-key", "total-key",
    ],
)  # fmt: skip
def test_several_losses_are_taken_by_name_in_order(take, returned, selectors, expected):
    first = take(returned, **selectors)
    assert {name: float(loss) for name, loss in first.losses.items()} == expected
    assert list(first.losses) == list(expected)


def test_outputs_of_a_named_tuple_have_its_names(take):
    assert list(take({"l": Losses(values(1), values(2))}, loss="l").outputs) == ["d", "g"]


def test_keras_variables_are_values(take):
    import keras

    assert take({"d": keras.Variable(2.0), "g": 1.0}).losses == {"d": 2, "g": 1}


def test_of_a_vector_the_loss_is_the_sum_and_the_values_are_an_output(take):
    first = take({"per": tf.constant([1.5, 2.5]), "n": 2}, total="per")
    assert first.losses == {"per": 4}
    assert (first.outputs["per"].per_example.tolist(), first.outputs["per"].reduction) == (
        [1.5, 2.5],
        "sum",
    )
    ragged = take({"per": tf.ragged.constant([[1.0], [2.0, 4.0]]), "n": 2}, total="per")
    assert (ragged.losses, ragged.metadata["global_batch_size"]) == ({"per": 7}, 2)
    both = take({"p": values(1, 3), "t": values(5, 6)}, loss="p", total="t")
    assert (both.losses, list(both.outputs)) == ({"t": 11}, ["p"])


@pytest.mark.parametrize(
    ("returned", "selectors", "message"),
    [
        (3, {}, r"the loss 'loss' is int64\[\], which has no gradient"),
        ({"loss": scalar(1), "n": scalar(3, "int32")}, {"total": ["loss", "n"]}, "'n' is int32"),
        ({"n": scalar(3, "int32")}, {"total": "n"}, r"the loss 'n' is int32\[\], which has no"),
        ({"n": np.array([3], "i4")}, {"total": "n"}, r"the loss 'n' is int32\[1\], which has no"),
        ({"d": True}, {"total": "d"}, "bool"),
        ({"d": 1.0}, {"total": ["d", "e"]}, "total='e' is not in what the step returned"),
        ({"d": 1.0}, {"total": []}, r"total=\[\] selects nothing"),
        ({"d": 1.0}, {"total": {}}, r"total=\{\} selects nothing"),
        ({"d": None}, {"total": "d"}, "the loss 'd' is None, not a tensor"),
        ({"p": None, "d": 1.0}, {"loss": "p", "total": "d"}, "the loss 'p' is None"),
        ({"d": 1.0, "n": 3}, {}, "which part is the loss per example, with loss="),
    ],
    ids=[
        "lone", "in-list", "key", "vector", "bool", "no-key", "no-keys", "no-names", "none",
        "values-none", "mixed",
    ],
)  # fmt: skip
def test_what_cannot_be_differentiated_is_named(take, returned, selectors, message):
    with pytest.raises(LossNotFoundError, match=message):
        take(returned, **selectors)


def test_what_is_not_dense_is_named_with_what_to_return(take):
    sparse = tf.sparse.from_dense([1.0, 0.0]), tf.IndexedSlices(tf.ones([1]), tf.constant([0]))
    for value in sparse:
        for selectors in {}, {"total": "d"}, {"loss": "d"}:
            returned = {"d": value} if selectors else value
            with pytest.raises(LossNotFoundError, match=f"{type(value).__name__}; return a dense"):
                take(returned, **selectors)


DTENSOR = """
import sys, tensorflow as tf
from tensorflow.experimental import dtensor
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tb_firstloss import FirstLoss
mesh = dtensor.create_mesh([("batch", 2)], devices=["CPU:0", "CPU:1"])
layout = dtensor.Layout.replicated(mesh, rank=0)
first = FirstLoss(sys.argv[1], graph=False, profile=False, on_error="raise")
first.record({"d": dtensor.call_with_layout(tf.constant, layout, 3.5), "g": tf.constant(1.0)})
print({name: float(loss) for name, loss in first.first_batch.losses.items()})
shards = dtensor.call_with_layout(tf.ones, dtensor.Layout(["batch"], mesh), shape=[4])
try:
    FirstLoss(sys.argv[1], on_error="raise").record(shards)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_replicated_dtensor_is_recorded_and_a_sharded_one_named(tmp_path):
    command = [sys.executable, "-c", DTENSOR, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "{'d': 3.5, 'g': 1.0}"
    assert said[1].startswith("LossNotFoundError the loss is a DTensor in shards; return it")


@pytest.mark.parametrize("selectors", [{}, {"total": ["d", "g"]}], ids=["default", "total"])
def test_a_loss_is_copied_from_its_device_once(selectors):
    returned = {"d": tf.constant(1.0), "g": tf.constant(2.0)}
    called = []
    sys.setprofile(lambda frame, event, _: event == "call" and called.append(frame.f_code.co_name))
    try:
        StepResult(returned, **selectors).captured()
    finally:
        sys.setprofile(None)
    assert called.count("numpy") == 2
