"""What a text is: safe for a terminal, how many columns wide, a URL."""

import re
import unicodedata

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def printable(text: str) -> str:
    """Returns text on one line, with everything escaped that could steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str) -> str:
    """Returns text that UTF-8 has, with lone surrogates (bytes of an odd file name) escaped."""
    return text.encode(errors="backslashreplace").decode()


def width_of(text: str) -> int:
    """Returns how many columns a terminal needs for a text."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def is_url(path: str) -> bool:
    """Returns whether a path is a URL, such as ``gs://bucket/runs``, rather than a local path."""
    return _URL.match(path) is not None
