"""Recordings' event files on disk: why TensorBoard has no manifest of a run.

TensorBoard's data provider tells nothing of a file that it cannot read, or reads in part.
"""

import time
from pathlib import Path
from typing import Any

from tb_firstloss.errors import first_line
from tb_firstloss.reading.logdir import verify
from tb_firstloss.reading.recordings import find_recordings
from tb_firstloss.text import is_url

_QUIET_SECONDS = 60
"""A recording is written in one go, so a file that has not grown for so long will not grow."""

_CUT = "cut short: "


class RecordingFiles:
    """The recordings' files below a local logdir; what is wrong with each is found out once."""

    def __init__(self, logdir: str | None) -> None:
        self._logdir = logdir if logdir and not is_url(logdir) else None
        self._known: dict[tuple[str, Any], str | None] = {}

    def find(self) -> dict[str, str]:
        """Returns the path of each run's recording."""
        if self._logdir is None or not Path(self._logdir).is_dir():
            return {}
        return dict(find_recordings(self._logdir))

    def explain(self, path: str) -> str | None:
        """Returns why a file has no recording that TensorBoard could show; None if it has one."""
        try:
            found = Path(path).stat()
            key = path, (found.st_size, found.st_mtime_ns)
            if key not in self._known:
                self._known[key] = _explain(path, found.st_size)
            problem = self._known[key]
        except Exception as error:  # noqa: BLE001 - one bad run must not hide the others
            return f"it cannot be read ({first_line(error)})"
        if problem and problem.startswith(_CUT) and time.time() - found.st_mtime < _QUIET_SECONDS:
            return f"being written, or just {problem}"
        return problem


def _explain(path: str, size: int) -> str | None:
    if not size:
        return f"{_CUT}the event file is empty"
    rank = sorted(verify(path), key=lambda each: (each.kind == "incomplete", not each.is_cut))
    if not rank:
        return None
    worst, message = rank[0], rank[0].message.removeprefix(f"{path}: ")
    if worst.kind != "incomplete":
        return f"damaged: {message} (byte {worst.start})"
    if worst.is_cut or "no manifest" in message:
        return f"{_CUT}{message}"
    return None  # a manifest that is false, of which TensorBoard knows
