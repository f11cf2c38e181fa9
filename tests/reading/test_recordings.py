"""Recordings read back exactly, from the head of their file alone."""

import json
import os
import pickle
import shutil
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import tb_firstloss
from tb_firstloss import FirstBatch, OutputLoss, contract, errors
from tb_firstloss.arrays import tensor_sha256
from tb_firstloss.reading import recordings
from tests.helpers.event_files import content, event, frame, shaped, simple, tensor, version

NAME = "events.out.tfevents.1700000000.host.1.0" + contract.FILE_SUFFIX
DTYPE_NUMBERS = {"float32": 1, "float64": 2, "uint8": 4, "int64": 9}


def first_batch(seed=0):
    rng = np.random.default_rng(seed)
    return FirstBatch(
        run="recorded",
        step=0,
        wall_time=1.7e9,
        losses={"loss": np.float32(2.3 + seed)},
        outputs={
            "main": OutputLoss(per_example=rng.random(64, np.float32)),
            "größe/x": OutputLoss(per_example=rng.random((3, 4)).astype(ml_dtypes.bfloat16)),
            "tiny": OutputLoss(per_example=rng.random(5).astype(ml_dtypes.float8_e4m3fn)),
            "ragged": OutputLoss(per_example=rng.random(7), row_splits=(np.array([0, 3, 7]),)),
        },
        metadata={"seed": seed},
    )


def exact(tag, proto):
    return tensor(tag, proto, plugin_name=contract.PLUGIN_NAME)


def frames(first, tag="first_batch"):
    """The records of a recording, made from the contract and protos alone."""
    recording = contract.encode(first, tag=tag, recording_id=str(first.digest))
    values = [
        tensor(
            name, content(list(a.shape), a, DTYPE_NUMBERS[a.dtype.name]), plugin_name="tb_firstloss"
        )
        for name, a in recording.tensors
    ]
    manifest = shaped(7, [], string_val=[recording.manifest.encode()])
    values.append(exact(contract.manifest_tag(tag), manifest))
    scalars = event(simple(f"{tag}/loss", float(first.loss)))
    return [frame(version()), frame(scalars), *(frame(event(v)) for v in values)]


def record(run_dir, first=None, *, behind=b""):
    run_dir.mkdir(parents=True)
    path = run_dir / NAME
    path.write_bytes(b"".join(frames(first or first_batch())) + behind)
    return path


def test_a_recording_comes_back_exactly(engine, tmp_path):
    first = first_batch()
    path = record(tmp_path / "logs" / "first_batch", first)
    for given, run in [
        (path, "first_batch"),
        (path.parent, "first_batch"),
        (str(tmp_path / "logs"), "first_batch"),
        (tmp_path, "logs/first_batch"),
    ]:
        found = tb_firstloss.read_first_loss(given)
        assert (found.run, found.digest, found.metadata) == (run, first.digest, first.metadata)
        assert list(found.outputs) == list(first.outputs)
        for name, output in first.outputs.items():
            read = found.outputs[name]
            assert tensor_sha256(read.per_example) == tensor_sha256(output.per_example)
            assert [s.tolist() for s in read.row_splits] == [s.tolist() for s in output.row_splits]


def test_what_follows_the_manifest_is_ignored(engine, tmp_path):
    record(tmp_path / "run", behind=b"anything at all" * 100_000)
    assert tb_firstloss.read_first_loss(tmp_path).digest == first_batch().digest


def test_every_recording_is_found_by_its_run(tmp_path):
    for number, run in enumerate(["b/first_batch", "a/first_batch", "a/first_batch-2"]):
        record(tmp_path / run, first_batch(number))
    found = tb_firstloss.read_first_losses(tmp_path)
    assert list(found) == ["a/first_batch", "a/first_batch-2", "b/first_batch"]
    assert [f.run for f in found.values()] == list(found)
    assert found["b/first_batch"].digest == first_batch(0).digest
    assert list(tb_firstloss.read_first_losses(tmp_path / "b" / "first_batch")) == ["."]


def test_other_event_files_are_never_opened(tmp_path):
    record(tmp_path / "run" / "first_batch")
    os.mkfifo(tmp_path / "run" / "events.out.tfevents.1.host")  # opening it would hang
    (tmp_path / "run" / "events.out.tfevents.2.host").write_bytes(b"damaged" * 100)
    assert list(tb_firstloss.read_first_losses(tmp_path)) == ["run/first_batch"]
    assert tb_firstloss.read_first_loss(tmp_path).run == "run/first_batch"


def test_a_recording_is_read_under_another_file_name(tmp_path):
    path = record(tmp_path / "run").rename(tmp_path / "copy.bin")
    assert tb_firstloss.read_first_loss(path).digest == first_batch().digest


def test_nothing_recorded_says_so(tmp_path):
    with pytest.raises(errors.NoRecordingError, match="no first-batch recording here"):
        tb_firstloss.read_first_loss(tmp_path)
    assert tb_firstloss.read_first_losses(tmp_path) == {}
    other = tmp_path / "events.out.tfevents.1.host"
    other.write_bytes(frame(version()) + frame(event(simple("loss", 1.0))))
    with pytest.raises(errors.NoRecordingError, match="holds no first-batch recording"):
        tb_firstloss.read_first_loss(other)
    text = tmp_path / "train.log"
    text.write_text("loss: 0.5\n" * 10)
    with pytest.raises(errors.EventFileError, match=r"train\.log: not an event file"):
        tb_firstloss.read_first_loss(text)


@pytest.mark.parametrize("read", [tb_firstloss.read_first_loss, tb_firstloss.read_first_losses])
def test_a_missing_path_says_so(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or directory"):
        read(tmp_path / "nowhere")


def test_several_recordings_are_named(tmp_path):
    record(tmp_path / "a")
    record(tmp_path / "b")
    with pytest.raises(errors.SeveralRecordingsError, match=r"2 recordings \(a, b\)"):
        tb_firstloss.read_first_loss(tmp_path)


@pytest.mark.parametrize("cut", ["manifest", "tensor"])
def test_a_truncated_recording_is_incomplete_and_hides_no_other(engine, tmp_path, cut):
    record(tmp_path / "whole")
    path = record(tmp_path / "cut")
    keep = {"manifest": -5, "tensor": 200}[cut]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(errors.IncompleteRecordingError, match=r"no manifest.*truncated"):
        tb_firstloss.read_first_loss(tmp_path / "cut")
    with pytest.warns(errors.DamageWarning, match="has no manifest") as caught:
        assert list(tb_firstloss.read_first_losses(tmp_path)) == ["whole"]
    assert len(caught) == 1


def test_no_flipped_bit_goes_unnoticed(engine, tmp_path):
    path = record(tmp_path / "run")
    data = path.read_bytes()
    outcomes = set()
    for at in range(0, len(data), 31):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                assert tb_firstloss.read_first_loss(path).digest == first_batch().digest
            except errors.IncompleteRecordingError:
                outcomes.add("incomplete")
                continue
        # The version, a scalar, or the float32 view of a float8: the recording does without them.
        outcomes.add("whole")
        assert [w.category for w in caught] == [errors.DamageWarning], at
    assert outcomes == {"whole", "incomplete"}


def test_a_newer_contract_is_a_clear_error(tmp_path):
    manifest = json.dumps({"contract_version": contract.VERSION + 1})
    value = exact("t/tensors/manifest", shaped(7, [], string_val=[manifest.encode()]))
    (tmp_path / NAME).write_bytes(frame(event(value)))
    with pytest.raises(errors.ContractVersionError, match="upgrade"):
        tb_firstloss.read_first_loss(tmp_path)


def test_a_manifest_that_is_not_text_is_incomplete(tmp_path):
    value = exact("t/tensors/manifest", shaped(1, [2], float_val=[1, 2]))
    (tmp_path / NAME).write_bytes(frame(event(value)))
    with pytest.raises(errors.IncompleteRecordingError, match="manifest"):
        tb_firstloss.read_first_loss(tmp_path)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_reads_them(tmp_path, kind):
    for i in range(5):
        record(tmp_path / f"run_{i}", first_batch(i))
    shutil.copytree(tmp_path / "run_0", tmp_path / "broken")
    (tmp_path / "broken" / NAME).write_bytes(b"")
    with kind(2) as executor, pytest.warns(errors.DamageWarning, match="broken"):
        found = tb_firstloss.read_first_losses(tmp_path, executor=executor)
    assert [found[f"run_{i}"].digest for i in range(5)] == [first_batch(i).digest for i in range(5)]


@pytest.mark.parametrize("delay_secs", [0, 0.1], ids=["fast storage", "slow storage"])
def test_threads_share_the_recordings_where_storage_is_slow(tmp_path, monkeypatch, delay_secs):
    monkeypatch.setattr(recordings, "_FIRST_FILES", 2)
    monkeypatch.setattr(recordings, "_FILES_PER_TASK", 2)
    monkeypatch.setattr(recordings, "_WAIT_PER_FILE", 0.05)
    read, threads = recordings.read_recording, []

    def wait_and_read(*args, **options):
        time.sleep(delay_secs)
        threads.append(threading.get_ident())
        return read(*args, **options)

    monkeypatch.setattr(recordings, "read_recording", wait_and_read)
    for i in range(7):
        record(tmp_path / f"run_{i}", first_batch(i))
    found = tb_firstloss.read_first_losses(tmp_path)
    assert [f.digest for f in found.values()] == [first_batch(i).digest for i in range(7)]
    assert threads[:2] == [threading.get_ident()] * 2
    assert (threading.get_ident() in threads[2:]) == (delay_secs == 0)


def test_first_batches_and_their_errors_survive_pickling(tmp_path):
    path = record(tmp_path / "run")
    first = pickle.loads(pickle.dumps(tb_firstloss.read_first_loss(path)))
    assert first.digest == first_batch().digest
    path.write_bytes(b"")
    with pytest.raises(errors.IncompleteRecordingError) as raised:
        tb_firstloss.read_first_loss(path)
    assert pickle.loads(pickle.dumps(raised.value)).path == str(path)


@pytest.mark.slow
def test_dask_reads_a_fleet_into_one_table(tmp_path):
    import distributed

    for i in range(6):
        record(tmp_path / f"run_{i}", first_batch(i))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = tb_firstloss.read_first_losses(tmp_path, executor=client.get_executor())
        scalars = tb_firstloss.read_scalars(tmp_path, executor=client.get_executor())
    assert [f.digest for f in found.values()] == [first_batch(i).digest for i in range(6)]
    assert scalars.value.tolist() == [float(first_batch(i).loss) for i in range(6)]
