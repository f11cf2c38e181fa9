"""Every exception and warning that tb_firstloss raises on purpose, and how messages are cut.

::

    Exception
     └── FirstLossError
          ├── CaptureError                 the first batch could not be captured
          │    ├── LossNotFoundError       the step returned nothing usable as a loss
          │    ├── NotDurableError         what was written is not what is on disk
          │    ├── ResumedRunError         a resumed run, and on_resume="error"
          │    └── UnexpectedLossError     the first loss is not as expected, and on_error="raise"
          ├── MissingDependencyError       an optional package is not installed (also ImportError)
          └── ReadError                    the state of a file, a run or a logdir
               ├── EventFileError          a file that holds no events, or cannot be opened
               ├── CorruptRecordError      a record's checksum disagrees with its bytes
               ├── UndecodableError        an intact record whose content breaks the format
               ├── TensorTooLargeError     a tensor larger than the cap
               ├── NoRecordingError        nothing recorded here
               ├── SeveralRecordingsError  more than one recording where one was asked for
               ├── IncompleteRecordingError  a recording with tensors missing or altered
               └── ContractVersionError    written by a newer tb_firstloss
    UserWarning
     └── FirstLossWarning
          ├── CaptureWarning               part or all of a capture is missing; training goes on
          ├── UnexpectedLossWarning        the first loss is not what was expected
          └── DamageWarning                an event file is damaged; the intact rest was read

A caller's mistake (a bad tag, an unknown option) is a built-in TypeError or ValueError instead.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def first_line(error: BaseException, *, named: bool = False) -> str:
    """Returns what an error says, in one line; its type's name if it says nothing.

    Args:
        error: Any exception.
        named: Whether to put the type's name in front, unless the exception is one of ours.
    """
    name = type(error).__name__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not said:
        return name
    return f"{name}: {said}" if named and not isinstance(error, FirstLossError) else said


def some_of(names: Sequence[str], limit: int = 10) -> str:
    """Returns names as one text, ``a, b, …``; at most ``limit`` of them."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


class FirstLossError(Exception):
    """Base of every deliberate exception of this package."""


class CaptureError(FirstLossError):
    """The first batch could not be captured or written."""


class LossNotFoundError(CaptureError):
    """The step returned nothing that can be taken for the loss; the message lists what it did."""


class NotDurableError(CaptureError):
    """What was read back from disk is not what was captured.

    Attributes:
        path: Run directory that was written to.
    """

    def __init__(self, message: str, *, path: str | os.PathLike[str]) -> None:
        super().__init__(message)
        self.path = os.fspath(path)


class ResumedRunError(CaptureError):
    """The run continues an earlier one and ``on_resume="error"`` was asked for."""


class UnexpectedLossError(CaptureError):
    """The first loss is recorded, is not what was expected, and ``on_error="raise"``."""


class MissingDependencyError(FirstLossError, ImportError):
    """An optional package that this call needs is not installed; the message says which."""


class ReadError(FirstLossError):
    """A file, run directory or logdir cannot give what was asked of it.

    Attributes:
        path: File or directory.
        start: First byte concerned, or None where a byte position means nothing.
        end: Byte after the last one concerned, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str],
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = os.fspath(path)
        self.start = start
        self.end = end

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's default pickling, which executors use.
        return _rebuild_read_error, (type(self), self.args[0], self.path, self.start, self.end)


def _rebuild_read_error(
    kind: type[ReadError], message: str, path: str, start: int | None, end: int | None
) -> ReadError:
    return kind(message, path=path, start=start, end=end)


class EventFileError(ReadError):
    """The path is no event file, or cannot be opened."""


class CorruptRecordError(ReadError):
    """A record's checksum disagrees with its bytes; every record before ``start`` is intact."""


class UndecodableError(ReadError):
    """A record is intact, and its content breaks the format: a dtype, shape or count disagrees."""


class TensorTooLargeError(ReadError):
    """A tensor, or the shape that it claims, is larger than the cap that was given."""


class NoRecordingError(ReadError):
    """There is no first-batch recording at this path."""


class SeveralRecordingsError(ReadError):
    """There are several recordings where exactly one was asked for; the message names them."""


class IncompleteRecordingError(ReadError):
    """A recording's manifest is missing, or a tensor it promises is missing or altered."""


class ContractVersionError(ReadError):
    """The recording was written by a newer version of tb_firstloss than this one."""


class FirstLossWarning(UserWarning):
    """Base of every warning of this package."""


class CaptureWarning(FirstLossWarning):
    """Part or all of a capture is missing; training is untouched and goes on."""


class UnexpectedLossWarning(FirstLossWarning):
    """The first loss is not what was expected."""


class DamageWarning(FirstLossWarning):
    """An event file is damaged; the intact records before and after the damage were read."""
