"""Whose turn it is to capture, where several threads call the same step."""

from __future__ import annotations

import threading


class Turn:
    """Whose turn it is to capture: nobody's yet, one thread's, or over.

    Attributes:
        captured: Whether the turn has ended for good.
        over: Whether later steps need no attention at all. It is read at every one of them.
    """

    def __init__(self) -> None:
        self.captured = False
        self.over = False
        self._owner: int | None = None
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Takes the turn if nobody has it; tells whether this thread has just got it."""
        with self._lock:
            if self.captured or self._owner is not None:
                return False
            self._owner = threading.get_ident()
            return True

    def is_mine(self) -> bool:
        """Tells whether this thread is the one that captures."""
        return self._owner == threading.get_ident()

    def give_back(self) -> None:
        """Leaves the turn to the next call: the step raised, so there was no first batch."""
        self._owner = None

    def finish(self, *, over: bool = True) -> None:
        """Ends the turn for good."""
        self.captured = True
        self.over = over
        self._owner = None
