import json

import ml_dtypes
import numpy as np
import pytest

from tb_firstloss import contract, errors
from tb_firstloss.first_batch import FirstBatch, OutputLoss

TENSOR_DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
    "uint16": np.uint16,
}


def recorded(loss=None, outputs=None, **options):
    first = FirstBatch(run="r", step=3, wall_time=0.1, loss=loss, outputs=outputs or {})
    return first, contract.encode(first, tag="t", recording_id="id", **options)


def read(recording, **changes):
    manifest = json.dumps({**json.loads(recording.manifest), **changes})
    return contract.decode(manifest, dict(recording.tensors), path="somewhere")


@pytest.mark.parametrize("dtype", TENSOR_DTYPES.values(), ids=TENSOR_DTYPES.keys())
def test_every_bit_pattern_comes_back(dtype):
    size = np.dtype(dtype).itemsize
    bits = np.arange(256**size, dtype=f"u{size}")
    _, recording = recorded(outputs={"y": OutputLoss(per_example=bits.view(dtype))})
    back = read(recording).per_example
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.view(bits.dtype), bits)


@pytest.mark.parametrize("dtype", TENSOR_DTYPES.values(), ids=TENSOR_DTYPES.keys())
def test_stored_dtypes_are_known_to_every_reader(dtype):
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.ones(3, dtype))})
    assert all(array.dtype.isbuiltin == 1 for _, array in recording.tensors)
    assert recording.tensors[0][1].tolist() == [1, 1, 1]


def test_everything_of_an_output_comes_back():
    output = OutputLoss(
        per_example=np.arange(4.0),
        row_splits=(np.array([0, 1, 4], np.int32),),
        sample_weight=np.float32([1, 2, 3, 4]),
        mask=np.array([True, False, True, True]),
        reduction="sum_over_batch_size",
        loss_weight=0.5,
    )
    _, recording = recorded(np.float16(2), {"a/b": output})
    first = read(recording)
    back = first.outputs["a/b"]
    assert (first.step, first.loss, back.reduction, back.loss_weight) == (
        3,
        2,
        output.reduction,
        0.5,
    )
    for field in ("per_example", "sample_weight", "mask"):
        assert getattr(back, field).tobytes() == getattr(output, field).tobytes()
    assert back.row_splits[0].dtype == np.int32
    assert back.statistics == output.statistics


def test_unusual_output_names_stay_distinct():
    names = ["a/b", "a%2Fb", "", "%", "ü", "a b"]
    outputs = {name: OutputLoss(per_example=np.full(1, i)) for i, name in enumerate(names)}
    _, recording = recorded(outputs=outputs)
    assert len(dict(recording.tensors)) == len(names)
    assert {n: int(o.per_example[0]) for n, o in read(recording).outputs.items()} == {
        name: i for i, name in enumerate(names)
    }


def test_non_finite_statistics_are_valid_json():
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.array([np.nan]))})
    json.loads(recording.manifest, parse_constant=pytest.fail)
    assert np.isnan(read(recording).mean)


def test_a_tensor_above_the_limit_keeps_statistics_and_digest():
    values = np.arange(100.0)
    first, recording = recorded(
        np.float32(1), {"y": OutputLoss(per_example=values)}, max_tensor_bytes=799
    )
    assert recording.left_out == ["t/tensors/outputs/y/per_example"]
    back = read(recording)
    assert (back.mean, back.digest, back.loss) == (49.5, first.digest, 1)
    with pytest.raises(ValueError, match="max_tensor_bytes"):
        _ = back.per_example


def test_a_missing_tensor_is_an_incomplete_recording():
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.ones(2))})
    recording.tensors.clear()
    with pytest.raises(errors.IncompleteRecordingError, match="per_example is missing"):
        read(recording)


@pytest.mark.parametrize(
    "other",
    [np.array([1.0, 3.0]), np.float32([1, 2]), np.array([[1.0, 2.0]])],
    ids=["value", "dtype", "shape"],
)
def test_a_tensor_that_differs_is_an_incomplete_recording(other):
    _, recording = recorded(outputs={"y": OutputLoss(per_example=np.array([1.0, 2.0]))})
    recording.tensors[0] = (recording.tensors[0][0], other)
    with pytest.raises(errors.IncompleteRecordingError, match="the manifest says"):
        read(recording)


def test_a_newer_contract_asks_for_an_upgrade():
    _, recording = recorded(np.float32(1))
    with pytest.raises(errors.ContractVersionError, match="upgrade"):
        read(recording, contract_version=contract.VERSION + 1)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"{}", b'{"contract_version": 1}', b"\xff"],
    ids=["empty", "torn", "list", "nothing", "no-outputs", "not-utf-8"],
)
def test_a_malformed_manifest_is_an_incomplete_recording(manifest):
    with pytest.raises(errors.IncompleteRecordingError, match="somewhere"):
        contract.decode(manifest, {}, path="somewhere")


@pytest.mark.parametrize("tag", ["first_batch", "a.b-c_1"])
def test_a_tag_of_letters_digits_and_marks_is_valid(tag):
    assert contract.check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", "a/b", "..", ".", "a b", "a\n", "ä", None])
def test_any_other_tag_is_refused(tag):
    with pytest.raises(ValueError, match="tag: "):
        contract.check_tag(tag)
