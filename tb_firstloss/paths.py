"""Which paths are URLs: one rule for what is written, read and shown."""

import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(path: str) -> bool:
    """Returns whether a path is a URL, such as ``gs://bucket/runs``, rather than a local path."""
    return _URL.match(path) is not None
