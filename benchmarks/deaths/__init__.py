"""Training processes that end at a chosen moment, in a chosen way, for `durability.py`."""
