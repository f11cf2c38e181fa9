"""Bytes → records → rows → values: the format of event files."""
