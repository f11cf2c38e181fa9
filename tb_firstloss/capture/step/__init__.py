"""A step of a custom loop: what it is called with, and the losses in what it returns."""
