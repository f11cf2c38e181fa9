"""Summary values to NumPy: tensors, and the older histograms, images and audio."""

from typing import Any

import numpy as np
from tensorboard.compat.proto import summary_pb2

from tb_firstloss.arrays import Array
from tb_firstloss.reading.format import tensor_proto, wire

PLUGIN_NAMES = {
    wire.SIMPLE_VALUE: "scalars",
    wire.HISTO: "histograms",
    wire.IMAGE: "images",
    wire.AUDIO: "audio",
}
"""The plugin that shows a value without plugin data, by its content type."""


def decode_content(
    content: memoryview, content_type: int, *, max_tensor_bytes: int = tensor_proto.MAX_TENSOR_BYTES
) -> Array:
    """Returns the content of a TENSOR, HISTO, IMAGE or AUDIO as an array.

    It is a view, and raises, where `tensor_proto.decode_tensor` says so.
    """
    if content_type == wire.TENSOR:
        return tensor_proto.decode_tensor(content, max_tensor_bytes=max_tensor_bytes)
    tensor_proto.check_size(len(content), max_tensor_bytes, "value")
    if content_type == wire.HISTO:
        return _decode_histogram(tensor_proto.parse(summary_pb2.HistogramProto, content))
    if content_type == wire.IMAGE:
        image = tensor_proto.parse(summary_pb2.Summary.Image, content)
        sizes = [str(image.width).encode(), str(image.height).encode()]
        return tensor_proto.string_array([*sizes, image.encoded_image_string], (3,))
    audio = tensor_proto.parse(summary_pb2.Summary.Audio, content)
    return tensor_proto.string_array([audio.encoded_audio_string, b""], (1, 2))


def _decode_histogram(histogram: Any) -> Array:
    """Returns [buckets, 3] float64 rows (left, right, count) without the outer empty buckets.

    The outermost limits may be ±DBL_MAX; as TensorBoard does, these rows have min and max there.
    """
    counts, limits = list(histogram.bucket), list(histogram.bucket_limit)
    if len(counts) != len(limits):
        raise ValueError(f"histogram of {len(counts)} buckets with {len(limits)} limits")
    filled = [i for i, count in enumerate(counts) if count > 0]
    if not filled:
        return np.zeros((0, 3), np.float64)
    first, last = filled[0], filled[-1]
    inner = limits[first:last]
    rows = [[histogram.min, *inner], [*inner, histogram.max], counts[first : last + 1]]
    return np.ascontiguousarray(np.array(rows, np.float64).T)
