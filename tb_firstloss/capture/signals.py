"""Puts signals off while the capture starts, writes or ends something.

What a signal's handler raises (KeyboardInterrupt, a timeout) can strike between any two bytecodes
of the main thread, where neither ``finally`` nor a context manager written in Python is safe.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


class _Here(threading.local):
    deferral: _Deferral | None = None


_here = _Here()


def deferred() -> contextlib.AbstractContextManager[bool]:
    """Puts off every signal that has a handler in Python until the block ends.

    Entered, it is True; or False in a thread other than the main one, which no handler reaches, and
    inside another such block. A signal that comes twice goes through: it can end a hanging write.
    """
    if _here.deferral is not None or threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext(False)
    return _Deferral()


def let_through(when: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Lets signals through inside a deferred block: what runs here is the user's step."""
    deferral = _here.deferral if when else None
    return contextlib.nullcontext() if deferral is None else _LetThrough(deferral)


class _Deferral:
    def __init__(self) -> None:
        self._handlers: dict[int, _Handler] = {}
        self._pending: dict[int, FrameType | None] = {}

    def __enter__(self) -> bool:
        try:
            self.hold()
        except BaseException:
            self.release()
            raise
        return True

    def __exit__(self, *error: object) -> None:
        self.release()

    def hold(self) -> None:
        _here.deferral = self
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._remember)

    def release(self) -> None:
        try:
            self._restore()
        finally:
            self._restore()  # a handler that was back may have raised before all were
            _here.deferral, handlers, self._handlers = None, self._handlers, {}
            self._deliver(handlers)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number in self._pending:
            del self._pending[number]
            self._handlers[number](number, frame)
        else:
            self._pending[number] = frame

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._remember:
                signal.signal(number, handler)

    def _deliver(self, handlers: dict[int, _Handler]) -> None:
        while self._pending:
            number, frame = self._pending.popitem()
            try:
                handlers[number](number, frame)
            finally:
                self._deliver(handlers)


class _LetThrough:
    def __init__(self, deferral: _Deferral) -> None:
        self._deferral = deferral

    def __enter__(self) -> None:
        self._deferral.release()

    def __exit__(self, *error: object) -> None:
        self._deferral.hold()
