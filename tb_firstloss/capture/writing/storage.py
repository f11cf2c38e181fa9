"""Local storage: made durable, said to be slow, and asked why it takes no more."""

import contextlib
import errno
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator

logger = logging.getLogger(__name__)

_PLAINLY = {
    errno.EDQUOT: "over quota: ",
    errno.EFBIG: "above the limit on file sizes (ulimit -f): ",
    errno.ENOSPC: "disk full: ",
}


def sync(path: str) -> None:
    """Makes a local file's bytes, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def said_if_slow(where: str, parts: Collection[str]) -> Iterator[None]:
    """Logs what training waits for, the last of the parts, if the block takes over a second."""
    line = "%s: still %s after 1 s; training waits for this storage"
    timer = threading.Timer(1, lambda: logger.warning(line, where, [*parts][-1]))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # the process may start no more threads
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def why_unwritable(directory: str, size: int) -> str | None:
    """Returns why a directory takes no file of this size; None if it does, or does not exist.

    TensorFlow drops the error number of a failed write, so this writes such a file. It has no name,
    or loses it at once.
    """
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            while size > 0:
                size -= file.write(bytes(min(size, 2**20)))
            os.fsync(file.fileno())
    except FileNotFoundError:
        return None
    except OSError as error:
        free = f" ({shutil.disk_usage(directory).free:,} bytes are free on its file system)"
        is_full = error.errno == errno.ENOSPC
        return f"{_PLAINLY.get(error.errno or 0, '')}{error.strerror}{free if is_full else ''}"
    return None
