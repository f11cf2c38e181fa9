"""Warnings that point at the user's line."""

import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType

from tb_firstloss.errors import CaptureError, CaptureWarning, FirstLossWarning

_OURS = frozenset({__name__.partition(".")[0], "contextlib"})
_LIBRARIES = frozenset({"tensorflow", "keras", "tf_keras"})


def warn(message: str, category: type[FirstLossWarning]) -> None:
    """Warns at the user's line."""
    warnings.warn(message, category, stacklevel=_users_frame()[0])


def tell(message: str, on_error: str) -> None:
    """Warns of what is missing, or raises a CaptureError if ``on_error`` is "raise"."""
    if on_error == "raise":
        raise CaptureError(message)
    warn(message, CaptureWarning)


def users_line() -> tuple[str, int]:
    """Returns file and number of the user's line, for ``warnings.warn_explicit``."""
    _, frame = _users_frame()
    return frame.f_code.co_filename, frame.f_lineno


def _users_frame() -> tuple[int, FrameType]:
    """Returns the nearest frame outside this package and, if any, the libraries; its stacklevel."""
    calls = traceback.walk_stack(sys._getframe(1))  # noqa: SLF001 - documented by Python
    frames = list(enumerate((frame for frame, _ in calls), start=1))
    outside = [(level, frame) for level, frame in frames if _package_of(frame) not in _OURS]
    users = (found for found in outside if not _is_of_library(found[1]))
    return next(users, (outside or frames)[0])


def _is_of_library(frame: FrameType) -> bool:
    is_generated = Path(frame.f_code.co_filename).name.startswith("__autograph_generated_file")
    return is_generated or _package_of(frame) in _LIBRARIES


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
