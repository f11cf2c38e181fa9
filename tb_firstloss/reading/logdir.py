"""A logdir's events and tensors, in the order in which they were written."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import warnings
from collections.abc import Container, Iterable, Iterator
from typing import Any, Literal

from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2

from tb_firstloss import errors
from tb_firstloss.reading import paths, records, tensors, wire
from tb_firstloss.reading.records import Damage, Record, Report
from tb_firstloss.reading.source import LocalFile
from tb_firstloss.reading.tensors import MAX_TENSOR_BYTES, TensorDatum

OnDamage = Literal["warn", "raise", "ignore"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which runs, tags and steps were asked for; None stands for all of them."""

    runs: tuple[str, ...] | None
    tags: tuple[str, ...] | None
    steps: Container[int] | None

    @classmethod
    def of(
        cls,
        runs: str | Iterable[str] | None,
        tags: str | Iterable[str] | None,
        steps: int | Container[int] | None,
    ) -> Selection:
        """Returns the selection of the public functions' arguments."""
        return cls(_patterns(runs), _patterns(tags), (steps,) if isinstance(steps, int) else steps)

    def has_run(self, run: str) -> bool:
        """Tells whether a run was asked for."""
        return _matches(run, self.runs)

    def has_tag(self, tag: str) -> bool:
        """Tells whether a tag was asked for."""
        return _matches(tag, self.tags)

    def has_step(self, step: int) -> bool:
        """Tells whether a step was asked for."""
        return self.steps is None or step in self.steps


def iter_events(
    path: str | os.PathLike[str],
    *,
    runs: str | Iterable[str] | None = None,
    steps: int | Container[int] | None = None,
    on_damage: OnDamage = "warn",
) -> Iterator[tuple[str, Any]]:
    """Yields every event as (run, Event proto of tensorboard.compat), in file order.

    Args:
        path: A logdir, a run directory or an event file.
        runs: Exact names or globs of the runs to read; None for all.
        steps: A step, or a range or other container of steps; None for all.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise".
    """
    selection = Selection.of(runs, None, steps)
    report = _reporter(on_damage)
    return _iter_events(paths.find_event_files(path, report=report), selection, report)


def iter_tensors(
    path: str | os.PathLike[str],
    *,
    runs: str | Iterable[str] | None = None,
    tags: str | Iterable[str] | None = None,
    steps: int | Container[int] | None = None,
    on_damage: OnDamage = "warn",
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
) -> Iterator[TensorDatum]:
    """Yields every summary value that holds data, in file order; what is left out is not decoded.

    Args:
        path: A logdir, a run directory or an event file.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        steps: A step, or a range or other container of steps; None for all.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: A larger tensor is reported as damage instead of being decoded.

    Raises:
        FileNotFoundError: Nothing is at the path.
        ReadError: Something is damaged, and on_damage is "raise".
    """
    selection = Selection.of(runs, tags, steps)
    report = _reporter(on_damage)
    files = paths.find_event_files(path, report=report)
    return _iter_tensors(files, selection, report, max_tensor_bytes)


def verify(path: str | os.PathLike[str]) -> list[Damage]:
    """Reads and decodes everything below a path and returns what is broken, by file and byte range.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    found: list[Damage] = []
    files = paths.find_event_files(path, report=found.append)
    for _ in _iter_tensors(files, Selection.of(None, None, None), found.append, MAX_TENSOR_BYTES):
        pass
    return sorted(found)


def iter_file(
    path: str, *, run: str, selection: Selection, report: Report, max_tensor_bytes: int
) -> Iterator[TensorDatum]:
    """Yields the values of one event file."""
    plugin_names: dict[str, str] = {}
    with LocalFile(path) as window:
        for record in records.iter_records(window, report=report):
            yield from _iter_values(
                record, path, run, selection, report, max_tensor_bytes, plugin_names
            )


def _iter_tensors(
    files: list[paths.EventFile], selection: Selection, report: Report, max_tensor_bytes: int
) -> Iterator[TensorDatum]:
    for run, path in files:
        if selection.has_run(run):
            try:
                yield from iter_file(
                    path,
                    run=run,
                    selection=selection,
                    report=report,
                    max_tensor_bytes=max_tensor_bytes,
                )
            except errors.EventFileError as error:
                report(Damage(path, 0, 0, "unreadable", str(error), error))


def _iter_events(
    files: list[paths.EventFile], selection: Selection, report: Report
) -> Iterator[tuple[str, Any]]:
    for run, path in files:
        if not selection.has_run(run):
            continue
        try:
            with LocalFile(path) as window:
                for record in records.iter_records(window, report=report):
                    try:
                        event = event_pb2.Event.FromString(bytes(record.payload))
                    except DecodeError as error:
                        report(_undecodable(path, record, error))
                        continue
                    if selection.has_step(event.step):
                        yield run, event
        except errors.EventFileError as error:
            report(Damage(path, 0, 0, "unreadable", str(error), error))


def _iter_values(
    record: Record,
    path: str,
    run: str,
    selection: Selection,
    report: Report,
    max_tensor_bytes: int,
    plugin_names: dict[str, str],
) -> Iterator[TensorDatum]:
    """Yields the values of one record; what one value breaks does not hide the next one."""
    try:
        event = wire.parse_event(record.payload)
    except ValueError as error:
        report(_undecodable(path, record, error))
        return
    for start, end in event.values:
        try:
            value = wire.parse_value(record.payload, start, end)
            if value.plugin_name is not None:  # later values of a tag may leave it out
                plugin_names.setdefault(value.tag, value.plugin_name)
            if (
                value.kind is None
                or not selection.has_step(event.step)
                or not selection.has_tag(value.tag)
            ):
                continue
            array = tensors.decode_value(record.payload, value, max_tensor_bytes=max_tensor_bytes)
        except ValueError as error:
            report(_undecodable(path, record, error))
            continue
        plugin_name = plugin_names.get(value.tag) or tensors.PLUGIN_NAMES.get(value.kind, "")
        yield TensorDatum(run, value.tag, event.step, event.wall_time, plugin_name, array)


def _undecodable(path: str, record: Record, error: Exception) -> Damage:
    message = f"an intact record holds what cannot be decoded: {error}"
    where = f"{path}: bytes {record.start} to {record.end}"
    kind = errors.UndecodableError
    if isinstance(error, tensors.TooLargeError):
        return Damage(
            path,
            record.start,
            record.end,
            "undecodable",
            message,
            errors.TensorTooLargeError(
                f"{where}: {error}", path=path, start=record.start, end=record.end
            ),
        )
    cause = kind(f"{where}: {message}", path=path, start=record.start, end=record.end)
    return Damage(path, record.start, record.end, "undecodable", message, cause)


def _reporter(on_damage: OnDamage) -> Report:
    if on_damage not in ("warn", "raise", "ignore"):
        raise ValueError(f"on_damage: {on_damage!r}; use 'warn', 'raise' or 'ignore'")

    def report(damage: Damage) -> None:
        if on_damage == "raise":
            raise damage.error()
        if on_damage == "warn":
            warnings.warn(str(damage), errors.DamageWarning, stacklevel=3)

    return report


def _patterns(names: str | Iterable[str] | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _matches(name: str, patterns: tuple[str, ...] | None) -> bool:
    if patterns is None:
        return True
    return any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns)
