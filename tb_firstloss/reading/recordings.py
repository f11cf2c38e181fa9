"""First-batch recordings: only the head of each one's event file is read."""

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
from tb_firstloss.reading.damage import Damage, reporter
from tb_firstloss.reading.files.find import EventFile, find_event_files, is_event_file_name
from tb_firstloss.reading.files.open import open_window
from tb_firstloss.reading.first_losses import FirstLosses
from tb_firstloss.reading.run_reader import RunReader
from tb_firstloss.reading.selection import Selection
from tb_firstloss.reading.tensor_datum import TensorDatum

if TYPE_CHECKING:
    from concurrent.futures import Executor

_FILES_PER_TASK = 64
_FIRST_FILES = 16
_WAIT_PER_FILE = 1e-3
"""Idle seconds per file above which storage counts as slow; a local file takes a tenth."""

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
    directory = Path(file).resolve().parent.name
    first, damage = read_recording(file, run=directory if run == "." else run)
    _warn(damage)
    return first


def read_first_losses(
    logdir: str | os.PathLike[str], *, executor: "Executor | None" = None
) -> FirstLosses:
    """Reads every recording below a logdir.

    Only recordings are opened, so the cost does not grow with the training logs next to them. A
    recording that cannot be read is a DamageWarning, and the others are returned.

    Args:
        logdir: Any directory, or one recording's file.
        executor: Where to read; it must see the same files. None for this process: in threads if
            the storage is slow, else in the calling one, because decoding holds the GIL.

    Returns:
        The first batches by run name relative to the logdir ("." for the logdir itself), sorted: a
        dict that shows itself as a table and has ``to_pandas()``.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    files = _find(os.fspath(logdir))
    results = _read_with(executor, files) if executor is not None else _read_here(files)
    found = FirstLosses()
    for run, result, damage in results:
        if isinstance(result, FirstBatch):
            found.setdefault(run, result)
            _warn(damage)
        else:
            warnings.warn(str(result), errors.DamageWarning, stacklevel=2)
    return found


def read_recording(path: str, *, run: str) -> tuple[FirstBatch, list[Damage]]:
    """Reads the recording in one event file of any name, up to its manifest.

    Returns:
        The recording, and damage that leaves it intact.

    Raises:
        NoRecordingError: The file holds no tensor of a recording.
        EventFileError: The file cannot be opened.
        IncompleteRecordingError, ContractVersionError: As in `read_first_loss`.
    """
    found: dict[str, Array] = {}
    damage: list[Damage] = []
    selection = Selection(max_tensor_bytes=contract.PROTO_LIMIT_BYTES)
    with open_window(path) as window:
        for datum in RunReader(run, selection, damage.append).tensors(window):
            if contract.is_manifest(datum.tag, datum.plugin_name):
                return contract.decode(_text(datum, path), found, path=path, run=run), damage
            if datum.plugin_name == contract.PLUGIN_NAME:
                found.setdefault(datum.tag, datum.value)
    reason = f"; {damage[0].message} (byte {damage[0].start})" if damage else ""
    if damage and damage[0].start == 0 and not found:
        raise errors.EventFileError(f"{path}: not an event file{reason}", path=path)
    if not found and not path.endswith(contract.FILE_SUFFIX):
        raise errors.NoRecordingError(f"{path}: holds no first-batch recording{reason}", path=path)
    raise errors.IncompleteRecordingError(
        f"{path}: the recording has no manifest: truncated or damaged{reason}", path=path
    )


def _text(manifest: TensorDatum, path: str) -> bytes:
    if manifest.value.dtype != object or manifest.value.size != 1:
        raise errors.IncompleteRecordingError(
            f"{path}: the manifest is {describe(manifest.value)} instead of text", path=path
        )
    text: bytes = manifest.value.item()
    return text


def _warn(damage: list[Damage]) -> None:
    """Warns once of damage that left a recording intact."""
    if damage:
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        message = f"{damage[0]}{more}; the recording itself is intact"
        warnings.warn(message, errors.DamageWarning, stacklevel=3)


def _find(root: str) -> list[EventFile]:
    def is_recording(name: str) -> bool:
        return name.endswith(contract.FILE_SUFFIX) and is_event_file_name(name)

    return find_event_files(root, report=reporter("ignore"), wanted=is_recording)


def _read_here(files: list[EventFile]) -> list[_Result]:
    first, rest = files[:_FIRST_FILES], files[_FIRST_FILES:]
    started, blocked = time.perf_counter() - time.thread_time(), _count_blocks()
    results = _read_all(first)
    waited = time.perf_counter() - time.thread_time() - started
    # On a busy machine a thread also waits, for its turn; but then nothing blocks it.
    if waited < _WAIT_PER_FILE * len(first) or _count_blocks() - blocked < len(first):
        return results + _read_all(rest)
    from concurrent.futures import ThreadPoolExecutor  # a single recording needs none

    with ThreadPoolExecutor() as threads:
        return results + _read_with(threads, rest)


def _count_blocks() -> float:
    """Returns how often this thread, or on some systems this process, yielded the processor."""
    try:
        import resource
    except ImportError:  # on Windows; nothing compares with NaN, so that the time alone decides
        return float("nan")
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nvcsw


def _read_with(executor: "Executor", files: list[EventFile]) -> list[_Result]:
    tasks = [files[i : i + _FILES_PER_TASK] for i in range(0, len(files), _FILES_PER_TASK)]
    return list(itertools.chain.from_iterable(executor.map(_read_all, tasks)))


def _read_all(files: Iterable[EventFile]) -> list[_Result]:
    """Reads some recordings; top-level and picklable, for process executors."""
    return [_read_or_error(run, path) for run, path in files]


def _read_or_error(run: str, path: str) -> _Result:
    try:
        return run, *read_recording(path, run=run)
    except errors.ReadError as error:
        return run, error, []
