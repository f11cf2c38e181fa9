"""A logdir's scalars as columns, and the columns as pandas, Arrow, CSV or Parquet."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss import errors
from tb_firstloss.reading.files.find import find_event_files
from tb_firstloss.reading.files.open import open_window
from tb_firstloss.reading.format import tensor_proto, wire
from tb_firstloss.reading.format.records import Damage, Report
from tb_firstloss.reading.format.rows import Chunk, Names, Rows, iter_chunks, undecodable
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES
from tb_firstloss.reading.logdir import (
    Keep,
    OnDamage,
    check_keep,
    group_runs,
    reporter,
    unreadable_reported,
)
from tb_firstloss.reading.selection import Patterns, RowFilter, Selection, Steps

_SMALL_TENSOR = 256
"""Bytes of a serialized tensor above which it is no scalar: rank 0 takes about 20."""

_FEW_ROWS = 1 << 16

_COLUMNS = ("run", "tag", "step", "wall_time", "value")


@dataclasses.dataclass(frozen=True, eq=False)
class Scalars:
    """Scalars of many runs and tags, as columns of equal length n, run by run in file order.

    Attributes:
        run_names: Runs, sorted; run_codes point into them.
        tag_names: Tags, in order of first occurrence; tag_codes point into them.
        run_codes: int32 [n].
        tag_codes: int32 [n].
        step: int64 [n].
        wall_time: float64 [n], seconds since the Unix epoch.
        value: float64 [n]. It holds every float, half, bfloat16, bool and up to 32-bit integer
            exactly; 64-bit integers beyond 2**53 are rounded (`iter_tensors` gives them exactly).
    """

    run_names: list[str]
    tag_names: list[str]
    run_codes: npt.NDArray[np.int32]
    tag_codes: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    wall_time: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def run(self) -> npt.NDArray[np.object_]:
        """Run name of each row, object array [n] of str."""
        return np.array([*self.run_names, None], object)[self.run_codes]

    @cached_property
    def tag(self) -> npt.NDArray[np.object_]:
        """Tag of each row, object array [n] of str."""
        return np.array([*self.tag_names, None], object)[self.tag_codes]

    def __repr__(self) -> str:
        return f"Scalars({len(self)} rows, {len(self.run_names)} runs, {len(self.tag_names)} tags)"

    def to_pandas(self) -> Any:
        """Returns a DataFrame of the five columns; run and tag are categorical.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        pandas = _import("pandas", "pandas")
        names = {
            "run": pandas.Categorical.from_codes(self.run_codes, self.run_names),
            "tag": pandas.Categorical.from_codes(self.tag_codes, self.tag_names),
        }
        return pandas.DataFrame({**names, **{c: getattr(self, c) for c in _COLUMNS[2:]}})

    def to_arrow(self) -> Any:
        """Returns a pyarrow Table of the five columns; run and tag are dictionary-encoded.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        arrow = _import("pyarrow", "arrow")
        columns = [
            arrow.DictionaryArray.from_arrays(codes, arrow.array(names, arrow.string()))
            for codes, names in (
                (self.run_codes, self.run_names),
                (self.tag_codes, self.tag_names),
            )
        ]
        columns += [arrow.array(getattr(self, name)) for name in _COLUMNS[2:]]
        return arrow.table(columns, names=list(_COLUMNS))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the five columns as CSV (UTF-8), whole or not at all.

        Numbers are written so that they are read back bit for bit; NaN is "nan", as pandas and
        Arrow read it (CSV cannot tell one NaN from another).
        """
        with _replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            writer.writerow(_COLUMNS)
            writer.writerows(zip(*(getattr(self, c).tolist() for c in _COLUMNS), strict=True))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes the five columns as Parquet, whole or not at all; every bit is kept.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        parquet = _import("pyarrow.parquet", "arrow")
        with _replacing(path) as temporary:
            parquet.write_table(self.to_arrow(), temporary)


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

    Scalars are every simple_value, and every real tensor of rank 0 that belongs to the scalars
    plugin or to none.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        steps: A step, a range, or another container of steps; None for all.
        keep: Of several values of one run, tag and step: "all", or the "first" or "last" in file
            order.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: As for `iter_tensors`.
        executor: Where to read the runs; None for threads of this process. It needs to see the
            same files.

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise".
    """
    check_keep(keep)
    selection = Selection.of(runs, tags, steps)
    report = reporter(on_damage)
    grouped = list(group_runs(find_event_files(path, report=report), selection))
    tasks = [(files, selection, keep, max_tensor_bytes) for _, files in grouped]
    found = []
    for part, damage in map_tasks(_read_run, tasks, executor):
        for each in damage:
            report(each)
        found.append(part)
    return _join([run for run, _ in grouped], found)


def map_tasks(
    function: Callable[..., Any], tasks: list[tuple[Any, ...]], executor: Executor | None
) -> Iterator[Any]:
    """Calls a function once for each task's arguments, in an executor or in threads, in order."""
    columns: Iterable[Any] = zip(*tasks, strict=True)
    if executor is not None:
        yield from executor.map(function, *columns)
    elif len(tasks) < 2:
        yield from (function(*task) for task in tasks)
    else:
        with ThreadPoolExecutor() as threads:
            yield from threads.map(function, *columns)


@dataclasses.dataclass
class _Part:
    """The scalars of one run; codes point into its own tags."""

    tags: list[str]
    codes: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    wall_time: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]


_Columns = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]
]
"""Tag code, step, wall_time and value."""


class _Table:
    """Columns that grow at their end."""

    def __init__(self) -> None:
        self._size = self._capacity = 0
        self._columns = _empty_columns(0)

    def append(self, columns: _Columns, *, read: float) -> None:
        """Adds rows.

        Args:
            columns: Of equal length.
            read: Share of the file that has been read with them, from which the room for the rest
                is estimated.
        """
        start, self._size = self._size, self._size + len(columns[0])
        if self._size > self._capacity:
            # No estimate from the first few records may claim memory out of all proportion.
            estimate = min(int(1.05 * self._size / read), 4 * self._size + _FEW_ROWS)
            self._capacity = max(self._size, estimate)
            filled = tuple(column[:start] for column in self._columns)
            self._columns = _empty_columns(self._capacity)
            _copy(filled, self._columns, 0)
        _copy(columns, self._columns, start)

    def columns(self) -> _Columns:
        """Returns the columns, and gives back the room that is left; nothing is added later."""
        for column in self._columns:
            column.resize(self._size, refcheck=False)
        return self._columns


def _empty_columns(count: int) -> _Columns:
    codes, step = np.empty(count, np.int32), np.empty(count, np.int64)
    return codes, step, np.empty(count), np.empty(count)


def _copy(parts: Iterable[Any], columns: Iterable[Any], start: int) -> None:
    for column, part in zip(columns, parts, strict=True):
        column[start : start + len(part)] = part


def _read_run(
    files: list[str], selection: Selection, keep: Keep, cap: int
) -> tuple[_Part, list[Damage]]:
    names, damage = Names(), list[Damage]()
    chosen = RowFilter(selection, names)
    table = _Table()
    for path in files:
        with unreadable_reported(path, damage.append), open_window(path) as window:
            for chunk in iter_chunks(window, names, report=damage.append):
                rows = chosen.apply(chunk.rows)
                columns = _scalars_of(chunk, rows, names, path, damage.append, cap)
                table.append(columns, read=(chunk.base + len(chunk.data)) / window.size)
    part = _Part(names.tags, *table.columns())
    return (part if keep == "all" else _keep_one(part, keep)), damage


def _scalars_of(
    chunk: Chunk, rows: Rows, names: Names, path: str, report: Report, cap: int
) -> _Columns:
    """Returns the columns of the scalars among some rows."""
    chosen = (rows.kind <= wire.DOUBLE_SCALAR) | (
        (rows.kind == wire.TENSOR) & (rows.size <= _SMALL_TENSOR)
    )
    allowed = np.array([name in ("", "scalars") for name in names.plugin_names])
    if not allowed.all():
        chosen &= allowed[rows.plugin_name] | (rows.kind == wire.SIMPLE_VALUE)
    if not chosen.all():
        rows = rows.take(chosen)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = rows.bits.astype(np.uint32).view(np.float32).astype(np.float64)
    doubles = rows.kind == wire.DOUBLE_SCALAR
    if doubles.any():
        values[doubles] = rows.bits[doubles].view(np.float64)
    others = np.flatnonzero(rows.kind == wire.TENSOR).tolist()
    if others:
        kept = np.ones(len(rows), bool)
        for i in others:
            scalar = _decode_scalar(chunk, rows, i, path, names, report, cap)
            kept[i] = scalar is not None
            values[i] = scalar or 0.0
        rows, values = rows.take(kept), values[kept]
    return rows.tag, rows.step, rows.wall_time, values


def _decode_scalar(
    chunk: Chunk, rows: Rows, i: int, path: str, names: Names, report: Report, cap: int
) -> float | None:
    """Returns a small tensor's value, or None if it is no real scalar."""
    content = chunk.content(int(rows.start[i]), int(rows.size[i]))
    try:
        value = tensor_proto.decode_tensor(content, max_tensor_bytes=cap)
    except ValueError as error:
        start = int(rows.record_start[i])
        reason = f"{names.tags[rows.tag[i]]}: {error}"
        report(undecodable(path, start, start + int(rows.record_size[i]), reason))
        return None
    if value.ndim or value.dtype.kind in "cOSU" or value.dtype.names is not None:
        return None
    return float(value)


def _keep_one(part: _Part, keep: Keep) -> _Part:
    """Returns the first or last row of each tag and step, in file order."""
    order = np.lexsort((part.step, part.codes))  # stable: file order within equals
    codes, step = part.codes[order], part.step[order]
    differs = np.ones(len(order) + 1, bool)
    differs[1:-1] = (codes[1:] != codes[:-1]) | (step[1:] != step[:-1])
    kept = np.sort(order[differs[:-1] if keep == "first" else differs[1:]])
    return _Part(
        part.tags, part.codes[kept], part.step[kept], part.wall_time[kept], part.value[kept]
    )


def _join(runs: list[str], parts: list[_Part]) -> Scalars:
    numbers: dict[str, int] = {}
    codes = []
    for part in parts:
        table = [numbers.setdefault(tag, len(numbers)) for tag in part.tags]
        same = table == list(range(len(table)))
        codes.append(part.codes if same else np.array([*table, 0], np.int32)[part.codes])
    columns = {
        name: _concatenate([getattr(part, name) for part in parts], dtype)
        for name, dtype in (("step", np.int64), ("wall_time", np.float64), ("value", np.float64))
    }
    run_codes = np.zeros(len(columns["step"]), np.int32)
    if len(parts) > 1:
        run_codes = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.step) for p in parts])
    return Scalars(
        run_names=runs,
        tag_names=list(numbers),
        run_codes=run_codes,
        tag_codes=_concatenate(codes, np.int32),
        **columns,
    )


def _concatenate(arrays: list[Any], dtype: Any) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, dtype), *arrays])


def _import(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise errors.MissingDependencyError(
            f"{package} is not installed; pip install 'tb-firstloss[{extra}]'"
        ) from None


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new file to write, which takes the path's place once it is complete."""
    target = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # as open() would have made it
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
