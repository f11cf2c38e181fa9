"""Warnings that point at the user's line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path

from tb_firstloss.errors import CaptureError, CaptureWarning, FirstLossWarning

INSIDE_FUNCTION = (
    "is inside a tf.function, where the loss of the first batch has no value yet: it records "
    "nothing and changes nothing there. Wrap the outermost call, the one that your Python loop "
    "makes; if the loop itself is in the tf.function, take one batch from the iterator, pass it to "
    "a wrapped step, and pass the iterator to the tf.function for the rest"
)

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def warn(message: str, category: type[FirstLossWarning]) -> None:
    """Warns at the nearest frame outside this package: the line that called it."""
    frame, stacklevel = sys._getframe(1), 2  # noqa: SLF001 - warnings.warn needs the depth
    while frame.f_back is not None and _is_internal(frame.f_code.co_filename):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, category, stacklevel=stacklevel)


def tell(message: str, on_error: str) -> None:
    """Warns of what is missing, or raises a CaptureError if ``on_error`` is "raise"."""
    if on_error == "raise":
        raise CaptureError(message)
    warn(message, CaptureWarning)


def _is_internal(filename: str) -> bool:
    return filename.startswith(_PACKAGE) or filename == contextlib.__file__
