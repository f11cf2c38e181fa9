"""Keras's own tests, the installed ones, with FirstLossCallback in every fit and without it."""
