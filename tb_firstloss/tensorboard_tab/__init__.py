"""The "First loss" tab in TensorBoard."""
