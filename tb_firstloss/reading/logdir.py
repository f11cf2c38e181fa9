"""A logdir's events and tensors, in the order of writing."""

import itertools
import os
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2

from tb_firstloss.reading.damage import (
    Damage,
    OnDamage,
    Report,
    reporter,
    undecodable,
    unreadable_reported,
)
from tb_firstloss.reading.files.find import EventFile, find_event_files
from tb_firstloss.reading.files.open import Window, open_window
from tb_firstloss.reading.format import records
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES
from tb_firstloss.reading.recordings import find_damage
from tb_firstloss.reading.run_reader import RunReader
from tb_firstloss.reading.selection import Keep, Patterns, Selection, Steps
from tb_firstloss.reading.tensor_datum import TensorDatum


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
        steps: A step, a range, or a set, Series or array of steps; None for all.
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
    """Yields every summary value that holds data, run by run; nothing else is decoded.

    A run's event files are read in the order of their names, where .9 comes before .10.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        steps: A step, a range, or a set, Series or array of steps; None for all.
        keep: Of several values of one run, tag and step: "all", or the "first" or "last" in file
            order ("last" holds one run's values in memory). "resumed": all but those that a restart
            has orphaned. A run restarts at step s where a session starts at s (as TensorFlow 1
            writes) or a later file begins at s; the run's earlier values at s and beyond are left
            out, whatever their tag. A file that holds no session start before its first value
            begins at the lowest first step of the tags that it has at several steps, else at its
            first value's. Hyperparameters and Keras's graph, which every start writes at step 0,
            do not count.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: Larger tensors are reported as damage instead of being decoded.

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise"; TensorTooLargeError for a tensor
            above max_tensor_bytes.
    """
    selection = Selection.of(runs, tags, steps, keep=keep, max_tensor_bytes=max_tensor_bytes)
    return iter_selected(path, selection, reporter(on_damage))


def verify(path: str | os.PathLike[str]) -> list[Damage]:
    """Reads and decodes everything below a path; returns the damage, by file and byte range.

    A recording that is incomplete, altered or falsely described is damage too.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    found: list[Damage] = []
    files = find_event_files(path, report=found.append)
    for _ in _iter_files(files, Selection(views=True), found.append):
        pass
    found += [damage for damage in find_damage(files) if damage not in found]
    return sorted(found)


def group_runs(files: list[EventFile], selection: Selection) -> Iterator[tuple[str, list[str]]]:
    """Yields each run that was asked for, with its files in order."""
    for run, group in itertools.groupby(files, attrgetter("run")):
        if selection.has_run(run):
            yield run, [file.path for file in group]


def iter_selected(
    path: str | os.PathLike[str], selection: Selection, report: Report
) -> Iterator[TensorDatum]:
    """Yields the chosen values below a path, as `iter_tensors` does."""
    return _iter_files(find_event_files(path, report=report), selection, report)


def _iter_files(
    files: list[EventFile], selection: Selection, report: Report
) -> Iterator[TensorDatum]:
    for run, paths in group_runs(files, selection):
        data = _iter_run(RunReader(run, selection, report), paths)
        yield from _keep_one(data, selection.keep) if selection.keep in ("first", "last") else data


def _iter_run(reader: RunReader, paths: list[str]) -> Iterator[TensorDatum]:
    reader.prepare(paths)
    for path in paths:
        with unreadable_reported(path, reader.report), open_window(path) as window:
            yield from reader.tensors(window)


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
    for run, paths in group_runs(files, selection):
        for path in paths:
            with unreadable_reported(path, report), open_window(path) as window:
                yield from ((run, event) for event in _events_of(window, selection, report))


def _events_of(window: Window, selection: Selection, report: Report) -> Iterator[Any]:
    for record in records.iter_records(window, report=report):
        try:
            event = event_pb2.Event.FromString(bytes(record.payload))
        except DecodeError as error:
            report(undecodable(window.path, record.start, record.end, str(error)))
            continue
        if selection.has_step(event.step):
            yield event
