"""logdir → runs → event files, local or remote."""

import glob
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tb_firstloss.reading.damage import Report, unreadable
from tb_firstloss.reading.files import remote
from tb_firstloss.text import is_url


class EventFile(NamedTuple):
    """An event file and the run it belongs to, as TensorBoard names it."""

    run: str
    path: str


_Found = Iterator[EventFile]
_Wanted = Callable[[str], bool]


def is_event_file_name(name: str) -> bool:
    """Returns whether TensorBoard takes a file of this name for an event file."""
    return "tfevents" in name and not name.endswith(".profile-empty")


def find_event_files(
    path: str | os.PathLike[str], *, report: Report, wanted: _Wanted = is_event_file_name
) -> list[EventFile]:
    """Finds the event files below a path, by run, then by name: the order of writing.

    Args:
        path: A logdir, a run directory, a file of any name, a glob of any of these, or a URL that
            fsspec knows. With a glob, runs are named relative to the directory above its first
            wildcard.
        report: Called with whatever is named like an event file but is not one.
        wanted: Chooses files by name.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    root = os.fspath(path).removeprefix("file://")
    if is_url(root):
        return sorted(set(_find_remote(root, wanted)))
    return sorted(set(_find_local(root, wanted, report)))


def _find_local(root: str, wanted: _Wanted, report: Report) -> _Found:
    try:
        status = os.stat(root)  # noqa: PTH116  # a path with a NUL raises ValueError here
    except (OSError, ValueError) as error:
        matches = glob.glob(root, recursive=True) if glob.has_magic(root) else []  # noqa: PTH207
        if not matches:
            reason = getattr(error, "strerror", None) or str(error)
            raise FileNotFoundError(f"{root}: no such file or directory ({reason})") from None
        prefix = _glob_prefix(root)
        for match in matches:
            run = os.path.relpath(match, prefix).replace(os.sep, "/")
            if os.path.isdir(match):  # noqa: PTH112
                yield from _walk(match, run, wanted, report)
            elif wanted(posixpath.basename(run)) and _is_regular(match, report):
                yield EventFile(posixpath.dirname(run) or ".", match)
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(root, ".", wanted, report)
    else:
        yield EventFile(".", root)


def _walk(root: str, root_run: str, wanted: _Wanted, report: Report) -> _Found:
    """Finds files below a directory, following links except in a circle."""
    pending: list[tuple[str, str, tuple[str, ...]]] = [(root, root_run, (root,))]
    while pending:
        directory, run, path = pending.pop()
        try:
            with os.scandir(directory) as listing:
                entries = list(listing)
        except OSError as error:
            report(unreadable(directory, f"directory cannot be listed ({error.strerror})"))
            continue
        for entry in entries:
            if _is_directory(entry):
                if entry.name.startswith("events.out.tfevents."):
                    report(unreadable(entry.path, "named like an event file, but a directory"))
                if not (entry.is_symlink() and _leads_back(entry.path, path)):
                    name = entry.name if run == "." else f"{run}/{entry.name}"
                    pending.append((entry.path, name, (*path, entry.path)))
            # What the listing itself says about a file costs no system call.
            elif wanted(entry.name) and (
                entry.is_file(follow_symlinks=False) or _is_regular(entry.path, report)
            ):
                yield EventFile(run, entry.path)


def _leads_back(link: str, path: tuple[str, ...]) -> bool:
    """Returns whether a link leads to one of the directories it was reached through."""
    try:
        return any(os.path.samefile(link, directory) for directory in path)  # noqa: PTH121
    except OSError:  # deleted since the listing
        return True


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_regular(path: str, report: Report) -> bool:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return True
        found = "not a regular file"
    except OSError as error:
        found = f"unreadable ({error.strerror})"
    report(unreadable(path, f"named like an event file, but {found}"))
    return False


def _find_remote(root: str, wanted: _Wanted) -> _Found:
    filesystem, name = remote.filesystem(root)
    filesystem.invalidate_cache()  # of an earlier call, before files grew
    prefix, starts = name, [name]
    with remote.failures(root):
        if not filesystem.exists(name):
            starts = filesystem.glob(name) if glob.has_magic(name) else []
            prefix = _glob_prefix(name)
    if not starts:
        raise FileNotFoundError(f"{root}: no such file or directory")
    for start in starts:
        with remote.failures(root):
            if filesystem.isfile(start):
                found = [start] if start == name or wanted(posixpath.basename(start)) else []
            else:
                found = [f for f in filesystem.find(start) if wanted(posixpath.basename(f))]
        for file in found:
            run = "." if file == name else posixpath.dirname(posixpath.relpath(file, prefix))
            yield EventFile(run or ".", filesystem.unstrip_protocol(file))


def _glob_prefix(pattern: str) -> str:
    """Returns the directory that a glob's runs are named relative to."""
    return posixpath.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0]) or "."
