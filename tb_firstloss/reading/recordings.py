"""First-batch recordings: only the head of each one's event file is read."""

import functools
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tb_firstloss import contract, errors
from tb_firstloss.arrays import Array, describe
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.manifest import Facts, entries, named_tensors, parse, stored_tag
from tb_firstloss.reading.damage import Damage, Report, reporter
from tb_firstloss.reading.files.find import EventFile, find_event_files, is_event_file_name
from tb_firstloss.reading.files.open import Window, open_window
from tb_firstloss.reading.first_losses import FirstLosses
from tb_firstloss.reading.format import wire
from tb_firstloss.reading.format.rows import Names, iter_chunks
from tb_firstloss.reading.format.tensor_proto import MAX_TENSOR_BYTES, TooLargeError, decode_tensor
from tb_firstloss.text import printable

if TYPE_CHECKING:
    from concurrent.futures import Executor

_FILES_PER_TASK = 64
_FIRST_FILES = 16
_WAIT_PER_FILE = 1e-3
"""Idle seconds per file above which storage counts as slow; a local file takes a tenth."""

_TENSORS = (wire.TENSOR, wire.FLOAT_SCALAR, wire.DOUBLE_SCALAR)
_EXPANSION = 8
"""Most bytes of an array for one in its file: an int64 may be a varint of one byte."""

_Range = tuple[int, int]
_Result = tuple[str, FirstBatch | errors.ReadError, list[Damage]]
_ReadAll = Callable[[list[EventFile]], list[_Result]]


def read_first_loss(
    path: str | os.PathLike[str], *, max_tensor_bytes: int = MAX_TENSOR_BYTES
) -> FirstBatch:
    """Reads one recording back, exactly.

    Args:
        path: A recording's event file, its run directory, or a logdir that holds one recording.
            One without a loss (``<tag>-no-loss``) does not count next to others.
        max_tensor_bytes: Most bytes of an array, and of all those together that a file holds as a
            single value.

    Raises:
        FileNotFoundError: Nothing is at the path.
        NoRecordingError: There is no recording.
        SeveralRecordingsError: There are several; the message names them.
        IncompleteRecordingError: The manifest or a tensor is missing or altered, or a field of the
            manifest is of the wrong kind.
        TensorTooLargeError: An array is above max_tensor_bytes.
        ContractVersionError: A newer version of this package wrote it.
    """
    root = os.fspath(path)
    files = find_recordings(root)
    if not files:
        raise errors.NoRecordingError(
            f"{root}: no first-batch recording here (no file *{contract.FILE_SUFFIX})", path=root
        )
    files = [EventFile(Path(p).resolve().parent.name if run == "." else run, p) for run, p in files]
    results: Iterable[_Result] = (_read_or_error(*file, max_tensor_bytes) for file in files)
    if len(files) > 1:
        full = (each for each in results if not getattr(each[1], "is_empty", False))
        results = list(itertools.islice(full, 2))
        if len(results) != 1:
            names = errors.some_of([run for run, _ in files])
            raise errors.SeveralRecordingsError(
                f"{root}: {len(files)} recordings ({names}); give one of these runs, or use "
                "read_first_losses",
                path=root,
            )
    ((_, result, damage),) = results
    if not isinstance(result, FirstBatch):
        raise result
    _warn(damage)
    return result


def first_batch_of(given: FirstBatch | str | os.PathLike[str]) -> FirstBatch:
    """Returns a first batch as it is, and reads it as `read_first_loss` does from a path."""
    return given if isinstance(given, FirstBatch) else read_first_loss(given)


def read_first_losses(
    logdir: str | os.PathLike[str],
    *,
    executor: "Executor | None" = None,
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
) -> FirstLosses:
    """Reads every recording below a logdir.

    Only recordings are opened, so the cost does not grow with the training logs next to them. A
    recording that cannot be read is a DamageWarning, and the others are returned.

    Args:
        logdir: Any directory, or one recording's file.
        executor: Where to read; it must see the same files. None for this process: in threads if
            the storage is slow, else in the calling one, because decoding holds the GIL.
        max_tensor_bytes: As for `read_first_loss`, for each recording.

    Returns:
        The first batches by run name relative to the logdir ("." for the logdir itself), sorted: a
        dict that shows itself as a table and has ``to_pandas()``.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    files = find_recordings(os.fspath(logdir))
    read = functools.partial(_read_all, max_tensor_bytes=max_tensor_bytes)
    results = _read_with(executor, read, files) if executor is not None else _read_here(read, files)
    found = FirstLosses()
    for run, result, damage in results:
        if isinstance(result, FirstBatch):
            found.setdefault(run, result)
            _warn(damage)
        else:
            warnings.warn(str(result), errors.DamageWarning, stacklevel=2)
    return found


def find_damage(files: Iterable[EventFile]) -> Iterator[Damage]:
    """Yields what is wrong with the recordings among files that can be opened."""
    for run, path in files:
        if path.endswith(contract.FILE_SUFFIX):
            _, result, damage = _read_or_error(run, path, MAX_TENSOR_BYTES)
            yield from damage
            if isinstance(result, FirstBatch | errors.EventFileError):
                continue  # the latter is told by whoever reads every file
            with open_window(path) as window:
                message = str(result).removeprefix(f"{path}: ")
                yield Damage(path, 0, window.size, "incomplete", message, result)


def read_recording(
    path: str, *, run: str, max_tensor_bytes: int = MAX_TENSOR_BYTES
) -> tuple[FirstBatch, list[Damage]]:
    """Reads the recording in one event file of any name, up to its manifest.

    Returns:
        The recording, and damage that leaves it intact.

    Raises:
        NoRecordingError: The file holds no tensor of a recording.
        EventFileError: The file cannot be opened.
        IncompleteRecordingError, TensorTooLargeError, ContractVersionError: As in
            `read_first_loss`.
    """
    damage: list[Damage] = []
    ranges: dict[str, _Range] = {}
    with open_window(path) as window:
        for tag, record, content in _iter_exact(window, damage.append):
            ranges.setdefault(tag, content)
            if contract.is_manifest(tag, contract.PLUGIN_NAME):
                facts = parse(_read_text(window, tag, content), path)
                tensors = _read_named(window, facts, ranges, max_tensor_bytes)

                def report(message: str, record: _Range = record) -> None:
                    damage.append(Damage(path, *record, "undecodable", message))

                return contract.decode(facts, tensors, path=path, run=run, report=report), damage
    reason = f"; {damage[0].message} (byte {damage[0].start})" if damage else ""
    if damage and damage[0].start == 0 and not ranges:
        raise errors.EventFileError(f"{path}: not an event file{reason}", path=path)
    if not ranges and not path.endswith(contract.FILE_SUFFIX):
        raise errors.NoRecordingError(f"{path}: holds no first-batch recording{reason}", path=path)
    raise errors.IncompleteRecordingError(
        f"{path}: the recording has no manifest: truncated or damaged{reason}", path=path
    )


def _iter_exact(window: Window, report: Report) -> Iterator[tuple[str, _Range, _Range]]:
    """Yields the tag of each exact tensor, and where its record and its content are."""
    names = Names()
    for chunk in iter_chunks(window, names, report=report):
        rows = chunk.rows
        columns = rows.content_type, rows.tag, rows.plugin_name, rows.record_start, rows.record_size
        each = (column.tolist() for column in (*columns, rows.start, rows.size))
        for content_type, tag, plugin, record, record_size, start, size in zip(*each, strict=True):
            if content_type in _TENSORS and names.plugin_names[plugin] == contract.PLUGIN_NAME:
                yield names.tags[tag], (record, record + record_size), (start, start + size)


def _read_named(
    window: Window, facts: Facts, ranges: dict[str, _Range], max_tensor_bytes: int
) -> dict[str, Array]:
    """Returns the tensors that a manifest names; no other is decoded."""
    for entry in entries(facts):
        if stored_tag(entry) in ranges:
            entry["left_out"] = False  # whatever it says
    found = {}
    spare = max_tensor_bytes
    for tag in named_tensors(facts):
        if tag in ranges:
            start, end = ranges[tag]
            most = _EXPANSION * (end - start)  # without a value that stands for many
            limit = min(max_tensor_bytes, max(most, spare))
            found[tag] = _decode(window, tag, ranges[tag], limit)
            spare -= found[tag].nbytes if found[tag].nbytes > most else 0
    return found


def _read_text(window: Window, tag: str, content: _Range) -> bytes:
    value = _decode(window, tag, content, contract.PROTO_LIMIT_BYTES)
    if value.dtype != object or value.size != 1:
        raise errors.IncompleteRecordingError(
            f"{window.path}: the manifest is {describe(value)} instead of text", path=window.path
        )
    text: bytes = value.item()
    return text


def _decode(window: Window, tag: str, content: _Range, max_tensor_bytes: int) -> Array:
    start, end = content
    try:
        return decode_tensor(window.view(start, end), max_tensor_bytes=max_tensor_bytes)
    except ValueError as error:
        large = isinstance(error, TooLargeError)
        kind = errors.TensorTooLargeError if large else errors.IncompleteRecordingError
        message = f"{window.path}: {printable(tag)}: {error}"
        raise kind(message, path=window.path, start=start, end=end) from None


def _warn(damage: list[Damage]) -> None:
    """Warns once of damage that left a recording intact."""
    if damage:
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        message = f"{damage[0]}{more}; the recording itself is intact"
        warnings.warn(message, errors.DamageWarning, stacklevel=3)


def find_recordings(root: str) -> list[EventFile]:
    """Finds the recordings' event files below a path, as `find_event_files` does."""

    def is_recording(name: str) -> bool:
        return name.endswith(contract.FILE_SUFFIX) and is_event_file_name(name)

    return find_event_files(root, report=reporter("ignore"), wanted=is_recording)


def _read_here(read: _ReadAll, files: list[EventFile]) -> list[_Result]:
    first, rest = files[:_FIRST_FILES], files[_FIRST_FILES:]
    started, blocked = time.perf_counter() - time.thread_time(), _count_blocks()
    results = read(first)
    waited = time.perf_counter() - time.thread_time() - started
    # On a busy machine a thread also waits, for its turn; but then nothing blocks it.
    if waited < _WAIT_PER_FILE * len(first) or _count_blocks() - blocked < len(first):
        return results + read(rest)
    from concurrent.futures import ThreadPoolExecutor  # a single recording needs none

    with ThreadPoolExecutor() as threads:
        return results + _read_with(threads, read, rest)


def _count_blocks() -> float:
    """Returns how often this thread, or on some systems this process, yielded the processor."""
    try:
        import resource
    except ImportError:  # on Windows; nothing compares with NaN, so that the time alone decides
        return float("nan")
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nvcsw


def _read_with(executor: "Executor", read: _ReadAll, files: list[EventFile]) -> list[_Result]:
    tasks = [files[i : i + _FILES_PER_TASK] for i in range(0, len(files), _FILES_PER_TASK)]
    return list(itertools.chain.from_iterable(executor.map(read, tasks)))


def _read_all(files: Iterable[EventFile], max_tensor_bytes: int) -> list[_Result]:
    """Reads some recordings; top-level and picklable, for process executors."""
    return [_read_or_error(run, path, max_tensor_bytes) for run, path in files]


def _read_or_error(run: str, path: str, max_tensor_bytes: int) -> _Result:
    try:
        return run, *read_recording(path, run=run, max_tensor_bytes=max_tensor_bytes)
    except errors.ReadError as error:
        return run, error, []
    except MemoryError:
        message = f"{path}: more than fits in memory; max_tensor_bytes bounds an array"
        return run, errors.TensorTooLargeError(message, path=path), []
