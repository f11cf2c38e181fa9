"""What every module says of an array, in words, numbers, buckets, bars and JSON."""

import json
import math

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
