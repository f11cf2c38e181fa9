"""What every module says of an array, in words, numbers, buckets, bars and JSON."""

import dataclasses
import hashlib
import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest

from tb_firstloss import arrays


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(1), "float32[]"),
        (np.zeros((64, 10), np.int64), "int64[64, 10]"),
        (np.array([b"a"], object), "string[1]"),
    ],
    ids=["scalar", "matrix", "string"],
)
def test_an_array_is_described_by_dtype_and_shape(array, text):
    assert arrays.describe(np.asarray(array)) == text


def test_nan_and_infinities_have_one_spelling_that_python_and_javascript_read():
    found = arrays.finite_json({"a": [math.nan, (math.inf, -math.inf)], "b": 1.5, "c": "nan"})
    assert found == {"a": ["NaN", ["Infinity", "-Infinity"]], "b": 1.5, "c": "nan"}
    json.dumps(found, allow_nan=False)
    assert math.isnan(float("NaN"))
    assert float("Infinity") == math.inf


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [1e308, -1e308], [5e-324, 1e-323], [3.0] * 5])
def test_buckets_hold_every_value_once_between_its_edges(values):
    buckets = arrays.count_in_buckets(np.array(values), 3)
    assert buckets[0, 0] == min(values)
    assert buckets[-1, 1] == max(values)
    assert (buckets[:-1, 1] == buckets[1:, 0]).all()
    assert buckets[:, 2].sum() == len(values)


def test_bars_are_relative_to_the_fullest_bucket_and_equal_values_are_in_the_middle():
    assert arrays.bar_heights(np.array([0.0] * 8 + [1.0] * 4 + [3.0, np.nan]), 3) == [
        1.0,
        0.5,
        0.125,
    ]
    assert arrays.bar_heights(np.full(4, 3e38, np.float32), 3) == [0, 1.0, 0]
    assert arrays.bar_heights(np.array([np.nan, np.inf])) == []


@pytest.mark.parametrize(
    ("shape", "splits", "flat", "index"),
    [
        ((), (), 0, ()),
        ((2, 3, 4), (), 17, (1, 1, 1)),
        ((5,), ([0, 2, 2, 5],), 3, (2, 1)),
        ((5, 2), ([0, 2, 2, 5],), 3, (0, 1, 1)),
        ((4,), ([0, 0, 2], [0, 1, 4]), 2, (1, 1, 1)),
    ],
    ids=["scalar", "dense", "ragged", "ragged-of-vectors", "ragged-twice"],
)
def test_an_index_names_the_example_first(shape, splits, flat, index):
    assert arrays.index_of(flat, shape, [np.array(s) for s in splits]) == index


def test_ragged_indices_agree_with_tensorflow():
    import tensorflow as tf

    ragged = tf.ragged.constant([[[1.0], []], [], [[2.0, 3.0], [4.0]]])
    splits = [s.numpy() for s in ragged.nested_row_splits]
    values = ragged.flat_values.numpy()
    for flat, value in enumerate(values):
        i, j, k = arrays.index_of(flat, values.shape, splits)
        assert ragged[i][j][k] == value


def test_equal_bits_have_equal_digests_whatever_their_byte_order_and_layout():
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    twins = [values.astype(">f4"), np.asfortranarray(values)]
    assert {arrays.digest_of([twin, None]) for twin in twins} == {arrays.digest_of([values, None])}
    others = [values.T, values.astype(np.float64), values.ravel()]
    digests = {arrays.digest_of([other, None]) for other in others}
    assert len(digests | {arrays.digest_of([values, None]), arrays.digest_of([None, values])}) == 5


def test_a_frozen_array_is_a_read_only_copy():
    values = np.arange(3.0)
    copy = arrays.frozen(values)
    values[0] = 9
    assert copy[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        copy[0] = 1


def test_a_frozen_array_is_in_c_order_and_native_byte_order_whatever_it_was():
    values = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    copy = arrays.frozen(values)
    assert copy.flags.c_contiguous
    assert copy.dtype.isnative
    assert copy.tolist() == values.tolist()
    assert arrays.frozen([[1, 2]]).tolist() == [[1, 2]]


def test_statistics_are_those_of_the_finite_values_in_double():
    values = np.array([[1, 2, np.nan], [6, np.inf, -np.inf]], np.float16)
    found = arrays.LossStatistics.of(values)
    assert dataclasses.asdict(found) == {
        "count": 6,
        "mean": 3.0,
        "std": pytest.approx(math.sqrt(14 / 3), rel=1e-15),
        "min": 1.0,
        "max": 6.0,
        "nonfinite_count": 3,
    }
    assert all(type(value) in (int, float) for value in dataclasses.asdict(found).values())


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]], ids=["none", "none finite"])
def test_statistics_of_no_finite_value_are_nan(values):
    found = arrays.LossStatistics.of(np.array(values))
    assert (found.count, found.nonfinite_count) == (len(values), len(values))
    assert all(math.isnan(x) for x in (found.mean, found.std, found.min, found.max))


@pytest.mark.filterwarnings("error")
def test_values_at_the_edge_of_their_dtype_cause_no_warning():
    huge = arrays.LossStatistics.of(np.array([1.7e308, 1.7e308, -1.7e308]))
    assert (huge.min, huge.max) == (-1.7e308, 1.7e308)
    assert arrays.LossStatistics.of(np.array([1.7e308, 1.7e308])).mean == math.inf
    signalling = np.array([0x7F800001, 0x3F800000], np.uint32).view(np.float32)
    assert arrays.finite_values(signalling).tolist() == [1.0]
    assert arrays.to_float64(signalling).shape == (2,)


def test_finite_values_are_flat_in_c_order():
    values = np.asfortranarray(np.array([[1, np.nan, 2], [3, 4, np.inf]], np.float32))
    assert arrays.finite_values(values).tolist() == [1, 2, 3, 4]
    assert arrays.finite_values(values).dtype == arrays.to_float64(values).dtype == np.float64
    assert arrays.to_float64(values).shape == (2, 3)


@pytest.mark.parametrize(
    ("count", "buckets"), [(0, 1), (1, 2), (4, 4), (5, 5), (100, 20), (225, 30), (10_000, 30)]
)
def test_buckets_are_twice_the_root_of_the_number_of_values_at_most_30(count, buckets):
    assert arrays.bucket_count(count) == buckets
    if count:
        assert len(arrays.count_in_buckets(np.arange(float(count)))) == buckets
        assert len(arrays.bar_heights(np.arange(count))) == buckets


def test_buckets_have_equal_widths_and_the_last_one_its_right_edge():
    buckets = arrays.count_in_buckets(np.array([0.0, 0.5, 1.0, 2.5, 3.0, 3.0]), 3)
    assert buckets.tolist() == [[0, 1, 2], [1, 2, 1], [2, 3, 3]]
    assert buckets.dtype == np.float64
    assert arrays.count_in_buckets(np.full(4, 2.0), 3).tolist() == [[2, 2, 0], [2, 2, 0], [2, 2, 4]]


@pytest.mark.parametrize("values", [[1e16, 1e16 + 2], [0.1, 0.1 + 2**-56], [-1.7e308, 1.7e308]])
def test_edges_never_descend_however_close_or_far_the_values(values):
    buckets = arrays.count_in_buckets(np.array(values), 7)
    assert (np.diff(buckets[:, :2]) >= 0).all()
    assert (buckets[0, 0], buckets[-1, 1]) == tuple(values)
    assert np.isfinite(buckets).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_only_bar_of_equal_values_is_in_the_middle(count):
    heights = arrays.bar_heights(np.ones(3), count)
    assert heights == [float(i == count // 2) for i in range(count)]


@pytest.mark.parametrize(
    ("dtype", "little_endian"),
    [
        (">f8", struct.pack("<4d", 0, 1, 2, 3)),
        (">i2", struct.pack("<4h", 0, 1, 2, 3)),
        (">u4", struct.pack("<4I", 0, 1, 2, 3)),
        ("?", b"\0\1\1\1"),
        (ml_dtypes.bfloat16, b"\x00\x00\x80\x3f\x00\x40\x40\x40"),
        (ml_dtypes.float8_e5m2, b"\x00\x3c\x40\x42"),
    ],
)
def test_a_tensors_sha256_is_of_its_little_endian_bytes_in_c_order(dtype, little_endian):
    values = np.asfortranarray(np.array([[0, 1], [2, 3]]).astype(dtype))
    assert arrays.tensor_sha256(values) == hashlib.sha256(little_endian).hexdigest()


def test_a_digest_is_of_a_line_of_json_and_the_bytes_of_each_array():
    given = [np.array([[1, 2]], ">i2"), None, np.array(1, ml_dtypes.bfloat16)]
    expected = b'["int16",[1,2]]\n' + b"\1\0\2\0" + b"null\n" + b'["bfloat16",[]]\n' + b"\x80\x3f"
    assert arrays.digest_of(given) == hashlib.sha256(expected).hexdigest()


def test_other_json_values_stay_as_they_are():
    value = {"a": [True, None, 3, "NaN"], "b": {"c": -0.5}}
    assert arrays.finite_json(value) == value
    assert arrays.finite_json(-math.inf) == "-Infinity"
    assert arrays.finite_json(math.nan) == "NaN"
