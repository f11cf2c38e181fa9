"""Where a run was restarted, and the values that this orphaned.

A job that resumes from a checkpoint writes the steps after it once more. What its earlier life
wrote of them belongs to no model that still exists.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tb_firstloss.reading.damage import reporter, unreadable_reported
from tb_firstloss.reading.files.open import open_window
from tb_firstloss.reading.format.records import HEADER_BYTES
from tb_firstloss.reading.format.rows import Chunk, Names, Rows, iter_chunks

_STEPLESS = frozenset({"hparams", "graph_keras_model"})
"""Plugins whose values are written at step 0 whenever a process starts, also when it resumes."""

_AT_START = -1


@dataclasses.dataclass(frozen=True)
class Restarts:
    """The restarts that come after values of one file.

    Attributes:
        positions: Of those in the file itself, ascending.
        steps: The lowest step of each and all later restarts; one more for those of later files,
            if there are any.
    """

    positions: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]

    def without_orphans(self, rows: Rows) -> Rows:
        """Returns the rows of the file below the step of every later restart."""
        if not len(self.steps):
            return rows
        next_one = np.searchsorted(self.positions, rows.record_start, side="right")
        last = len(self.steps) - 1
        orphaned = (next_one <= last) & (rows.step >= self.steps[np.minimum(next_one, last)])
        return rows.take(~orphaned) if orphaned.any() else rows


def find_restarts(paths: list[str]) -> dict[str, Restarts]:
    """Returns the restarts that matter to each of a run's files, which are given in order.

    Damage is not reported: whoever reads the files for their values meets it again.
    """
    names = Names()
    found = [sorted(_iter_restarts(path, names)) for path in paths]
    restarts: dict[str, Restarts] = {}
    later: list[int] = []
    for path, here in zip(reversed(paths), reversed(found), strict=True):
        positions, steps = [position for position, _ in here], [step for _, step in here]
        lowest = np.minimum.accumulate(np.array(steps + later, np.int64)[::-1])[::-1]
        restarts[path] = Restarts(np.array(positions, np.int64), lowest)
        later = lowest[:1].tolist()
    return restarts


def _iter_restarts(path: str, names: Names) -> Iterator[tuple[int, int]]:
    """Yields where in a file a life of the run begins, and at which step."""
    begun, ignore = False, reporter("ignore")
    with unreadable_reported(path, ignore), open_window(path) as window:
        for chunk in iter_chunks(window, names, report=ignore):
            if chunk.session_start is not None:
                yield chunk.base - HEADER_BYTES, chunk.session_start
            elif not begun and (step := _first_step(chunk, names)) is not None:
                yield _AT_START, step
                begun = True


def _first_step(chunk: Chunk, names: Names) -> int | None:
    rows = zip(chunk.rows.step, chunk.rows.plugin_name, strict=True)
    return next((int(s) for s, p in rows if names.plugin_names[p] not in _STEPLESS), None)
