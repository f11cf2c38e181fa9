"""Answers from what is known: a refresh runs behind them, and no request waits for its end."""

import gzip
import threading
from concurrent.futures import Future, wait
from typing import Any

from tb_firstloss.tensorboard_tab.recordings import Recordings

PATIENCE_SECONDS = 2.0
"""How long a request waits for news, so that a small logdir is always shown as it is."""

Answer = tuple[str, bytes]
"""A version, and the JSON of `Recordings.to_json` under gzip: once, not for each client."""

_NOTHING_YET = "", gzip.compress(b'{"version": "", "recordings": []}')


class Refresher:
    """The newest answer for each experiment; requests share one refresh at a time."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._known: dict[str, Answer] = {}
        self._running: dict[str, Future[Answer]] = {}

    def answer(self, context: Any, experiment_id: str) -> Answer:
        """Returns the newest answer, after a short wait for a newer one; raises its error."""
        with self._lock:
            running = self._running.get(experiment_id)
            if running is None or running.done():
                running = self._running[experiment_id] = Future()
                # A daemon: TensorBoard's end need not wait for it.
                work = context, experiment_id, running
                threading.Thread(target=self._refresh, args=work, daemon=True).start()
        wait([running], PATIENCE_SECONDS)
        return running.result() if running.done() else self._known.get(experiment_id, _NOTHING_YET)

    def _refresh(self, context: Any, experiment_id: str, running: "Future[Answer]") -> None:
        try:
            with self._turn:
                version, text = self._recordings.to_json(context, experiment_id)
                known = self._known.get(experiment_id, _NOTHING_YET)
                if known[0] != version:
                    known = version, gzip.compress(text.encode(), 1)
                self._known[experiment_id] = known
            running.set_result(known)
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            running.set_exception(error)
