"""The TensorFlow side: capture the first batch, trace its step, write both."""
