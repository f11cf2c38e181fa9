"""Event files back into exact tensors, without TensorFlow."""

from tb_firstloss.reading.extension import compiled

__all__ = ["compiled"]
