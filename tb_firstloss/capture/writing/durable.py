"""The event file of one recording: written, settled, then finished or discarded.

tf.summary's flush and close do not call fsync, and do not report a failed write: on a full disk
they drop events without a word. So what counts is what this package's own reader finds on disk.
"""

import contextlib
import glob
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from tb_firstloss import contract, errors
from tb_firstloss.capture.writing import summaries
from tb_firstloss.capture.writing.storage import said_if_slow, sync, why_unwritable
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.reading.logdir import verify
from tb_firstloss.reading.recordings import read_first_loss
from tb_firstloss.text import is_url


class RecordingFile:
    """The event file of a first batch, while it is written: `open`, `settle`, `finish`.

    It is found by its unique ``recording_id``; the values take about ``size`` bytes. ``seconds``
    has the duration of each part, in order; that of the last one is 0 until it ends.
    """

    def __init__(self, first: FirstBatch, run_dir: str, recording_id: str, size: int) -> None:
        self.seconds = {"writing": 0.0}
        self._first = first
        self._size = size
        self._run_dir = run_dir
        self._suffix = f".{recording_id[:16]}{contract.FILE_SUFFIX}"
        self._is_remote = is_url(run_dir)
        self._path = ""
        self._settled_bytes = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[tf.summary.SummaryWriter]:
        """Opens the file as the default writer; if the values do not get settled, discards it."""
        try:
            with (
                said_if_slow(self._run_dir, self.seconds),
                summaries.event_file(self._run_dir, self._suffix) as writer,
            ):
                yield writer
            if self._is_remote:
                with tempfile.TemporaryDirectory() as folder:
                    copy = f"{folder}/events.out.tfevents.copy{contract.FILE_SUFFIX}"
                    tf.io.gfile.copy(self._path, copy)
                    self._check(copy)
        except BaseException as error:
            if not self._settled_bytes:
                with contextlib.suppress(OSError, tf.errors.OpError):
                    for path in self._written():
                        tf.io.gfile.remove(path)
                if isinstance(error, Exception):
                    raise self._not_durable(error) from error
            if not isinstance(error, Exception):
                raise

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures a part of what training waits for."""
        start, self.seconds[name] = time.perf_counter(), 0.0
        yield
        self.seconds[name] = time.perf_counter() - start

    def settle(self) -> None:
        """Makes the flushed values durable, and compares what is on disk with the first batch.

        A remote store shows a file only once it is closed; `open` checks it then.
        """
        found = self._written()
        if len(found) != 1:
            raise FileNotFoundError("the event file is gone; was the directory removed?")
        self._path = found[0]
        if not self._is_remote:
            with self.part("syncing"):
                sync(self._path)
                sync(self._run_dir)
            with self.part("reading back"):
                self._check(self._path)
            self._settled_bytes = Path(self._path).stat().st_size

    def finish(self) -> str | None:
        """Returns why what follows the values in the closed file is not intact; None if it is.

        If it is not, the file is cut back to the values, so that no torn record stays behind them.
        Only the values have to survive a power failure, so nothing is synced again.
        """
        if self._is_remote:
            return None
        if Path(self._path).stat().st_size > self._settled_bytes and not verify(self._path):
            return None
        os.truncate(self._path, self._settled_bytes)
        cause = why_unwritable(self._run_dir, self._settled_bytes + 2**20)
        return cause or "an unknown cause"

    def _written(self) -> list[str]:
        # tf.summary puts time, host and process id in front, and does not say what it chose.
        if not self._is_remote:  # gfile's glob would start a pool of threads for it
            return [str(path) for path in Path(self._run_dir).glob(f"*{self._suffix}")]
        return list(tf.io.gfile.glob(f"{glob.escape(self._run_dir)}/*{self._suffix}"))

    def _check(self, path: str) -> None:
        try:
            digest = read_first_loss(path, max_tensor_bytes=contract.PROTO_LIMIT_BYTES).digest
            if digest == self._first.digest:
                return
            found = f"its digest is {digest[:12]}…"
        except errors.ReadError as error:
            found = str(error).removeprefix(f"{path}: ")
        message = f"what is on disk is not what was captured: {found}"
        raise errors.NotDurableError(message, path=self._path)

    def _not_durable(self, error: Exception) -> errors.NotDurableError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # TensorFlow's errors begin with the operation that failed and end with the cause.
        reason = lines[-1].partition(" [Op:")[0] if lines else type(error).__name__
        with contextlib.suppress(Exception):
            reason = why_unwritable(self._run_dir, self._size) or reason
        return errors.NotDurableError(
            f"{self._run_dir}: {reason}; the first loss is kept in memory only (.first_batch)",
            path=self._run_dir,
        )
