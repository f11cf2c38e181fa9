"""Event files back into exact tensors, without TensorFlow."""

from tb_firstloss.reading.format.extension import compiled

__all__ = ["compiled"]
