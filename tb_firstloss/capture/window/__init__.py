"""The window around one step: its graph and its profile."""
