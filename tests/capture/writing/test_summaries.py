import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss.capture.writing import summaries


def summary_values(logdir, write):
    """Returns what a function writes, as protos, read by TensorFlow."""
    with tf.summary.create_file_writer(str(logdir)).as_default():
        write()
    (file,) = logdir.iterdir()
    events = tf.compat.v1.train.summary_iterator(str(file))
    return [value for event in events for value in event.summary.value]


@pytest.mark.parametrize("value", [0.1, 0.0, -0.0, np.nan, np.inf, 1e-45, np.float32(2.5)], ids=str)
def test_a_scalar_is_what_tf_summary_writes(tmp_path, value):
    written = summary_values(
        tmp_path / "written",
        lambda: summaries.write_scalar("a/b", value, step=3, description="What it is."),
    )
    expected = summary_values(
        tmp_path / "expected",
        lambda: tf.summary.scalar("a/b", np.float32(value), step=3, description="What it is."),
    )
    assert [v.SerializeToString() for v in written] == [v.SerializeToString() for v in expected]


def test_a_scalar_beyond_float32_is_infinite_without_a_warning(tmp_path, recwarn):
    (written,) = summary_values(
        tmp_path, lambda: summaries.write_scalar("a", 1e300, step=0, description="")
    )
    assert tf.make_ndarray(written.tensor) == np.inf
    assert [str(warning.message) for warning in recwarn] == []


def test_a_text_is_what_tf_summary_writes(tmp_path):
    text = "| ä | b |\n|---|---|\n"
    written = summary_values(
        tmp_path / "written", lambda: summaries.write_text("a/b", text, step=0)
    )
    expected = summary_values(tmp_path / "expected", lambda: tf.summary.text("a/b", text, step=0))
    assert [v.SerializeToString() for v in written] == [v.SerializeToString() for v in expected]


def test_a_histogram_is_what_tf_summary_writes(tmp_path):
    values = np.random.default_rng(0).gamma(2.0, size=64)  # 2 √64 = 16 buckets
    (written,) = summary_values(
        tmp_path / "written",
        lambda: summaries.write_histogram("a/b", values, step=0, description="What it is."),
    )
    (expected,) = summary_values(
        tmp_path / "expected",
        lambda: tf.summary.histogram("a/b", values, step=0, buckets=16, description="What it is."),
    )
    assert (written.tag, written.metadata) == (expected.tag, expected.metadata)
    written, expected = tf.make_ndarray(written.tensor), tf.make_ndarray(expected.tensor)
    assert written.dtype == expected.dtype
    np.testing.assert_allclose(written, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([1.0], 4),
        ([0.1] * 7, 4),
        ([-0.0, 0.0], 3),
        ([-1.7e308, 0.0, 1.7e308], 30),
        ([1.0, np.nextafter(1.0, 2)], 30),
        ([5e-324, 0.0], 30),
        (list(range(100)), 1),
    ],
    ids=["one", "equal", "zeros", "far", "next to each other", "denormal", "one bucket"],
)
def test_every_value_falls_into_one_bucket(values, count):
    buckets = summaries.count_in_buckets(np.array(values), count)
    left, right, numbers = buckets.T
    assert buckets.shape == (count, 3)
    assert (left[0], right[-1]) == (min(values), max(values))
    assert np.all(left <= right)
    assert np.array_equal(right[:-1], left[1:])
    assert numbers.sum() == len(values)
    if min(values) == max(values):
        assert numbers[-1] == len(values)
