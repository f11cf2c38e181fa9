"""A logdir's scalars, read into columns."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss.reading.columns import Scalars, group_starts, join
from tb_firstloss.reading.damage import Damage, OnDamage, keep_few, reporter, unreadable_reported
from tb_firstloss.reading.files.find import find_event_files
from tb_firstloss.reading.files.open import open_window
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES
from tb_firstloss.reading.logdir import group_runs
from tb_firstloss.reading.run_reader import RunReader
from tb_firstloss.reading.selection import Keep, Patterns, Selection, Steps

_FEW_ROWS = 1 << 16
_DTYPES: tuple[type, ...] = (np.int32, np.int64, np.float64, np.float64)  # of `Columns`


def read_scalars(
    path: str | os.PathLike[str],
    *,
    runs: Patterns = None,
    tags: Patterns = None,
    steps: Steps = None,
    keep: Keep = "all",
    on_damage: OnDamage = "warn",
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
    executor: Executor | None = None,
) -> Scalars:
    """Reads scalars into columns.

    A scalar is a simple_value, a tensor of a single real number, of any rank, that belongs to the
    scalars plugin (TensorBoard shows these), or one of rank 0 that belongs to no plugin.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        steps: A step, a range, or a set, Series or array of steps; None for all.
        keep: Which values: "all", "first", "last" or "resumed", as for `iter_tensors`.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: As for `iter_tensors`.
        executor: Where to read the runs; it must see the same files. None for threads of this
            process.

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise".
    """
    selection = Selection.of(runs, tags, steps, keep=keep, max_tensor_bytes=max_tensor_bytes)
    report = reporter(on_damage)
    grouped = list(group_runs(find_event_files(path, report=report), selection))
    parts = []
    for part, damage in _read_runs(grouped, selection, executor):
        for each in damage:
            report(each)
        parts.append(part)
    return dataclasses.replace(join(parts), source=os.fspath(path))


def _read_runs(
    runs: list[tuple[str, list[str]]], selection: Selection, executor: Executor | None
) -> Iterator[tuple[Scalars, list[Damage]]]:
    """Yields what `_read_run` returns for each run and its files, in order."""
    if executor is not None:
        yield from executor.map(_read_run, runs, [selection] * len(runs))
    elif len(runs) < 2:
        yield from (_read_run(run, selection) for run in runs)
    else:
        with ThreadPoolExecutor() as threads:
            yield from threads.map(_read_run, runs, [selection] * len(runs))


class _Table:
    """Columns that grow at their end."""

    def __init__(self) -> None:
        self._size = 0
        self._columns: list[npt.NDArray[Any]] = [np.empty(0, dtype) for dtype in _DTYPES]

    def append(self, columns: Sequence[npt.NDArray[Any]], *, share: float) -> None:
        """Adds rows; how much of the file has been read with them gives the room to reserve."""
        start, self._size = self._size, self._size + len(columns[0])
        if self._size > len(self._columns[0]):
            # The first few records must not make it reserve memory out of all proportion.
            estimate = min(int(1.05 * self._size / share), 4 * self._size + _FEW_ROWS)
            for i, filled in enumerate(self._columns):
                self._columns[i] = np.empty(max(self._size, estimate), filled.dtype)
                self._columns[i][:start] = filled[:start]
        for column, part in zip(self._columns, columns, strict=True):
            column[start : self._size] = part

    def columns(self) -> list[npt.NDArray[Any]]:
        """Returns the columns and gives back unused room; nothing may be added afterwards."""
        for column in self._columns:
            column.resize(self._size, refcheck=False)
        return self._columns


def _read_run(run: tuple[str, list[str]], selection: Selection) -> tuple[Scalars, list[Damage]]:
    """Reads one run's files; top-level and picklable, for process executors."""
    name, paths = run
    damage: list[Damage] = []
    report = keep_few(damage)
    reader, table = RunReader(name, selection, report), _Table()
    reader.prepare(paths)
    for path in paths:
        with unreadable_reported(path, report), open_window(path) as window:
            for columns, share in reader.scalars(window):
                table.append(columns, share=share)
    codes, step, wall_time, value = table.columns()
    if selection.keep in ("first", "last"):
        kept = _choose(codes, step, selection.keep)
        codes, step, wall_time, value = codes[kept], step[kept], wall_time[kept], value[kept]
    run_codes = np.zeros(len(step), np.int32)
    return Scalars([name], reader.tags, run_codes, codes, step, wall_time, value), damage


def _choose(codes: npt.NDArray[np.int32], step: npt.NDArray[np.int64], keep: Keep) -> Any:
    """Returns where the first or last row of each tag and step is, in file order."""
    order = np.lexsort((step, codes))  # stable: file order within equals
    starts = group_starts(codes[order], step[order])
    return np.sort(order[starts if keep == "first" else np.roll(starts, -1)])
