"""Random access to the bytes of one event file through a bounded buffer."""

import contextlib
import functools
import os
import stat
from collections.abc import Callable, Iterator

from tb_firstloss import errors
from tb_firstloss.reading.files import remote
from tb_firstloss.text import is_url

_FIRST_CHUNK = 1 << 16
_LARGEST_CHUNK = 1 << 20

_EFFORT_PER_FILE = 1 << 26
_EFFORT_PER_BYTE = 16
"""Bytes that a search for records may check in addition to the walk itself."""


# The first is missing on Windows, the second everywhere else.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


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


def open_window(path: str) -> contextlib.AbstractContextManager[Window]:
    """Opens an event file, local or remote, for as long as the block runs.

    Raises:
        EventFileError: It is not a regular file, or cannot be opened.
    """
    return _open_remote(path) if is_url(path) else open_local(path)


@contextlib.contextmanager
def open_local(path: str) -> Iterator[Window]:
    """Opens a regular local file; opening a FIFO never waits for its writer."""
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.EventFileError(f"{path}: cannot be opened ({reason})", path=path) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise errors.EventFileError(f"{path}: not a regular file", path=path)
        yield Window(path, functools.partial(_read_local, path, descriptor), status.st_size)
    finally:
        os.close(descriptor)


def _read_local(path: str, descriptor: int, offset: int, count: int) -> bytes:
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread
        data = os.read(descriptor, count)
        while len(data) < count and (more := os.read(descriptor, count - len(data))):
            data += more
    except OSError as error:
        raise errors.EventFileError(
            f"{path}: reading at byte {offset} failed ({error.strerror})", path=path, start=offset
        ) from None
    return data


@contextlib.contextmanager
def _open_remote(url: str) -> Iterator[Window]:
    """Opens an object behind fsspec, read by ranges: the head of a file costs only its head."""
    filesystem, name = remote.filesystem(url)
    with remote.failures(url):
        size = int(filesystem.info(name)["size"])

    def read(offset: int, count: int) -> bytes:
        with remote.failures(url, start=offset):
            data: bytes = filesystem.cat_file(name, start=offset, end=offset + count)
        return data

    yield Window(url, read, size)
