"""First-batch recordings: the head of each one's event file, and nothing else."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tb_firstloss import contract, errors
from tb_firstloss.arrays import Array, describe
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.reading.files.find import EventFile, find_event_files, is_event_file_name
from tb_firstloss.reading.format.records import Damage, Report
from tb_firstloss.reading.format.rows import Names
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES, TensorDatum
from tb_firstloss.reading.logdir import iter_file
from tb_firstloss.reading.selection import Selection

if TYPE_CHECKING:
    from concurrent.futures import Executor

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_FILES_PER_TASK = 64
_FIRST_FILES = 16
_WAIT_PER_FILE = 1e-3
"""Seconds without work above which storage is slow; a local file takes a tenth of that."""

_Result = tuple[str, FirstBatch | errors.ReadError, list[Damage]]


def read_first_loss(path: str | os.PathLike[str]) -> FirstBatch:
    """Reads one recording back, exactly.

    Args:
        path: A recording's event file, its run directory, or a logdir that holds one recording.

    Raises:
        FileNotFoundError: Nothing is at the path.
        NoRecordingError: There is no recording.
        SeveralRecordingsError: There are several; the message names them.
        IncompleteRecordingError: The manifest or a tensor is missing or altered.
        ContractVersionError: A newer version of this package wrote it.
    """
    root = os.fspath(path)
    files = _find(root)
    if not files:
        raise errors.NoRecordingError(
            f"{root}: no first-batch recording here (no file *{contract.FILE_SUFFIX})", path=root
        )
    if len(files) > 1:
        names = errors.some_of([run for run, _ in files])
        raise errors.SeveralRecordingsError(
            f"{root}: {len(files)} recordings ({names}); give one of these runs, or use "
            "read_first_losses",
            path=root,
        )
    run, file = files[0]
    own_name = Path(file).resolve().parent.name
    damage: list[Damage] = []
    first = read_recording(file, run=own_name if run == "." else run, report=damage.append)
    _warn(damage)
    return first


def read_first_losses(
    logdir: str | os.PathLike[str], *, executor: Executor | None = None
) -> dict[str, FirstBatch]:
    """Reads every recording below a logdir.

    Only the recordings' own files are opened, so the cost does not grow with the training logs
    beside them. A recording that cannot be read is a DamageWarning, and the others are returned.

    Args:
        logdir: Any directory, or one recording's file.
        executor: Where to read; it needs to see the same files. None for this process: in threads
            when the storage keeps it waiting, and otherwise in this one, because threads that
            decode take turns.

    Returns:
        The first batches by run name relative to the logdir ("." for the logdir itself), sorted.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    files = _find(os.fspath(logdir))
    results = _read_with(executor, files) if executor is not None else _read_here(files)
    found: dict[str, FirstBatch] = {}
    for run, result, damage in results:
        if isinstance(result, FirstBatch):
            found.setdefault(run, result)
            _warn(damage)
        else:
            warnings.warn(str(result), errors.DamageWarning, stacklevel=2)
    return found


def read_recording(path: str, *, run: str | None = None, report: Report) -> FirstBatch:
    """Reads the recording in one event file, up to its manifest.

    Args:
        path: Event file, whatever its name.
        run: Name to give the run; None for the one it was recorded under.
        report: Called with damage that leaves the recording whole.

    Raises:
        NoRecordingError: The file holds no tensor of a recording.
        EventFileError: The file cannot be opened.
        IncompleteRecordingError: The manifest or a tensor is missing or altered.
        ContractVersionError: A newer version of this package wrote it.
    """
    found: dict[str, Array] = {}
    damage: list[Damage] = []
    for datum in iter_file(
        path,
        run=run or "",
        names=Names(),
        selection=Selection(),
        report=damage.append,
        max_tensor_bytes=max(MAX_TENSOR_BYTES, contract.PROTO_LIMIT_BYTES),
    ):
        if contract.is_manifest(datum.tag, datum.plugin_name):
            first = contract.decode(_text(datum, path), found, path=path, run=run)
            for each in damage:
                report(each)
            return first
        if datum.plugin_name == contract.PLUGIN_NAME:
            found.setdefault(datum.tag, datum.value)
    reason = f"; {damage[0].message} (byte {damage[0].start})" if damage else ""
    if damage and damage[0].start == 0 and not found:
        raise errors.EventFileError(f"{path}: is no event file{reason}", path=path)
    if not found and not path.endswith(contract.FILE_SUFFIX):
        raise errors.NoRecordingError(f"{path}: holds no first-batch recording{reason}", path=path)
    raise errors.IncompleteRecordingError(
        f"{path}: a recording without its manifest; it was cut short or damaged{reason}", path=path
    )


def _text(manifest: TensorDatum, path: str) -> bytes:
    if manifest.value.dtype != object or manifest.value.size != 1:
        raise errors.IncompleteRecordingError(
            f"{path}: the manifest is {describe(manifest.value)} instead of a text", path=path
        )
    text: bytes = manifest.value.item()
    return text


def _warn(damage: list[Damage]) -> None:
    """Warns once of damage that left a recording whole."""
    if damage:
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        message = f"{damage[0]}{more}; the recording itself is whole"
        warnings.warn(message, errors.DamageWarning, stacklevel=3)


def _find(root: str) -> list[EventFile]:
    def ignore(_: Damage) -> None: ...

    return find_event_files(root, report=ignore, wanted=_is_recording)


def _is_recording(name: str) -> bool:
    return name.endswith(contract.FILE_SUFFIX) and is_event_file_name(name)


def _read_here(files: list[EventFile]) -> list[_Result]:
    first, rest = files[:_FIRST_FILES], files[_FIRST_FILES:]
    started, blocked = time.perf_counter() - time.thread_time(), _count_blocks()
    results = _read_all(first)
    waited = time.perf_counter() - time.thread_time() - started
    # On a busy machine a thread waits for its turn too, but then nothing blocks it.
    if waited < _WAIT_PER_FILE * len(first) or _count_blocks() - blocked < len(first):
        return results + _read_all(rest)
    from concurrent.futures import ThreadPoolExecutor  # not on the way of a single recording

    with ThreadPoolExecutor() as threads:
        return results + _read_with(threads, rest)


def _count_blocks() -> int:
    """Returns how often this thread, where the system tells it apart, gave up the processor."""
    if resource is None:
        return 0
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nvcsw


def _read_with(executor: Executor, files: list[EventFile]) -> list[_Result]:
    tasks = [files[i : i + _FILES_PER_TASK] for i in range(0, len(files), _FILES_PER_TASK)]
    return list(itertools.chain.from_iterable(executor.map(_read_all, tasks)))


def _read_all(files: Iterable[EventFile]) -> list[_Result]:
    """Reads some recordings; top-level and picklable, for executors of other processes."""
    return [_read_or_error(run, path) for run, path in files]


def _read_or_error(run: str, path: str) -> _Result:
    damage: list[Damage] = []
    try:
        return run, read_recording(path, run=run, report=damage.append), damage
    except errors.ReadError as error:
        return run, error, damage
