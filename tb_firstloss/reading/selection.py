"""What a reader was asked for: which runs, tags and steps, and which of several values."""

import dataclasses
import fnmatch
import numbers
import operator
from collections.abc import Container, Iterable
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np

from tb_firstloss.reading.format.rows import Names, Rows
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES

Patterns = str | Iterable[str] | None
Steps = SupportsIndex | Container[int] | None
Keep = Literal["all", "first", "last", "resumed"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What was asked for; names match exactly or as globs, and None stands for everything."""

    runs: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    steps: Container[int] | None = None
    keep: Keep = "all"
    max_tensor_bytes: int = MAX_TENSOR_BYTES
    views: bool = False  # whether a value that stands for all elements may stay one, read-only

    @classmethod
    def of(
        cls,
        runs: Patterns,
        tags: Patterns,
        steps: Steps,
        *,
        keep: Keep = "all",
        max_tensor_bytes: int = MAX_TENSOR_BYTES,
        views: bool = False,
    ) -> "Selection":
        """Returns what a public function's arguments ask for, checked."""
        if keep not in get_args(Keep):
            raise ValueError(f"keep: {keep!r}; use 'all', 'first', 'last' or 'resumed'")
        names = _patterns("runs", runs), _patterns("tags", tags)
        return cls(*names, _container(steps), keep, max_tensor_bytes, views)

    def has_run(self, run: str) -> bool:
        """Returns whether a run was asked for."""
        return _matches(run, self.runs)

    def has_step(self, step: int) -> bool:
        """Returns whether a step was asked for."""
        return self.steps is None or step in self.steps


class RowFilter:
    """A selection applied to the rows of one run; each tag is matched once."""

    def __init__(self, selection: Selection, names: Names) -> None:
        self._selection = selection
        self._names = names
        self._chosen = np.zeros(0, bool)

    def apply(self, rows: Rows) -> Rows:
        """Returns the rows that were asked for."""
        if self._selection.tags is not None:
            rows = rows.take(self._chosen_tags()[rows.tag])
        steps = self._selection.steps
        if isinstance(steps, range) and steps.step > 0:
            inside = (rows.step >= steps.start) & (rows.step < steps.stop)
            rows = rows.take(inside & ((rows.step - steps.start) % steps.step == 0))
        elif steps is not None:
            rows = rows.take(np.fromiter((step in steps for step in rows.step.tolist()), bool))
        return rows

    def _chosen_tags(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        new = self._names.tags[len(self._chosen) :]
        if new:
            more = [_matches(tag, self._selection.tags) for tag in new]
            self._chosen = np.concatenate([self._chosen, np.array(more, bool)])
        return self._chosen


def _container(steps: Any) -> Container[int] | None:
    """Returns the steps as something that contains them; arrays and Series by their values."""
    wrong = f"steps: {steps!r}; give a step, a range, or a set or an array of steps"
    if hasattr(steps, "__array__"):
        values = np.asarray(steps).ravel().tolist()
        if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values):
            raise TypeError(wrong)
        return frozenset(values)
    if hasattr(steps, "__index__"):
        step = operator.index(steps)
        return range(step, step + 1)
    if isinstance(steps, str | bytes) or not isinstance(steps, Container | None):
        raise TypeError(wrong)
    return steps


def _patterns(option: str, names: Patterns) -> tuple[str, ...] | None:
    if names is None:
        return None
    chosen = (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        if not isinstance(name, str):
            raise TypeError(f"{option}: {name!r} is not a name; give a str or several")
    return chosen


def _matches(name: str, patterns: tuple[str, ...] | None) -> bool:
    if patterns is None:
        return True
    return any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns)
