"""What a resumed run does about its first batch: an earlier process has trained on it."""

import re

from tb_firstloss.capture.recorder import Recorder
from tb_firstloss.contract import PROTO_LIMIT_BYTES
from tb_firstloss.errors import CaptureError, ReadError, ResumedRunError
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.reading.recordings import read_first_losses


def may_record(
    recorder: Recorder, signs: str, *, trained: int = 0, earlier: FirstBatch | None = None
) -> bool:
    """Does what ``on_resume`` says; returns whether to record this process's first batch.

    Args:
        recorder: The recorder; "skip" makes it adopt the earlier process's recording.
        signs: What shows that the run is resumed, for messages.
        trained: Number of batches that the restored optimizer has trained on, where it is known.
        earlier: The earlier process's first batch; None for the newest recording on disk.

    Raises:
        ResumedRunError: ``on_resume="error"``.
        CaptureError: ``on_error="raise"``, and there is no recording to adopt, or none to make
            because the step is not later than the recording's.
    """
    if recorder.options.on_resume == "error":
        raise ResumedRunError(
            f"{recorder.logdir}: {signs}, so its first batch is past; on_resume='skip' takes the "
            "recording that exists, on_resume='record' records under a later step"
        )
    failure = f"{recorder.logdir}: the first loss was not recorded"
    with recorder.guard(failure):
        if earlier is None:
            earlier = _newest_recording(recorder.logdir, recorder.options.tag)
        if recorder.options.on_resume == "record":
            _start_later(recorder, signs, trained, earlier)
            return True
        recorder.adopt(earlier)
        if earlier is None:
            raise CaptureError(
                f"{failure}: {signs}, and there is no recording of its first batch; "
                "on_resume='record' records the first batch from there on"
            )
    return False


def _start_later(recorder: Recorder, signs: str, trained: int, earlier: FirstBatch | None) -> None:
    step = recorder.step
    if not callable(recorder.options.step):
        step = step or trained
    if step <= (0 if earlier is None else earlier.step):
        raise CaptureError(
            f"{recorder.logdir}: {signs}, and step {step} is not later than the first batch's; "
            "give step= as a callable that returns the number of the step"
        )
    recorder.start_at(step)


def _newest_recording(logdir: str, tag: str) -> FirstBatch | None:
    """Returns the newest recording that a recorder with this logdir and tag has made, or None."""
    run_of_tag = re.compile(re.escape(tag) + r"(-\d+)?")
    try:
        found = read_first_losses(logdir, max_tensor_bytes=PROTO_LIMIT_BYTES)
    except (FileNotFoundError, ReadError):
        return None
    recordings = [
        first for run, first in found.items() if run_of_tag.fullmatch(run) and not first.is_empty
    ]
    return max(recordings, key=lambda first: first.wall_time, default=None)
