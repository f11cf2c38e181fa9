"""A progress bar on stderr, on terminals only and after a second."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tb_firstloss.cli.output import can_print, shows_escapes

if TYPE_CHECKING:
    from concurrent.futures import Executor

_T = TypeVar("_T")

DELAY_SECONDS = 1.0
_REDRAW_SECONDS = 0.2
_WIDTH = 30


class Bar:
    """A line that shows how many of a task's steps are done; without a total, only the seconds."""

    def __init__(self, doing: str, total: int = 0) -> None:
        self._doing = doing
        self._total = total
        self._done = 0
        self._start = time.monotonic()

    def advance(self) -> None:
        """Counts a step as done."""
        self._done += 1

    def keep_drawing(self, over: threading.Event) -> None:
        """Draws until the task is over, beginning after `DELAY_SECONDS`."""
        if over.wait(DELAY_SECONDS):
            return
        while True:
            print(f"\r{self._line()}\x1b[K", end="", file=sys.stderr, flush=True)
            if over.wait(_REDRAW_SECONDS):
                break
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _line(self) -> str:
        seconds = f"{time.monotonic() - self._start:.0f} s"
        if not self._total:
            line = f"{self._doing} {seconds}"
        else:
            full, empty = ("█", "░") if can_print("█░", sys.stderr) else ("#", ".")
            filled = min(self._done * _WIDTH // self._total, _WIDTH)
            percent = min(self._done * 100 // self._total, 100)
            picture = full * filled + empty * (_WIDTH - filled)
            line = f"{self._doing} {picture} {percent:3d} %  {seconds}"
        return line[: shutil.get_terminal_size().columns - 1]


def is_shown(*, quiet: bool = False) -> bool:
    """Returns whether a bar would be seen."""
    return not quiet and shows_escapes(sys.stderr)


@contextlib.contextmanager
def bar(doing: str, total: int = 0, *, quiet: bool = False) -> Iterator[Bar]:
    """Gives a bar that is drawn while the block runs, if it would be seen."""
    drawn, over = Bar(doing, total), threading.Event()
    if not is_shown(quiet=quiet):
        yield drawn
        return
    thread = threading.Thread(target=drawn.keep_drawing, args=(over,), daemon=True)
    thread.start()
    try:
        yield drawn
    finally:
        over.set()
        thread.join()


def track(items: Iterable[_T], doing: str, total: int, *, quiet: bool = False) -> Iterator[_T]:
    """Yields the items and counts them."""
    with bar(doing, total, quiet=quiet) as drawn:
        for item in items:
            yield item
            drawn.advance()


@contextlib.contextmanager
def reading_threads(doing: str, *, quiet: bool = False) -> Iterator["Executor | None"]:
    """Gives the readers an executor that shows their progress; None if nobody would see it."""
    if not is_shown(quiet=quiet):
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    class CountingThreads(ThreadPoolExecutor):
        def map(self, fn: Any, *iterables: Any, **options: Any) -> Iterator[Any]:
            columns = [list(column) for column in iterables]
            return track(super().map(fn, *columns, **options), doing, len(columns[0]))

    with CountingThreads() as threads:
        yield threads
