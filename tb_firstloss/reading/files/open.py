"""Random access to the bytes of one event file through a bounded buffer."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from tb_firstloss import errors
from tb_firstloss.paths import is_url
from tb_firstloss.reading.files import remote

_FIRST_CHUNK = 1 << 16
_LARGEST_CHUNK = 1 << 20

_EFFORT_PER_FILE = 1 << 26
_EFFORT_PER_BYTE = 16
"""Bytes that a search for records may check in addition to the walk itself."""


class Window:
    """A file's bytes, read forward in chunks that grow from 64 KiB to 1 MiB.

    Files are read, not mapped: if another process truncates a mapped file, SIGBUS kills this one.

    Attributes:
        path: For messages.
        size: Bytes in the file when it was opened; fewer once a read came back short.
    """

    def __init__(self, path: str, read: Callable[[int, int], bytes], size: int) -> None:
        """Wraps ``read(offset, count)``, which returns fewer bytes only at the end of the file."""
        self.path = path
        self.size = size
        self._effort = _EFFORT_PER_FILE + _EFFORT_PER_BYTE * size
        self._read = read
        self._chunk = _FIRST_CHUNK
        self._start = 0
        self._data = memoryview(b"")

    def view(self, start: int, end: int) -> memoryview:
        """Returns the bytes from start to end, fewer where the file ends first."""
        end = min(end, self.size)
        if start >= end:
            return memoryview(b"")
        if start < self._start or end > self._start + len(self._data):
            self._fill(start, end)
        return self._data[start - self._start : end - self._start]

    def block(self, start: int, *, refill: bool = False) -> memoryview:
        """Returns what is buffered from a position on; with refill, at least a whole chunk."""
        if refill or not self._start <= start < self._start + len(self._data):
            self._fill(start, start)
        return self._data[start - self._start :]

    def spend(self, cost: int) -> bool:
        """Returns whether a search may check this many more bytes, and counts them as checked.

        A search is linear in any file damaged by accident. This bounds it in a file made to be
        searched in vain.
        """
        if cost > self._effort:
            return False
        self._effort -= cost
        return True

    def _fill(self, start: int, end: int) -> None:
        count = min(max(end - start, self._chunk), self.size - start)
        self._data = memoryview(self._read(start, count))
        self._start = start
        self._chunk = min(self._chunk * 4, _LARGEST_CHUNK)
        if len(self._data) < count:
            self.size = start + len(self._data)


def open_window(path: str) -> LocalFile | RemoteFile:
    """Returns a context manager that opens an event file, local or remote, as a `Window`.

    Raises:
        EventFileError: It is not a regular file, or cannot be opened.
    """
    return RemoteFile(path) if is_url(path) else LocalFile(path)


class LocalFile:
    """A regular local file; opening a FIFO never waits for its writer."""

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise errors.EventFileError(f"{path}: cannot be opened ({reason})", path=path) from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise errors.EventFileError(f"{path}: not a regular file", path=path)
        self.path = path
        self.size = status.st_size

    def __enter__(self) -> Window:
        return Window(self.path, self._read, self.size)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _read(self, offset: int, count: int) -> bytes:
        try:
            data = os.pread(self._descriptor, count, offset)
            while len(data) < count:
                more = os.pread(self._descriptor, count - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise errors.EventFileError(
                f"{self.path}: reading at byte {offset} failed ({error.strerror})",
                path=self.path,
                start=offset,
            ) from None
        return data


class RemoteFile:
    """An object behind fsspec, read by ranges: the head of a file costs only its head."""

    def __init__(self, url: str) -> None:
        self.path = url
        self._filesystem, self._name = remote.filesystem(url)
        with remote.failures(url):
            self.size = int(self._filesystem.info(self._name)["size"])

    def __enter__(self) -> Window:
        return Window(self.path, self._read, self.size)

    def __exit__(self, *_: object) -> None:
        """Holds nothing open."""

    def _read(self, offset: int, count: int) -> bytes:
        with remote.failures(self.path, start=offset):
            data: bytes = self._filesystem.cat_file(self._name, start=offset, end=offset + count)
        return data
