"""Live tail: the values of a logdir as they are written, each of them once."""

from __future__ import annotations

import dataclasses
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator

from tb_firstloss.paths import is_url
from tb_firstloss.reading import logdir
from tb_firstloss.reading.files.find import EventFile, find_event_files
from tb_firstloss.reading.files.open import LocalFile, Window
from tb_firstloss.reading.format import records
from tb_firstloss.reading.format.records import Damage, Record, Report
from tb_firstloss.reading.format.rows import Names, scan_record
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES, TensorDatum
from tb_firstloss.reading.logdir import OnDamage
from tb_firstloss.reading.selection import Patterns, RowFilter, Selection


def follow(
    path: str | os.PathLike[str],
    *,
    runs: Patterns = None,
    tags: Patterns = None,
    poll_seconds: float = 1.0,
    on_damage: OnDamage = "warn",
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
    stop: threading.Event | None = None,
) -> Iterator[TensorDatum]:
    """Yields every value that is there, then every new one as it is written, until it is stopped.

    A record that is not complete yet is waited for. A file that is replaced, or rewritten from the
    start, is read anew; one that was cut back goes on behind the records that are still there.
    The path need not exist yet.

    Args:
        path: A logdir, a run directory, an event file or a glob, on a local file system.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        poll_seconds: How long to wait before looking again when nothing is new, in seconds.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: A larger tensor is reported as damage instead of being decoded.
        stop: Ends the iteration when set; closing the iterator or leaving the loop does the same.

    Raises:
        ReadError: Something is damaged, and on_damage is "raise".
        ValueError: The path is a URL, or poll_seconds is negative.
    """
    if poll_seconds < 0:
        raise ValueError(f"poll_seconds: {poll_seconds}; give 0 or more seconds")
    root = os.fspath(path)
    if is_url(root):
        raise ValueError(f"{root}: follow() watches local files; mount the bucket, or use a copy")
    selection = Selection.of(runs, tags, None)
    return _follow(
        root,
        selection,
        _once(logdir.reporter(on_damage)),
        poll_seconds,
        max_tensor_bytes,
        stop or threading.Event(),
    )


def _follow(
    path: str,
    selection: Selection,
    report: Report,
    poll_seconds: float,
    cap: int,
    stop: threading.Event,
) -> Iterator[TensorDatum]:
    tails: dict[str, _Tail] = {}
    names: dict[str, Names] = {}
    while not stop.is_set():
        grew = False
        for run, file in _find(path, report):
            if not selection.has_run(run):
                continue
            if file not in tails:
                tails[file] = _Tail(file, run, names.setdefault(run, Names()))
            with logdir.unreadable_reported(file, report):
                for datum in tails[file].read(selection, report, cap):
                    grew = True
                    yield datum
                    if stop.is_set():
                        return
        if not grew:
            stop.wait(poll_seconds)


def _find(path: str, report: Report) -> list[EventFile]:
    try:
        return find_event_files(path, report=report)
    except FileNotFoundError:
        return []


def _once(report: Report) -> Report:
    """Returns a report that tells each damage once, however often it is met."""
    seen: set[Damage] = set()

    def report_once(damage: Damage) -> None:
        if damage not in seen:
            seen.add(damage)
            report(damage)

    return report_once


def _iter_complete(window: Window, position: int, report: Report) -> Iterator[Record]:
    """Yields the records from a position on, up to one that may still be on its way."""
    while position < window.size:
        record = records.read_record(window, position)
        if record is not None:
            position = record.end
            yield record
            continue
        if records.is_cut_short(window, position):
            return
        damage = records.assess(window, position)
        if damage.end >= window.size:  # nothing intact behind it yet: it may be half written
            return
        report(damage)
        position = damage.end


@dataclasses.dataclass
class _Tail:
    """What has been read of one file.

    Attributes:
        path: The file.
        run: Its run.
        names: Tags and plugin names of the run.
        seen: Device, inode, size and modification time when the file was last looked at.
        ends: Where each record that was read ends.
        checksums: Each one's last four bytes, by which a rewritten file is told.
    """

    path: str
    run: str
    names: Names
    seen: tuple[int, int, int, int] = (0, 0, 0, 0)
    ends: array[int] = dataclasses.field(default_factory=lambda: array("Q"))
    checksums: array[int] = dataclasses.field(default_factory=lambda: array("I"))

    def read(self, selection: Selection, report: Report, cap: int) -> Iterator[TensorDatum]:
        """Yields what is new."""
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except OSError:  # removed since it was found
            return
        seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if seen == self.seen:
            return
        chosen = RowFilter(selection, self.names)
        with LocalFile(self.path) as window:
            position = self._resume(window, replaced=seen[:2] != self.seen[:2])
            self.seen = seen
            for record in _iter_complete(window, position, report):
                self.ends.append(record.end)
                self.checksums.append(_checksum(window, record.end))
                for chunk in scan_record(record, self.path, self.names, report=report):
                    rows = chosen.apply(chunk.rows)
                    yield from logdir.decode_rows(
                        chunk,
                        rows,
                        self.names,
                        path=self.path,
                        run=self.run,
                        report=report,
                        cap=cap,
                    )

    def _resume(self, window: Window, *, replaced: bool) -> int:
        """Returns where to go on, and forgets the records that are no longer there."""
        kept = 0 if replaced else bisect_right(self.ends, window.size)
        if kept and _checksum(window, self.ends[kept - 1]) != self.checksums[kept - 1]:
            kept = 0
        del self.ends[kept:], self.checksums[kept:]
        return self.ends[-1] if kept else 0


def _checksum(window: Window, end: int) -> int:
    """Returns the last four bytes of the record that ends at a position."""
    return int.from_bytes(window.view(end - records.FOOTER_BYTES, end), "little")
