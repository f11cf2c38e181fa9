"""Event files and the summaries in them, for TensorBoard's dashboards and for readers.

Scalars, histograms and texts are what tf.summary.scalar, histogram and text would write, but
tf.summary.write alone writes them: the first call of one of the others imports a hundred modules of
TensorBoard, and a histogram runs dozens of operations, all while training waits.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tb_firstloss import contract
from tb_firstloss.arrays import Array, count_in_buckets

_DATA_CLASS_TENSOR = 2


@contextlib.contextmanager
def event_file(run_dir: str, suffix: str) -> Iterator[tf.summary.SummaryWriter]:
    """Opens a new event file as the default writer, and closes it.

    ``suffix`` ends the file's name. Make it unique: host name, process id and second can be the
    same for two files, as in containers.
    """
    # The user's scopes, devices and record_if must not reach these summaries.
    with tf.init_scope(), tf.name_scope(""), tf.device("CPU:0"):
        writer = tf.summary.create_file_writer(run_dir, filename_suffix=suffix)
        with writer.as_default(), tf.summary.record_if(True):
            try:
                yield writer
            finally:
                # Closed before as_default ends: that flushes an open writer first and, if the
                # flush fails on a full disk, leaves this writer as the user's default for good.
                writer.close()


def write_scalar(tag: str, value: float | Array, *, step: int, description: str) -> None:
    """Writes a float32 scalar for the Scalars dashboard."""
    with np.errstate(all="ignore"):  # float64 has values that float32 has not
        # An array, since TensorFlow caches the tensors of Python floats, and 0.0 == -0.0.
        number = np.asarray(value, np.float32)
    metadata = _metadata("scalars", description)
    tf.summary.write(tag, tf.constant(number), step=step, metadata=metadata)


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
