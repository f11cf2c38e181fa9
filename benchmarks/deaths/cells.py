"""The cells of the matrix: which there are, and what each one's process has left on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

from deaths import endings, training
from tb_firstloss import errors, read_first_loss, read_scalars

TORN_AT_BYTES = (1, 50, 500, 2000)


@dataclasses.dataclass
class Cell:
    """One process: what it runs, and how and when it ends.

    Attributes:
        ended: Exit status, minus the signal's number if a signal ended it.
        found: "complete", "absent" or what is wrong; of tf.summary "complete" or "absent".
        broken: Which promise is broken, or None.
    """

    recorder: str
    way: str
    moment: str
    ending: str
    ended: int | None = None
    found: str = ""
    broken: str | None = None

    @property
    def returned(self) -> bool:
        """Whether step 0 had returned."""
        return self.moment in (*training.AFTER, "never")


def list_cells(*, quick: bool) -> Iterator[Cell]:
    """Yields every cell; when quick, one kill and one failure stand for the others in most."""
    for (recorder, way), ending in itertools.product(training.TRAININGS, endings.ENDINGS):
        ours, stands = recorder == "tb_firstloss", ending in ("SIGKILL", "exception")
        before = training.BEFORE if ours else ()
        if quick and not stands:
            before = tuple(m for m in before if m in ("in step 0", "flushed, file not synced"))
        for moment in (*before, *(training.AFTER if ours or stands or not quick else ())):
            yield Cell(recorder, way, moment, ending)
    for way, size in itertools.product(("loop", "fit"), TORN_AT_BYTES):
        yield Cell("tb_firstloss", way, f"inside write(2), at byte {size}", "SIGXFSZ")
    for recorder, way in training.TRAININGS:
        yield Cell(recorder, way, "never", "none")


def find_recording(logdir: Path) -> str:
    loss, per_example = training.expected()
    try:
        first = read_first_loss(logdir)
    except (FileNotFoundError, errors.ReadError):
        return "absent"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return f"unreadable: {error!r}"
    wanted = (0, b"float32", loss.tobytes(), b"float32", per_example.tobytes())
    values = first.loss, first.per_example
    got = first.step, *(part for v in values for part in (v.dtype.name.encode(), v.tobytes()))
    return "complete" if got == wanted else f"wrong: step {first.step}, loss {first.loss}"


def find_scalar(logdir: Path) -> str:
    loss, _ = training.expected()
    with contextlib.suppress(FileNotFoundError):
        found = read_scalars(logdir, tags="*loss", on_damage="ignore")
        if any(value == loss for value in found.value):
            return "complete"
    return "absent"


def broken_promise(cell: Cell, log: str) -> str | None:
    swallowed = cell.ending == "exception" and cell.moment in training.BEFORE[1:]
    status = 0 if swallowed else endings.STATUS.get(cell.ending)
    if cell.ended == -signal.SIGALRM or (status is not None and cell.ended != status):
        return f"the process ended with {cell.ended} instead of {status}: {log[-2000:]}"
    if cell.recorder != "tb_firstloss":
        return None
    if cell.found not in ("complete", "absent"):
        return cell.found
    if cell.found == "absent" and cell.returned:
        return "step 0 had returned, and the first loss is lost"
    if cell.found == "absent" and cell.ended == 0 and "CaptureWarning" not in log:
        return "training went on without the first loss, and without a word"
    return None
