"""Puts signals off while the capture starts, writes or ends something.

What a signal's handler raises (KeyboardInterrupt, a timeout) can strike between any two bytecodes
of the main thread, where neither ``finally`` nor a context manager written in Python is safe.
"""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar


def deferred() -> contextlib.AbstractContextManager[bool]:
    """Puts off every signal that has a handler in Python until the block ends.

    Entered, it is True; or False in a thread other than the main one, which no handler reaches, and
    inside another such block. A signal that comes twice goes through: it can end a hanging write.
    """
    is_outermost = _is_main_thread() and _Deferral.current is None
    return _Deferral() if is_outermost else contextlib.nullcontext(False)


def let_through(when: bool = True) -> contextlib.AbstractContextManager[None]:
    """Lets signals through inside a deferred block: what runs here is the user's step."""
    deferral = _Deferral.current if when and _is_main_thread() else None
    return contextlib.nullcontext() if deferral is None else _LetThrough(deferral)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Deferral(contextlib.AbstractContextManager[bool]):
    current: "ClassVar[_Deferral | None]" = None

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
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
        _Deferral.current = self
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._remember)

    def release(self) -> None:
        _Deferral.current = None
        try:
            self._restore()
        finally:
            self._restore()  # a handler that was back may have raised before all were
            pending, self._pending = self._pending, {}
            with contextlib.ExitStack() as calls:  # of each, even if one raises
                for number, frame in pending.items():
                    calls.callback(self._handlers[number], number, frame)

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


class _LetThrough(contextlib.AbstractContextManager[None]):
    def __init__(self, deferral: _Deferral) -> None:
        self._deferral = deferral

    def __enter__(self) -> None:
        self._deferral.release()

    def __exit__(self, *error: object) -> None:
        self._deferral.hold()
