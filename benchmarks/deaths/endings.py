"""The ways in which a training process ends."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

_ballast: list[bytearray] = []


def _raise(kind: int) -> None:
    signal.raise_signal(kind)


def _exit_in_handler() -> None:
    """What many jobs do when the scheduler wants the machine back."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    signal.raise_signal(signal.SIGTERM)


def _fail() -> None:
    raise RuntimeError("the training has failed")


def _run_out_of_memory() -> None:
    """Takes all memory that a limit leaves, and asks for more, so that what follows has none.

    The kernel's own out-of-memory killer sends SIGKILL, which is listed separately here; to provoke
    it takes a machine, or a cgroup, that nobody else needs.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for exponent in range(26, 8, -1):
        with contextlib.suppress(MemoryError):
            while True:
                _ballast.append(bytearray(2**exponent))
    _ballast.append(bytearray(2**26))


ENDINGS = {
    "SIGKILL": lambda: _raise(signal.SIGKILL),
    "SIGTERM": lambda: _raise(signal.SIGTERM),
    "SIGINT": lambda: _raise(signal.SIGINT),
    "abort": os.abort,
    "os._exit": lambda: os._exit(7),
    "exception": _fail,
    "SIGTERM, handled by sys.exit": _exit_in_handler,
    "out of memory": _run_out_of_memory,
}
"""How to end the own process, by the name in the table."""

STATUS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": -signal.SIGTERM,
    "SIGINT": -signal.SIGINT,  # how Python ends when nobody catches KeyboardInterrupt
    "abort": -signal.SIGABRT,
    "os._exit": 7,
    "exception": 1,
    "SIGTERM, handled by sys.exit": 3,
    "none": 0,
    "SIGXFSZ": -signal.SIGXFSZ,
}
"""Exit status by which the process must have ended, minus the signal's number; where memory runs
out, any."""


def prepare(log: Path, patience_seconds: int) -> None:
    """Makes a forked process one that dies by itself: default signals, own output, no core."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(patience_seconds)


def limit_file_size(size: int) -> None:
    """Lets the kernel kill this process inside the write that goes beyond a size, in bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
