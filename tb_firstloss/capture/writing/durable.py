"""From written to durable: flushed, synced, read back, and never anything behind a torn record.

tf.summary's flush and close neither call fsync nor report a write that failed: on a full disk an
event is dropped without a word. So what counts here is what our own reader finds on disk.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from tb_firstloss import contract, errors
from tb_firstloss.capture.writing.run_dirs import sync
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.paths import is_url
from tb_firstloss.reading.logdir import verify
from tb_firstloss.reading.recordings import read_first_loss


def find_written(run_dir: str, recording_id: str) -> str:
    """Returns the path of the event file that tf.summary has opened for a recording.

    Raises:
        OSError: It is not there.
    """
    found = _written(run_dir, recording_id)
    if len(found) != 1:
        raise FileNotFoundError("the event file is gone; was the directory removed?")
    return found[0]


def _written(run_dir: str, recording_id: str) -> list[str]:
    # tf.summary puts time, host and process id in front, and does not tell the name.
    name = f"*{recording_id[:16]}{contract.FILE_SUFFIX}"
    if not is_url(run_dir):  # gfile's glob would start a pool of threads for it
        return [str(path) for path in Path(run_dir).glob(name)]
    return [str(path) for path in tf.io.gfile.glob(f"{glob.escape(run_dir)}/{name}")]


def settle(path: str, first: FirstBatch) -> int:
    """Makes the values in a local event file durable and checks them; returns its size in bytes.

    Raises:
        OSError: They cannot be made durable.
        NotDurableError: What is on disk is not what was captured.
    """
    sync(path)
    sync(os.path.dirname(path))  # noqa: PTH120 - event files are plain strings here
    _check(path, first, shown=path)
    return Path(path).stat().st_size


def settle_remote(path: str, first: FirstBatch) -> None:
    """Checks a closed remote event file through tf.io.gfile, by a copy of it.

    Raises:
        OpError: It cannot be read.
        NotDurableError: What is stored is not what was captured.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = f"{folder}/events.out.tfevents.copy{contract.FILE_SUFFIX}"
        tf.io.gfile.copy(path, copy)
        _check(copy, first, shown=path)


def _check(path: str, first: FirstBatch, *, shown: str) -> None:
    try:
        found = f"its digest is {read_first_loss(path).digest[:12]}…"
        if found == f"its digest is {first.digest[:12]}…":
            return
    except errors.ReadError as error:
        found = str(error).removeprefix(f"{path}: ")
    message = f"what is on disk is not what was captured: {found}"
    raise errors.NotDurableError(message, path=shown)


def not_durable(run_dir: str, error: Exception) -> errors.NotDurableError:
    """Returns the error that says why a recording is not on disk, and where its value is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The last line of TensorFlow's errors says what was done, the first one with which operation.
    reason = lines[-1].partition(" [Op:")[0] if lines else type(error).__name__
    return errors.NotDurableError(
        f"{run_dir}: {reason}{_free_space(run_dir)}; the first loss is kept in memory only "
        "(.first_batch)",
        path=run_dir,
    )


@contextlib.contextmanager
def optional(missing: list[str]) -> Iterator[None]:
    """Lets what follows the values fail on its own, with a line in ``missing``."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the values are safe; nothing else may lose them
        missing.append(f"graph or report: {errors.first_line(error, named=True)}")


def finish(path: str, size: int) -> bool:
    """Makes the closed event file durable; tells whether what followed the values is intact too.

    If not, the file is cut back to the values, so that no torn record stays behind them.

    Args:
        path: Local event file.
        size: Bytes that `settle` has found durable.
    """
    with contextlib.suppress(OSError):
        sync(path)
    if Path(path).stat().st_size > size and not verify(path):
        return True
    os.truncate(path, size)
    with contextlib.suppress(OSError):
        sync(path)
    return False


def remove(run_dir: str, recording_id: str) -> None:
    """Removes an event file that holds no complete recording."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        for path in _written(run_dir, recording_id):
            tf.io.gfile.remove(path)


def _free_space(run_dir: str) -> str:
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(run_dir).free
        if free < 2**20:
            return f" ({free:,} bytes are free on its file system)"
    return ""
