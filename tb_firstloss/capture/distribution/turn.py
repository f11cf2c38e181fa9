"""Lets exactly one thread capture when several call the same step."""

import threading
from typing import Any


class Turn:
    """The turn to capture: free, held by one thread, or finished (``captured``).

    ``over``, which every later step reads, says whether they go straight through.
    """

    def __init__(self, finished: bool = False) -> None:
        self.captured = finished
        self.over = finished
        self._owner: int | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turn, (self.captured,)  # a copy is held by no thread

    def take(self) -> bool:
        """Takes the turn if it is free; returns whether this thread has just taken it."""
        with self._lock:
            if self.captured or self._owner is not None:
                return False
            self._owner = threading.get_ident()
            return True

    def is_mine(self) -> bool:
        """Returns whether this thread holds the turn."""
        return self._owner == threading.get_ident()

    def give_back(self) -> None:
        """Frees the turn for the next call: nothing has been trained on yet."""
        self._owner = None

    def finish(self, *, over: bool) -> None:
        """Ends the turn for good."""
        self.captured = True
        self.over = over
        self._owner = None
