"""Live tail: the values of a logdir as they are written, each once."""

import contextlib
import dataclasses
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator

from tb_firstloss.reading.damage import OnDamage, Report, reporter, unreadable_reported
from tb_firstloss.reading.files.find import EventFile, find_event_files
from tb_firstloss.reading.files.open import Window, open_local
from tb_firstloss.reading.format import records
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES
from tb_firstloss.reading.run_reader import RunReader
from tb_firstloss.reading.selection import Patterns, Selection
from tb_firstloss.reading.tensor_datum import TensorDatum
from tb_firstloss.text import is_url


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
    """Yields every existing value, then each new one as it is written, until stopped.

    An incomplete record is waited for. A file that is replaced, or rewritten from the start, is
    read anew; a truncated one continues after its remaining records. The path need not exist yet.

    Args:
        path: A logdir, a run directory, an event file or a glob, on a local file system.
        runs: Exact names or globs of the runs to read; None for all.
        tags: Exact names or globs of the tags to read; None for all.
        poll_seconds: How long to wait before looking again when nothing is new.
        on_damage: "warn" (a DamageWarning), "raise" (a ReadError) or "ignore".
        max_tensor_bytes: Larger tensors are reported as damage instead of being decoded.
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
    selection = Selection.of(runs, tags, None, max_tensor_bytes=max_tensor_bytes)
    report = reporter(on_damage, once=True)
    return _follow(root, selection, report, poll_seconds, stop or threading.Event())


def _follow(
    path: str, selection: Selection, report: Report, poll_seconds: float, stop: threading.Event
) -> Iterator[TensorDatum]:
    readers: dict[str, RunReader] = {}
    tails: dict[str, _Tail] = {}
    while not stop.is_set():
        grew = False
        files: list[EventFile] = []
        with contextlib.suppress(FileNotFoundError):  # not there yet
            files = find_event_files(path, report=report)
        for run, file in files:
            if not selection.has_run(run):
                continue
            if file not in tails:
                reader = readers.setdefault(run, RunReader(run, selection, report))
                tails[file] = _Tail(file, reader)
            with unreadable_reported(file, report):
                for datum in tails[file].read():
                    grew = True
                    yield datum
                    if stop.is_set():
                        return
        if not grew:
            stop.wait(poll_seconds)


@dataclasses.dataclass
class _Tail:
    """What has been read of one file.

    Attributes:
        path: The file.
        reader: Of its run.
        seen: Device, inode, size and modification time when the file was last looked at.
        ends: Where each record read so far ends.
        checksums: The last four bytes of each, which reveal a rewritten file.
    """

    path: str
    reader: RunReader
    seen: tuple[int, int, int, int] = (0, 0, 0, 0)
    ends: "array[int]" = dataclasses.field(default_factory=lambda: array("Q"))
    checksums: "array[int]" = dataclasses.field(default_factory=lambda: array("I"))

    def read(self) -> Iterator[TensorDatum]:
        """Yields what is new."""
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except OSError:  # removed since it was found
            return
        seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if seen == self.seen:
            return
        with open_local(self.path) as window:
            position = self._resume(window, replaced=seen[:2] != self.seen[:2])
            self.seen = seen
            report = self.reader.report
            for record in records.iter_records(window, position, report=report, grows=True):
                self.ends.append(record.end)
                self.checksums.append(_checksum(window, record.end))
                yield from self.reader.tensors_of(record, self.path)

    def _resume(self, window: Window, *, replaced: bool) -> int:
        """Returns where to continue, and forgets the records that are gone."""
        kept = 0 if replaced else bisect_right(self.ends, window.size)
        if kept and _checksum(window, self.ends[kept - 1]) != self.checksums[kept - 1]:
            kept = 0
        del self.ends[kept:], self.checksums[kept:]
        return self.ends[-1] if kept else 0


def _checksum(window: Window, end: int) -> int:
    """Returns the last four bytes of the record that ends at a position."""
    return int.from_bytes(window.view(end - records.FOOTER_BYTES, end), "little")
