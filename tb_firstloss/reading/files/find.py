"""logdir → runs → event files, local or remote."""

import glob
import os
import posixpath
import re
import stat
from collections import Counter, deque
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
_Identity = tuple[int, int]
_Wanted = Callable[[str], bool]

_MOST_LINKED_VISITS = 1024  # of one directory, each as a run of another name


def is_event_file_name(name: str) -> bool:
    """Returns whether TensorBoard takes a file of this name for an event file."""
    return "tfevents" in name and not name.endswith(".profile-empty")


def find_event_files(
    path: str | os.PathLike[str], *, report: Report, wanted: _Wanted = is_event_file_name
) -> list[EventFile]:
    """Finds the event files below a path, by run, then in the order of writing.

    That is the order of the numbers in their names: those of one second end in .9, .10 and so on.

    Args:
        path: A logdir, a run directory, a file of any name, a glob of any of these (each may begin
            with ~), or a URL that fsspec knows. With a glob, runs are named relative to the
            directory above its first wildcard.
        report: Called with whatever is named like an event file but is not one.
        wanted: Chooses files by name.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    root = os.fspath(path).removeprefix("file://")
    found = _find_remote(root, wanted) if is_url(root) else _Search(wanted, report).find(root)
    return sorted(set(found), key=_order)


def _order(file: EventFile) -> tuple[str, str, str]:
    numbered = re.sub("[0-9]+", lambda digits: digits[0].zfill(20), file.path)
    return file.run, numbered, file.path


class _Search:
    """One search of the local file system; counts the links that have led to each directory."""

    def __init__(self, wanted: _Wanted, report: Report) -> None:
        self._wanted = wanted
        self._report = report
        self._visits: Counter[_Identity] = Counter()

    def find(self, root: str) -> _Found:
        """Yields the event files at or below a path, or at those that a glob matches."""
        try:  # a path with a NUL raises ValueError
            root = os.path.expanduser(root)
            is_directory = stat.S_ISDIR(os.stat(root).st_mode)
        except (OSError, ValueError) as error:
            matches = list(self._matches(root)) if glob.has_magic(root) else []
            if not matches:
                reason = getattr(error, "strerror", None) or str(error)
                raise FileNotFoundError(f"{root}: no such file or directory ({reason})") from None
            for match in matches:
                run = os.path.relpath(match, _glob_prefix(root)).replace(os.sep, "/")
                if os.path.isdir(match):
                    yield from self._walk(match, run)
                elif self._wanted(posixpath.basename(run)) and _is_regular(match, self._report):
                    yield EventFile(posixpath.dirname(run) or ".", match)
            return
        yield from self._walk(root, ".") if is_directory else [EventFile(".", root)]

    def _walk(self, root: str, root_run: str) -> _Found:
        for _, run, entries in self._listings(root, root_run):
            for entry in entries:
                if _is_directory(entry):
                    if entry.name.startswith("events.out.tfevents."):
                        found = "named like an event file, but a directory"
                        self._report(unreadable(entry.path, found))
                # What the listing itself says about a file costs no system call.
                elif self._wanted(entry.name) and (
                    entry.is_file(follow_symlinks=False) or _is_regular(entry.path, self._report)
                ):
                    yield EventFile(run, entry.path)

    def _listings(
        self, root: str, root_run: str
    ) -> Iterator[tuple[str, str, list[os.DirEntry[str]]]]:
        """Yields each directory with its run and entries, those of the shortest paths first.

        Follows links, but in no circle, and only while few lead to the same directory: where links
        cross, there are exponentially many paths.
        """
        pending = deque([(root, root_run, False, frozenset[_Identity]())])
        while pending:
            path, run, linked, above = pending.popleft()
            try:
                status = os.stat(path)
                identity = status.st_dev, status.st_ino
                if identity in above or (linked and self._seen_enough(path, identity)):
                    continue
                with os.scandir(path) as listing:
                    entries = list(listing)
            except OSError as error:
                self._report(unreadable(path, f"directory cannot be listed ({error.strerror})"))
                continue
            yield path, run, entries
            above |= {identity}
            for entry in filter(_is_directory, entries):
                name = entry.name if run == "." else f"{run}/{entry.name}"
                pending.append((entry.path, name, linked or entry.is_symlink(), above))

    def _seen_enough(self, path: str, identity: _Identity) -> bool:
        """Returns whether too many links have led to a directory, and says so once."""
        self._visits[identity] += 1
        excess = self._visits[identity] - _MOST_LINKED_VISITS
        if excess == 1:
            self._report(unreadable(path, f"skipped: {_MOST_LINKED_VISITS} links lead here"))
        return excess > 0

    def _matches(self, pattern: str) -> Iterator[str]:
        """Yields what `glob.glob` finds, where ``**`` follows links as `_listings` does."""
        above, *below = re.split(r"(?<![^/\\])\*\*(?:[/\\]+|$)", pattern, maxsplit=1)
        starts = glob.iglob(above) if above else ["."]
        if not any(below):  # or ends in **, which `_walk` stands for
            yield from starts
            return
        for start in starts:
            for path, run, _ in self._listings(start, "."):
                if run == "." or "/." not in f"/{run}":  # no hidden directory
                    yield from self._matches(os.path.join(glob.escape(path), *below))


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_regular(path: str, report: Report) -> bool:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
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
    return os.path.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0]) or "."
