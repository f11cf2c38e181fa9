"""Event files back into exact tensors, without TensorFlow."""
