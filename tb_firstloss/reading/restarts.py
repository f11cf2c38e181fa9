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
from tb_firstloss.reading.format.rows import Names, Rows, iter_chunks

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
    begun, started, ignore = _FirstSteps(), False, reporter("ignore")
    with unreadable_reported(path, ignore), open_window(path) as window:
        for chunk in iter_chunks(window, names, report=ignore):
            if chunk.session_start is not None:
                started |= begun.first is None
                yield chunk.base - HEADER_BYTES, chunk.session_start
            elif not started:
                begun.add(chunk.rows, names)
    if not started and (step := begun.lowest()) is not None:
        yield _AT_START, step


class _FirstSteps:
    """The steps at which the tags of one file begin.

    A tag of one step proves nothing: settings are written at step 0 whenever a process starts.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._of_tag: dict[int, int] = {}
        self._going_on: set[int] = set()  # tags that have several steps

    def add(self, rows: Rows, names: Names) -> None:
        """Adds the next rows of the file."""
        stepless = [i for i, name in enumerate(names.plugin_names) if name in _STEPLESS]
        if stepless:
            rows = rows.take(~np.isin(rows.plugin_name, stepless))
        if not len(rows):
            return
        if self.first is None:
            self.first = int(rows.step[0])
        tags, where, each = np.unique(rows.tag, return_index=True, return_inverse=True)
        begins = zip(tags.tolist(), rows.step[where].tolist(), strict=True)
        first = np.array([self._of_tag.setdefault(*begin) for begin in begins], np.int64)
        self._going_on.update(rows.tag[rows.step != first[each]].tolist())

    def lowest(self) -> int | None:
        """Returns the lowest first step of the tags that go on, else that of the first value."""
        return min((self._of_tag[tag] for tag in self._going_on), default=self.first)
