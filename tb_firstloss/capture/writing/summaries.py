"""What TensorBoard's own dashboards show: scalars, histograms and texts.

They are what tf.summary.scalar, histogram and text would write, written by tf.summary.write alone:
the first call of one of those imports a hundred modules of TensorBoard, and that of histogram sets
up dozens of operations, all of it while training waits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tb_firstloss import contract
from tb_firstloss.arrays import Array, count_in_buckets

_DATA_CLASS_TENSOR = 2


def write_scalar(tag: str, value: float | Array, *, step: int, description: str) -> None:
    """Writes a float32 scalar for the Scalars dashboard."""
    # An array, not a Python float: of those TensorFlow caches the tensors, and 0.0 == -0.0.
    number = tf.constant(np.asarray(value, np.float32))
    tf.summary.write(tag, number, step=step, metadata=_metadata("scalars", description))


def write_histogram(
    tag: str, values: npt.NDArray[np.float64], *, step: int, description: str
) -> None:
    """Writes finite values [count], at least one, for the Histograms dashboard."""
    buckets = tf.constant(count_in_buckets(values))
    tf.summary.write(tag, buckets, step=step, metadata=_metadata("histograms", description))


def write_text(tag: str, markdown: str, *, step: int) -> None:
    """Writes Markdown for the Text dashboard."""
    tf.summary.write(tag, tf.constant(markdown), step=step, metadata=_metadata("text"))


def write_tensor(tag: str, tensor: tf.Tensor, *, step: int) -> None:
    """Writes an exact tensor for the First loss tab and the readers."""
    # Without a data_class, TensorBoard's data providers do not list the tag.
    metadata = _metadata(contract.PLUGIN_NAME, data_class=_DATA_CLASS_TENSOR)
    tf.summary.write(tag, tensor, step=step, metadata=metadata)


def write_layers(tag: str, layers: str, *, step: int) -> None:
    """Writes a Keras model's JSON for the Graphs dashboard, as keras.callbacks.TensorBoard does."""
    metadata = _metadata("graph_keras_model", content=b"1")
    tf.summary.write(tag, tf.constant(layers), step=step, metadata=metadata)


def write_graph_trace(tag: str, run_metadata: Any, *, step: int) -> None:
    """Writes a RunMetadata proto for the Graphs dashboard, as tf.summary.trace_export does."""
    metadata = _metadata("graph_run_metadata_graph", content=b"1")
    content = tf.constant(run_metadata.SerializeToString())
    tf.summary.write(tag, content, step=step, metadata=metadata)


def _metadata(
    plugin_name: str, description: str = "", *, content: bytes = b"", data_class: int = 0
) -> tf.compat.v1.SummaryMetadata:
    # Scalars, histograms and texts expect a proto of version 0, which serializes to no bytes.
    plugin_data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin_name, content=content)
    return tf.compat.v1.SummaryMetadata(
        summary_description=description, plugin_data=plugin_data, data_class=data_class
    )
