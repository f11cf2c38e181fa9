import json
import logging
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, read_first_losses
from tb_firstloss.capture.writing import packed
from tb_firstloss.errors import CaptureError, CaptureWarning, ResumedRunError

VERSION_1 = Path(__file__).parents[1] / "contract_v1"
QUIET = {"graph": False, "profile": False, "on_error": "raise"}


def tensors():
    """Losses of various dtypes, shapes and raggedness."""
    odd = np.array([0x7FC1, 0x8000, 0xFF81, 0x0001], np.uint16)
    return {
        "float16": tf.constant(odd.view(np.float16)),
        "bfloat16": tf.constant(odd.view(ml_dtypes.bfloat16)),
        "float8": tf.constant(odd.view(np.uint8).view(ml_dtypes.float8_e5m2)),
        "float64": tf.constant(np.pi, tf.float64, [2, 1, 3]),
        "int64": tf.constant([2**62, -1], tf.int64),
        "empty": tf.zeros([0, 5]),
        "scalar": tf.constant(-0.0),
        "ragged": tf.ragged.constant([[[1.0], []], [], [[2.0, 3.0]]]),
        "outputs": {"a/b": tf.ones([2]), "c": tf.ragged.constant([[1], [2, 3]])},
        "losses": {
            "g/x": tf.constant(odd[:1].view(np.float16)[0]),
            "": 2.0,
            "d": tf.constant(-0.0),
        },
    }


def bits(first):
    arrays = [*first.losses.values()] + [
        array for o in first.outputs.values() for array in (o.per_example, *o.row_splits)
    ]
    return [None if a is None else (a.dtype.name, a.shape, a.tobytes()) for a in arrays]


def save(how, path, **objects):
    if how == "manager":
        manager = tf.train.CheckpointManager(tf.train.Checkpoint(**objects), path, max_to_keep=1)
        return manager.save()
    options = tf.train.CheckpointOptions(enable_async=how == "async")
    point = tf.train.Checkpoint(**objects)
    saved = point.save(f"{path}/point", options=options)
    if how == "async":
        point.sync()
    return saved


@pytest.mark.parametrize("how", ["sync", "async", "manager"])
def test_every_loss_comes_back_exactly(tmp_path, how, caplog):
    for name, loss in tensors().items():
        first = FirstLoss(tmp_path / "logs", **QUIET)
        first.record(loss)
        saved = save(how, str(tmp_path / name), first_loss=first, v=tf.Variable(1.0))
        resumed = FirstLoss(tmp_path / "logs", **QUIET)
        restored = tf.train.Checkpoint(first_loss=resumed, v=tf.Variable(0.0)).restore(saved)
        restored.assert_consumed()
        assert bits(resumed.first_batch) == bits(first.first_batch), name
        assert list(resumed.first_batch.losses) == list(first.first_batch.losses)
        assert list(resumed.first_batch.outputs) == list(first.first_batch.outputs)
        assert resumed.first_batch.digest == first.first_batch.digest
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [line for line in warned if "retracing" not in line]  # from earlier tests


def test_a_checkpoint_before_the_first_batch_restores_as_none(tmp_path):
    saved = save("sync", str(tmp_path), first_loss=FirstLoss(tmp_path, **QUIET))
    resumed = FirstLoss(tmp_path / "logs", **QUIET)
    tf.train.Checkpoint(first_loss=resumed).restore(saved).assert_consumed()
    assert resumed.first_batch is None
    resumed.record(3.0)
    assert resumed.first_batch.loss == 3


def test_a_checkpoint_without_a_recorder_restores_in_part(tmp_path):
    saved = save("sync", str(tmp_path), v=tf.Variable(5.0))
    variable, first = tf.Variable(0.0), FirstLoss(tmp_path / "logs", **QUIET)
    status = tf.train.Checkpoint(v=variable, first_loss=first).restore(saved)
    status.expect_partial()
    assert variable.numpy() == 5
    assert first.first_batch is None
    with pytest.raises(AssertionError):
        status.assert_existing_objects_matched()


def test_a_checkpoint_of_contract_version_1_is_unpacked_bit_for_bit():
    expected = json.loads((VERSION_1 / "expected.json").read_text())["loop"]
    first = packed.from_bytes((VERSION_1 / "checkpoint.bin").read_bytes())
    dtype, shape, content = expected["loss"]
    assert {name: hexadecimal(loss) for name, loss in first.losses.items()} == {
        "loss": [dtype, shape, content]
    }
    ((name, output),) = first.outputs.items()
    assert hexadecimal(output.per_example) == expected["outputs"][name]["per_example"]
    assert (first.step, first.digest) == (expected["step"], expected["digest"])
    assert packed.from_bytes(packed.to_bytes(first)).digest == expected["digest"]


def hexadecimal(array):
    return [array.dtype.name, list(array.shape), array.tobytes().hex()]


@pytest.mark.parametrize("content", [b"PK\x03\x04torn", b"anything else"])
def test_bytes_of_another_origin_are_refused(content):
    with pytest.raises(ValueError):
        packed.from_bytes(content)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a run whose first batch had the loss 1."""
    first = FirstLoss(tmp_path / "logs", **QUIET)
    first.record(1.0)
    return save("sync", str(tmp_path / "points"), first_loss=first)


def resume(saved, logdir, **options):
    first = FirstLoss(logdir, **{**QUIET, **options})
    tf.train.Checkpoint(first_loss=first).restore(saved)
    return first


def losses(logdir):
    return {run: (float(f.loss), f.step) for run, f in read_first_losses(logdir).items()}


def test_a_resumed_run_keeps_the_first_loss_and_records_nothing(tmp_path, saved):
    first = resume(saved, tmp_path / "logs")
    step = first.wrap(lambda: tf.constant(2.0))
    assert step().numpy() == 2
    assert first.first_batch.loss == 1
    assert losses(tmp_path / "logs") == {"first_batch": (1, 0)}


def test_a_resumed_run_can_record_under_a_later_step(tmp_path, saved):
    first = resume(saved, tmp_path / "logs", on_resume="record", step=lambda: 500)
    first.wrap(lambda: tf.constant(2.0))()
    assert losses(tmp_path / "logs") == {"first_batch": (1, 0), "first_batch-2": (2, 500)}


def test_a_resumed_run_cannot_record_under_an_earlier_or_equal_step(tmp_path, saved):
    first = resume(saved, tmp_path / "logs", on_resume="record", on_error="warn")
    step = first.wrap(lambda: tf.constant(2.0))
    with pytest.warns(CaptureWarning, match="step 0 is not later"):
        assert step().numpy() == 2
    assert losses(tmp_path / "logs") == {"first_batch": (1, 0)}


def test_in_ci_a_step_that_is_not_later_raises_at_every_call(tmp_path, saved):
    step = resume(saved, tmp_path / "logs", on_resume="record").wrap(lambda: tf.constant(2.0))
    for _ in range(2):
        with pytest.raises(CaptureError, match="step 0 is not later"):
            step()


def test_a_resumed_run_raises_when_asked(tmp_path, saved):
    first = resume(saved, tmp_path / "logs", on_resume="error")
    called = []
    with pytest.raises(ResumedRunError, match="restored the first batch of step 0"):
        first.wrap(lambda: called.append(1))()
    assert called == []
