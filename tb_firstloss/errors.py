"""Every deliberate exception and warning of tb_firstloss, and how messages are shortened.

A caller's mistake (a bad tag, an unknown option) is a built-in TypeError or ValueError instead.
"""

import functools
import os
from collections.abc import Sequence


def first_line(error: BaseException, *, named: bool = False) -> str:
    """Returns the first line of an error's message; its type's name if it has none.

    ``named`` prepends the type's name, unless the type is one of this package's.
    """
    name = type(error).__name__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not said:
        return name
    return f"{name}: {said}" if named and not isinstance(error, FirstLossError) else said


def some_of(names: Sequence[str], limit: int = 10) -> str:
    """Returns at most ``limit`` names as one text, ``a, b, …``."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


class FirstLossError(Exception):
    """Base of every deliberate exception of this package."""


class CaptureError(FirstLossError):
    """The first batch could not be captured or written."""


class LossNotFoundError(CaptureError):
    """The step returned nothing usable as a loss; the message lists what it did return."""


class NotDurableError(CaptureError):
    """What was read back from disk is not what was captured.

    Attributes:
        path: Run directory.
    """

    def __init__(self, message: str, *, path: str | os.PathLike[str]) -> None:
        super().__init__(message)
        self.path = os.fspath(path)

    def __reduce__(self) -> tuple[object, ...]:
        return functools.partial(type(self), path=self.path), self.args


class ResumedRunError(CaptureError):
    """The run continues an earlier one, and ``on_resume="error"``."""


class UnexpectedLossError(CaptureError):
    """The first loss is recorded but not as expected, and ``on_error="raise"``."""


class MissingDependencyError(FirstLossError, ImportError):
    """This call needs an optional package that is not installed; the message names it."""


class ReadError(FirstLossError):
    """A file, run directory or logdir does not hold what was asked for.

    Attributes:
        path: File or directory.
        start: First byte affected, or None if no byte position applies.
        end: Byte after the last one affected, or None.
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
        # Executors pickle exceptions, and Exception's default way loses keyword-only arguments.
        again = functools.partial(type(self), path=self.path, start=self.start, end=self.end)
        return again, self.args


class EventFileError(ReadError):
    """The file holds no events, or cannot be opened."""


class CorruptRecordError(ReadError):
    """A record's checksum disagrees with its bytes; every record before ``start`` is intact."""


class UndecodableError(ReadError):
    """A record is intact, but its content breaks the format: a dtype, shape or count disagrees."""


class TensorTooLargeError(ReadError):
    """A tensor, or the shape that it claims, exceeds the cap."""


class NoRecordingError(ReadError):
    """There is no first-batch recording at this path."""


class SeveralRecordingsError(ReadError):
    """There are several recordings where one was asked for; the message names them."""


class IncompleteRecordingError(ReadError):
    """A recording's manifest is missing, or one of its tensors is missing or altered."""


class ContractVersionError(ReadError):
    """A newer version of tb_firstloss wrote the recording."""


class FirstLossWarning(UserWarning):
    """Base of every warning of this package."""


class CaptureWarning(FirstLossWarning):
    """Part or all of a capture is missing; training goes on unchanged."""


class UnexpectedLossWarning(FirstLossWarning):
    """The first loss is not as expected."""


class DamageWarning(FirstLossWarning):
    """An event file is damaged; the intact records around the damage were read."""


class CutRecordWarning(DamageWarning):
    """A file ends inside its last record, as a killed run leaves it; all before it was read."""
