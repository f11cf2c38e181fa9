"""What TensorBoard's own dashboards show: scalars, histograms and texts.

They are what tf.summary.scalar, histogram and text would write, written by tf.summary.write alone:
the first call of one of those imports a hundred modules of TensorBoard, and that of histogram sets
up dozens of operations, all of it while training waits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tb_firstloss.first_batch import Array


def write_scalar(tag: str, value: float | Array, *, step: int, description: str) -> None:
    """Writes a float32 scalar for the Scalars dashboard."""
    number = tf.constant(value, tf.float32)
    tf.summary.write(tag, number, step=step, metadata=_metadata("scalars", description))


def write_histogram(
    tag: str, values: npt.NDArray[np.float64], *, step: int, description: str
) -> None:
    """Writes finite values [count], at least one, for the Histograms dashboard."""
    buckets = tf.constant(count_in_buckets(values, _bucket_count(values.size)))
    tf.summary.write(tag, buckets, step=step, metadata=_metadata("histograms", description))


def write_text(tag: str, markdown: str, *, step: int) -> None:
    """Writes Markdown for the Text dashboard."""
    tf.summary.write(tag, tf.constant(markdown), step=step, metadata=_metadata("text"))


def count_in_buckets(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Returns left edge, right edge and number of values of equal buckets, [count, 3] float64.

    Where all values are equal, all edges are too, and the last bucket has the values: so does
    tf.summary.histogram.
    """
    low, high = values.min(), values.max()
    share = np.linspace(0, 1, count + 1)
    # Not low + share * (high - low): the difference of two float64 may be infinite. Rounding may
    # take an edge beyond its neighbour.
    edges = np.maximum.accumulate(np.clip(low * (1 - share) + high * share, low, high))
    numbers, _ = np.histogram(values, edges)
    return np.stack([edges[:-1], edges[1:], numbers.astype(np.float64)], axis=1)


def _bucket_count(count: int) -> int:
    """Returns few enough buckets that a small batch shows a shape and not spikes."""
    return int(np.clip(np.ceil(2 * np.sqrt(count)), 1, 30))


def _metadata(plugin_name: str, description: str = "") -> tf.compat.v1.SummaryMetadata:
    # The content that these plugins expect is a proto of version 0, which is no bytes at all.
    return tf.compat.v1.SummaryMetadata(
        summary_description=description,
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin_name),
    )
