"""Damage in event files: what it is, and how it becomes a warning or an exception."""

import contextlib
import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from tb_firstloss import errors

Kind = Literal["incomplete", "corrupt", "undecodable", "unreadable"]
OnDamage = Literal["warn", "raise", "ignore"]
Report = Callable[["Damage"], None]

_WARNINGS_PER_FILE = 10


@dataclasses.dataclass(frozen=True, order=True)
class Damage:
    """One stretch of an event file, or a whole file, that could not be read.

    Attributes:
        path: Event file.
        start: First damaged byte.
        end: Byte after the last damaged one.
        kind: "incomplete" for a truncated record or recording, "corrupt" for bytes that no
            checksum confirms, "undecodable" for an intact record whose content breaks the format
            or a limit, "unreadable" for a file that cannot be opened or read.
        message: What was found, in one line.
        cause: The exception it came from, if any.
        is_cut: Whether it is the file's last record, of which the end is missing.
    """

    path: str
    start: int
    end: int
    kind: Kind
    message: str
    cause: errors.ReadError | None = dataclasses.field(default=None, repr=False, compare=False)
    is_cut: bool = False

    def error(self) -> errors.ReadError:
        """Returns the exception that stands for this damage."""
        if self.cause is not None:
            return self.cause
        classes: dict[str, type[errors.ReadError]] = {
            "undecodable": errors.UndecodableError,
            "unreadable": errors.EventFileError,
        }
        error_class = classes.get(self.kind, errors.CorruptRecordError)
        return error_class(str(self), path=self.path, start=self.start, end=self.end)

    def __str__(self) -> str:
        if self.kind == "unreadable":
            return self.message
        return f"{self.path}: bytes {self.start} to {self.end}: {self.message}"


def undecodable(path: str, start: int, end: int, reason: str, *, too_large: bool = False) -> Damage:
    """Returns the damage of an intact record whose content breaks the format, or is too large."""
    damage = Damage(path, start, end, "undecodable", f"cannot decode an intact record: {reason}")
    if not too_large:
        return damage
    cause = errors.TensorTooLargeError(str(damage), path=path, start=start, end=end)
    return dataclasses.replace(damage, cause=cause)


def unreadable(path: str, reason: str) -> Damage:
    """Returns the damage of a file or directory of which nothing can be read."""
    return Damage(path, 0, 0, "unreadable", f"{path}: {reason}")


@contextlib.contextmanager
def unreadable_reported(path: str, report: Report) -> Iterator[None]:
    """Reports a file that cannot be opened, or not read to its end, and goes on."""
    try:
        yield
    except errors.EventFileError as error:
        start = error.start or 0
        report(Damage(path, start, start, "unreadable", str(error), error))


def keep_few(found: list[Damage]) -> Report:
    """Returns a function that collects as much of each file's damage as `reporter` shows."""
    seen: Counter[str] = Counter()

    def report(damage: Damage) -> None:
        seen[damage.path] += 1
        if seen[damage.path] <= _WARNINGS_PER_FILE:
            found.append(damage)

    return report


def reporter(on_damage: OnDamage, *, once: bool = False) -> Report:
    """Returns the function to call with each damage: it warns, raises or does nothing.

    With ``once``, damage that is met again does not count.
    """
    if on_damage not in ("warn", "raise", "ignore"):
        raise ValueError(f"on_damage: {on_damage!r}; use 'warn', 'raise' or 'ignore'")
    seen: Counter[str] = Counter()
    known: set[Damage] = set()

    def report(damage: Damage) -> None:
        if damage in known:
            return
        if once:
            known.add(damage)
        if on_damage == "raise":
            raise damage.error()
        seen[damage.path] += 1
        if on_damage == "ignore" or seen[damage.path] > _WARNINGS_PER_FILE:
            return
        last = seen[damage.path] == _WARNINGS_PER_FILE
        more = "; further damage in this file is not shown: verify() lists it" if last else ""
        category = errors.CutRecordWarning if damage.is_cut else errors.DamageWarning
        warnings.warn(f"{damage}{more}", category, stacklevel=3)

    return report
