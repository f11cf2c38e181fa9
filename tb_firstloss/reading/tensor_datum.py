"""One value that was read, and what it becomes in TensorFlow."""

import dataclasses
from typing import Any

from tb_firstloss.arrays import Array, describe
from tb_firstloss.reading.format.wire import Metadata

_NO_METADATA = Metadata()
_MOST_SHOWN = 500  # characters


@dataclasses.dataclass(eq=False, slots=True)  # not frozen: that doubles the time to make one
class TensorDatum:
    """One value of one tag at one step.

    Attributes:
        run: Directory of the event file, relative to the logdir; "." for the logdir itself.
        tag: As written.
        step: As written, int64.
        wall_time: When it was written, seconds since the Unix epoch.
        plugin_name: Plugin that shows it: "scalars", "images", …; "" if none is known.
        value: Exact dtype and shape. Strings are an object array of bytes. The older summary
            formats come as TensorBoard shows them: simple_value as a float32 scalar, histo as
            float64 [buckets, 3] (left, right, count), image as strings [3] (width, height, encoded
            image), audio as strings [1, 2] (encoded audio, label).
        metadata: display_name, description and plugin_content of the tag, as TensorBoard takes
            them: from its first value that names a plugin. All empty where none does, and where
            they take more than 1 MiB, or more than is left of 64 MiB for the tags of a run.
    """

    run: str
    tag: str
    step: int
    wall_time: float
    plugin_name: str
    value: Array
    metadata: Metadata = _NO_METADATA

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: where it is from, and how its value begins."""
        from tb_firstloss.notebook import table_to_html  # only a notebook needs it

        if self.value.dtype == object:  # of bytes, each of any length
            value: Any = [text[:_MOST_SHOWN] for text in self.value.ravel()[:3].tolist()]
        else:
            value = " ".join(str(self.value).split())
        rows = [(n, getattr(self, n)) for n in ("run", "step", "wall_time", "plugin_name")]
        rows += [("value", describe(self.value)), ("", str(value)[:_MOST_SHOWN])]
        return table_to_html(("", ""), rows, title=self.tag)

    def to_tensor(self) -> Any:
        """Returns the value as a tf.Tensor of the same dtype and shape; this imports TensorFlow."""
        import tensorflow as tf

        dtype = tf.string if self.value.dtype == object else tf.as_dtype(self.value.dtype)
        return tf.constant(self.value, dtype=dtype, shape=self.value.shape)
