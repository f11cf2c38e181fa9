"""A logdir's events and tensors, in the order in which they were written."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2

from tb_firstloss import errors
from tb_firstloss.reading.files.find import EventFile, find_event_files
from tb_firstloss.reading.files.open import open_window
from tb_firstloss.reading.format import records, tensor_proto, wire
from tb_firstloss.reading.format.records import Damage, Report
from tb_firstloss.reading.format.rows import Chunk, Names, Rows, iter_chunks, undecodable
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES, TensorDatum
from tb_firstloss.reading.selection import Patterns, RowFilter, Selection, Steps

OnDamage = Literal["warn", "raise", "ignore"]
Keep = Literal["all", "first", "last"]

_WARNINGS_PER_FILE = 10


def iter_events(
    path: str | os.PathLike[str],
    *,
    runs: Patterns = None,
    steps: Steps = None,
    on_damage: OnDamage = "warn",
) -> Iterator[tuple[str, Any]]:
    """Yields every event as (run, Event proto of tensorboard.compat), in file order.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.
        steps: A step, a range, or another container of steps; None for all.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise".
    """
    selection = Selection.of(runs, None, steps)
    report = reporter(on_damage)
    return _iter_events(find_event_files(path, report=report), selection, report)


def iter_tensors(
    path: str | os.PathLike[str],
    *,
    runs: Patterns = None,
    tags: Patterns = None,
    steps: Steps = None,
    keep: Keep = "all",
    on_damage: OnDamage = "warn",
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
) -> Iterator[TensorDatum]:
    """Yields every summary value that holds data, run by run; the rest is not decoded.

    Within a run the order is that of the event files' names and of the records in them.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        steps: A step, a range, or another container of steps; None for all.
        keep: Of several values of one run, tag and step: "all", or the "first" or "last" in file
            order ("last" holds one run's values in memory).
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: A larger tensor is reported as damage instead of being decoded.

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise"; TensorTooLargeError for a tensor
            above the cap.
    """
    check_keep(keep)
    selection = Selection.of(runs, tags, steps)
    report = reporter(on_damage)
    files = find_event_files(path, report=report)
    return _iter_tensors(files, selection, keep, report, max_tensor_bytes)


def verify(path: str | os.PathLike[str]) -> list[Damage]:
    """Reads and decodes everything below a path and returns what is broken, by file and byte range.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    found: list[Damage] = []
    files = find_event_files(path, report=found.append)
    for _ in _iter_tensors(files, Selection(), "all", found.append, MAX_TENSOR_BYTES):
        pass
    return sorted(found)


def iter_file(
    path: str,
    *,
    run: str,
    names: Names,
    selection: Selection,
    report: Report,
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
) -> Iterator[TensorDatum]:
    """Yields the values of one event file.

    Raises:
        EventFileError: The file cannot be opened or read.
    """
    chosen = RowFilter(selection, names)
    with open_window(path) as window:
        for chunk in iter_chunks(window, names, report=report):
            rows = chosen.apply(chunk.rows)
            yield from decode_rows(
                chunk, rows, names, path=path, run=run, report=report, cap=max_tensor_bytes
            )


def decode_rows(
    chunk: Chunk, rows: Rows, names: Names, *, path: str, run: str, report: Report, cap: int
) -> Iterator[TensorDatum]:
    """Yields the values of some of a chunk's rows; one that cannot be decoded is reported."""
    floats = rows.bits.astype(np.uint32).view(np.float32)
    doubles = rows.bits.view(np.float64)
    each = zip(*(column.tolist() for column in rows.columns), strict=True)
    for i, row in enumerate(each):
        record_start, start, step, wall_time, _, record_size, size, tag, plugin, kind = row
        if kind in (wire.SIMPLE_VALUE, wire.FLOAT_SCALAR):
            value = np.asarray(floats[i])
        elif kind == wire.DOUBLE_SCALAR:
            value = np.asarray(doubles[i])
        else:
            content = chunk.content(start, size)
            try:
                value = tensor_proto.decode_content(content, kind, max_tensor_bytes=cap)
            except ValueError as error:
                reason = f"{names.tags[tag]}: {error}"
                end = record_start + record_size
                report(undecodable(path, record_start, end, reason, _error_class(error)))
                continue
        plugin_name = names.plugin_names[plugin] or tensor_proto.PLUGIN_NAMES.get(kind, "")
        yield TensorDatum(run, names.tags[tag], step, wall_time, plugin_name, value)


def reporter(on_damage: OnDamage) -> Report:
    """Returns what is called with each damage: warns, raises or does nothing.

    Raises:
        ValueError: The option is none of the three.
    """
    if on_damage not in ("warn", "raise", "ignore"):
        raise ValueError(f"on_damage: {on_damage!r}; use 'warn', 'raise' or 'ignore'")
    seen: Counter[str] = Counter()

    def report(damage: Damage) -> None:
        if on_damage == "raise":
            raise damage.error()
        seen[damage.path] += 1
        if on_damage == "ignore" or seen[damage.path] > _WARNINGS_PER_FILE:
            return
        last = seen[damage.path] == _WARNINGS_PER_FILE
        more = "; further damage in this file is not shown: verify() lists it" if last else ""
        warnings.warn(f"{damage}{more}", errors.DamageWarning, stacklevel=3)

    return report


def check_keep(keep: Keep) -> None:
    """Raises ValueError unless keep is one of its three values."""
    if keep not in ("all", "first", "last"):
        raise ValueError(f"keep: {keep!r}; use 'all', 'first' or 'last'")


def group_runs(files: list[EventFile], selection: Selection) -> Iterator[tuple[str, list[str]]]:
    """Yields each run that was asked for, with its files in order."""
    for run, group in itertools.groupby(files, attrgetter("run")):
        if selection.has_run(run):
            yield run, [file.path for file in group]


@contextlib.contextmanager
def unreadable_reported(path: str, report: Report) -> Iterator[None]:
    """Reports a file that cannot be opened or not read to its end, and goes on."""
    try:
        yield
    except errors.EventFileError as error:
        start = error.start or 0
        report(Damage(path, start, start, "unreadable", str(error), error))


def _iter_tensors(
    files: list[EventFile], selection: Selection, keep: Keep, report: Report, cap: int
) -> Iterator[TensorDatum]:
    for run, run_files in group_runs(files, selection):
        data = _iter_run(run, run_files, selection, report, cap)
        if keep == "all":
            yield from data
        else:
            yield from _keep_one(data, keep)


def _iter_run(
    run: str, files: list[str], selection: Selection, report: Report, cap: int
) -> Iterator[TensorDatum]:
    names = Names()
    for path in files:
        with unreadable_reported(path, report):
            yield from iter_file(
                path,
                run=run,
                names=names,
                selection=selection,
                report=report,
                max_tensor_bytes=cap,
            )


def _keep_one(data: Iterator[TensorDatum], keep: Keep) -> Iterator[TensorDatum]:
    if keep == "first":
        seen = set()
        for datum in data:
            if (datum.tag, datum.step) not in seen:
                seen.add((datum.tag, datum.step))
                yield datum
        return
    latest: dict[tuple[str, int], TensorDatum] = {}
    for datum in data:
        latest.pop((datum.tag, datum.step), None)
        latest[datum.tag, datum.step] = datum
    yield from latest.values()


def _iter_events(
    files: list[EventFile], selection: Selection, report: Report
) -> Iterator[tuple[str, Any]]:
    for run, run_files in group_runs(files, selection):
        for path in run_files:
            with unreadable_reported(path, report):
                yield from ((run, e) for e in _iter_file_events(path, selection, report))


def _iter_file_events(path: str, selection: Selection, report: Report) -> Iterator[Any]:
    with open_window(path) as window:
        for record in records.iter_records(window, report=report):
            try:
                event = event_pb2.Event.FromString(bytes(record.payload))
            except DecodeError as error:
                report(undecodable(path, record.start, record.end, str(error)))
                continue
            if selection.has_step(event.step):
                yield event


def _error_class(error: ValueError) -> type[errors.ReadError]:
    too_large = isinstance(error, tensor_proto.TooLargeError)
    return errors.TensorTooLargeError if too_large else errors.UndecodableError
