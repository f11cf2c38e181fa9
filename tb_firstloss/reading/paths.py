"""logdir → runs → event files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tb_firstloss.reading.records import Damage, Report


class EventFile(NamedTuple):
    """An event file and the run it belongs to, named as TensorBoard names it."""

    run: str
    path: str


def is_event_file_name(name: str) -> bool:
    """Tells whether TensorBoard would take a file of this name for an event file."""
    return "tfevents" in name and not name.endswith(".profile-empty")


def find_event_files(
    path: str | os.PathLike[str],
    *,
    report: Report,
    wanted: Callable[[str], bool] = is_event_file_name,
) -> list[EventFile]:
    """Finds the event files below a path, by run and then by name, which is the order of writing.

    Args:
        path: A logdir, a run directory, or a file, which is taken whatever its name.
        report: Called with whatever is named like an event file and is none.
        wanted: Chooses files by name.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    root = os.fspath(path)
    try:
        status = os.stat(root)  # noqa: PTH116  # a path with a NUL raises ValueError here
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileNotFoundError(f"{root}: no such file or directory ({reason})") from None
    if not stat.S_ISDIR(status.st_mode):
        return [EventFile(".", root)]
    files = []
    for run, entry in sorted(_walk(root, ".", wanted, set())):
        if _is_regular(entry, report):
            files.append(EventFile(run, entry))
    return files


def _walk(
    directory: str, run: str, wanted: Callable[[str], bool], seen: set[tuple[int, int]]
) -> Iterator[tuple[str, str]]:
    status = os.stat(directory)  # noqa: PTH116
    if (status.st_dev, status.st_ino) in seen:  # a link back up
        return
    seen.add((status.st_dev, status.st_ino))
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                below.append(entry)
            elif wanted(entry.name):
                yield run, entry.path
    for entry in below:
        name = entry.name if run == "." else f"{run}/{entry.name}"
        yield from _walk(entry.path, name, wanted, seen)


def _is_regular(path: str, report: Report) -> bool:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return True
        message = f"{path}: named like an event file, but no regular file"
    except OSError as error:
        message = f"{path}: named like an event file, but unreadable ({error.strerror})"
    report(Damage(path, 0, 0, "unreadable", message))
    return False
