import contextlib
import os
import pickle
import re
import resource
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, iter_tensors, read_first_loss, read_first_losses, verify
from tb_firstloss.capture.writing import durable
from tb_firstloss.errors import CaptureWarning, NotDurableError

PLAIN = {"graph": False, "profile": False}
LOSS = np.arange(2000, dtype=np.float32)  # 8 kB


@contextlib.contextmanager
def file_size_limit(size):
    """Cuts off the files that this process writes at a size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def event_files(path):
    return list(path.rglob("*tfevents*"))


@pytest.mark.parametrize("limit", [0, 50, 1000, 4000, 8000])
def test_a_write_cut_short_is_detected_and_training_goes_on(tmp_path, limit):
    first = FirstLoss(tmp_path / "logs", **PLAIN)
    step = first.wrap(lambda: tf.constant(LOSS))
    with (
        file_size_limit(limit),
        pytest.warns(CaptureWarning, match="kept in memory only") as caught,
    ):
        returned = step()
    (warning,) = caught
    assert "above the limit on file sizes (ulimit -f): File too large; " in str(warning.message)
    assert returned.numpy().tobytes() == first.first_batch.per_example.tobytes() == LOSS.tobytes()
    step()
    assert event_files(tmp_path) == []


def test_a_write_cut_short_raises_when_asked(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    with file_size_limit(4000), pytest.raises(NotDurableError) as caught:
        first.record(LOSS)
    assert caught.value.path == first.run_dir
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path) == (str(caught.value), first.run_dir)
    assert first.first_batch.count == 2000


@pytest.mark.parametrize("room", [60, 200, 1000])
def test_the_values_survive_when_what_follows_them_cannot_be_written(tmp_path, room, caplog):
    """The graph no longer fits: the values stay, and nothing torn stays behind them."""
    FirstLoss(tmp_path / "whole", **PLAIN).record(LOSS)
    first = FirstLoss(tmp_path / "logs", profile=False)
    step = first.wrap(tf.function(lambda: tf.constant(LOSS) + 0))
    with file_size_limit(end_of_manifest(tmp_path / "whole") + room):
        step()
    assert read_first_loss(tmp_path / "logs").per_example.tobytes() == LOSS.tobytes()
    assert verify(tmp_path / "logs") == []
    assert "they could not be written (above the limit on file sizes" in caplog.text


def test_after_a_failed_write_the_default_writer_is_the_users_again(tmp_path):
    first = FirstLoss(tmp_path / "logs", **PLAIN)
    with tf.summary.create_file_writer(str(tmp_path / "mine")).as_default():
        with file_size_limit(1000), pytest.warns(CaptureWarning, match="kept in memory only"):
            first.record(LOSS)
        tf.summary.scalar("mine", 1.0, step=0)
    assert [datum.tag for datum in iter_tensors(tmp_path / "mine")] == ["mine"]
    assert not tf.summary.should_record_summaries()


def end_of_manifest(path):
    """Returns the byte at which the values end, by walking the frames."""
    (file,) = event_files(path)
    data, position = file.read_bytes(), 0
    while True:
        (length,) = struct.unpack_from("<Q", data, position)
        position += 8 + 4 + length + 4
        if b"tensors/manifest" in data[position - length - 4 : position]:
            return position


@contextlib.contextmanager
def small_disk(path, options):
    """A separate file system, if root may mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; RLIMIT_FSIZE is tested above")
@pytest.mark.parametrize("size", ["4k", "16k", "64k"])
def test_a_full_disk_is_reported_with_its_free_space(tmp_path, size):
    with small_disk(tmp_path / "disk", f"size={size}") as disk:
        first = FirstLoss(disk / "logs", **PLAIN)
        free = r"disk full: No space left on device \([\d,]+ bytes are free on its file system\)"
        with pytest.warns(CaptureWarning, match=f"{free}; the first loss is kept in memory"):
            first.record(np.zeros(20_000))
        assert first.first_batch.count == 20_000
        assert [path for path in disk.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; RLIMIT_FSIZE is tested above")
@pytest.mark.parametrize("kilobytes", range(168, 200, 8))
def test_a_disk_that_fills_up_after_the_values_is_named(tmp_path, kilobytes, caplog):
    """The values fit, and the graph does not."""
    with small_disk(tmp_path / "disk", f"size={kilobytes}k") as disk:
        first = FirstLoss(disk / "logs", profile=False, on_error="raise")
        weights = tf.Variable(tf.zeros([8]))

        @tf.function
        def step():
            for _ in range(150):
                weights.assign_add(tf.sin(weights) + 1)
            return tf.zeros([19_000], tf.float64)

        first.wrap(step)()
        assert read_first_loss(disk).per_example.shape == (19_000,)
        assert verify(disk) == []
    assert "they could not be written (disk full: No space left on device (" in caplog.text


def test_a_disk_that_takes_the_file_after_all_is_blamed_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: [file.unlink() for file in event_files(tmp_path)]
    )
    with pytest.warns(CaptureWarning, match="logs/first_batch: .*No such file") as caught:
        FirstLoss(tmp_path / "logs", **PLAIN).record(LOSS)
    assert "disk full" not in str(caught[0].message)


WAITS = "; training waits for this storage"


@pytest.mark.parametrize(
    ("slow", "what"),
    [
        ("mkdir", "creating the run directory"),
        ("flush", "writing"),
        ("fsync", "syncing"),
        ("read", "reading back"),
        ("graph", "adding graph and report"),
    ],
)
def test_slow_storage_is_said_in_one_line_after_a_second(tmp_path, monkeypatch, ours, slow, what):
    places = {
        "mkdir": (Path, "mkdir"),
        "flush": (tf.summary, "write"),
        "fsync": (os, "fsync"),
        "read": (durable, "read_first_loss"),
        "graph": (durable.summaries, "write_text"),
    }
    real, waited = getattr(*places[slow]), []

    def wait(*args, **kwargs):
        if not waited and (slow != "fsync" or event_files(tmp_path)):
            waited.append(time.sleep(1.2))
        return real(*args, **kwargs)

    monkeypatch.setattr(*places[slow], wait)
    FirstLoss(tmp_path / "logs", on_error="raise", **PLAIN).record(LOSS)
    where = tmp_path / "logs" if slow == "mkdir" else tmp_path / "logs" / "first_batch"
    said = [line for line in ours() if WAITS in line]
    assert said == [f"{where}: still {what} after 1 s{WAITS}"]
    FirstLoss(tmp_path / "logs", on_error="raise", **PLAIN).record(LOSS)
    time.sleep(1.1)
    assert [line for line in ours() if WAITS in line] == said


def test_the_report_says_what_training_waited_for(tmp_path, monkeypatch):
    real = os.fsync

    def slow(descriptor):
        time.sleep(0.2)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    FirstLoss(tmp_path, on_error="raise", **PLAIN).record(LOSS)
    (text,) = [d.value.item().decode() for d in iter_tensors(tmp_path) if d.tag.endswith("/report")]
    row = re.search(
        r"values on disk after \| writing (\S+) s, syncing (\S+) s, reading back (\S+) s \|", text
    )
    writing, syncing, reading = map(float, row.groups())
    assert 0.4 <= syncing < 1  # the file and its directory
    assert 0 < writing < 0.4
    assert 0 < reading < 0.4


def test_a_process_that_may_start_no_thread_records(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    FirstLoss(tmp_path, on_error="raise", **PLAIN).record(LOSS)
    assert read_first_loss(tmp_path).count == 2000


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; others are tested below")
def test_a_read_only_disk_is_reported(tmp_path):
    with small_disk(tmp_path / "disk", "ro") as disk:
        first = FirstLoss(disk / "logs", **PLAIN)
        with pytest.warns(CaptureWarning, match="Read-only file system"):
            first.record(LOSS)
        assert first.first_batch.per_example.tobytes() == LOSS.tobytes()


def test_file_names_differ_where_host_process_and_second_are_the_same(tmp_path):
    for logdir in ("one", "other"):
        FirstLoss(tmp_path / logdir, on_error="raise", **PLAIN).record(LOSS)
    # TensorFlow puts time, host, process id and a count in front.
    names = {file.name.rsplit(".", 3)[1] for file in event_files(tmp_path)}
    assert len(names) == 2


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("odd")], ids=["memory", "other"])
def test_whatever_fails_before_the_values_are_safe_leaves_no_file(tmp_path, monkeypatch, error):
    real, calls = os.fsync, []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:  # past the directories that the recording creates
            raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    first = FirstLoss(tmp_path / "logs", **PLAIN)
    with pytest.warns(CaptureWarning, match="(MemoryError|odd); the first loss is kept in memory"):
        first.record(LOSS)
    assert first.first_batch.per_example.tobytes() == LOSS.tobytes()
    assert event_files(tmp_path) == []


def test_a_directory_removed_during_the_step_is_created_again(tmp_path):
    def step():
        shutil.rmtree(tmp_path / "logs")
        return tf.constant(1.0)

    FirstLoss(tmp_path / "logs", on_error="raise", **PLAIN).wrap(step)()
    assert read_first_loss(tmp_path / "logs").loss == 1


def test_a_directory_removed_during_the_write_is_reported(tmp_path, monkeypatch):
    real = tf.summary.write

    def write(*args, **kwargs):
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        return real(*args, **kwargs)

    monkeypatch.setattr(tf.summary, "write", write)
    with pytest.warns(CaptureWarning, match="was the directory removed|No such file"):
        FirstLoss(tmp_path / "logs", **PLAIN).record(LOSS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_logdir_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(CaptureWarning, match="Permission denied"):
        FirstLoss(tmp_path / "logs", **PLAIN).record(1.0)


def test_a_file_altered_before_it_is_read_back_is_detected(tmp_path, monkeypatch):
    real = os.fsync

    def alter(descriptor):
        real(descriptor)
        for file in event_files(tmp_path):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] = 0x55
            file.write_bytes(data)

    monkeypatch.setattr(os, "fsync", alter)
    first = FirstLoss(tmp_path, **PLAIN)
    with pytest.warns(CaptureWarning, match="not what was captured"):
        first.record(LOSS)


def record_one(arguments):
    logdir, number = arguments
    first = FirstLoss(logdir, on_error="raise", **PLAIN)
    first.record(np.float32(number))
    return first.run_dir


@pytest.mark.slow
def test_processes_on_one_logdir_each_get_their_own_run(tmp_path):
    script = (
        "import sys; from tests.capture.writing.test_durable import record_one\n"
        "print(record_one(sys.argv[1:]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(number)],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    run_dirs = [process.communicate()[0].split()[-1] for process in processes]
    assert len(set(run_dirs)) == 3
    assert sorted(float(f.loss) for f in read_first_losses(tmp_path).values()) == [0, 1, 2]


def test_threads_on_one_logdir_each_get_their_own_run(tmp_path):
    threads = [
        threading.Thread(target=record_one, args=((tmp_path, number),)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(float(f.loss) for f in read_first_losses(tmp_path).values()) == list(range(8))


def test_a_fork_after_the_capture_duplicates_nothing(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    first.record(LOSS)
    (file,) = event_files(tmp_path)
    before = file.read_bytes()
    code = os.fork()
    if code == 0:
        first.record(2 * LOSS)
        os._exit(0)
    os.waitpid(code, 0)
    assert event_files(tmp_path) == [file]
    assert file.read_bytes() == before


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_follow_the_users_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        FirstLoss(tmp_path / "logs", on_error="raise").wrap(lambda: tf.constant(1.0))()
    finally:
        os.umask(before)
    for path in (tmp_path / "logs").rglob("*"):
        full = 0o777 if path.is_dir() else 0o666
        if "plugins" not in path.parts:  # the profiler sets its own modes
            assert stat.S_IMODE(path.stat().st_mode) == full & ~umask, path


def test_a_store_that_only_tensorflow_can_reach_is_read_back_too():
    first = FirstLoss("ram://here/logs", on_error="raise", **PLAIN)
    first.record(LOSS)
    assert first.run_dir == "ram://here/logs/first_batch"
    (file,) = tf.io.gfile.glob("ram://here/logs/first_batch/*")
    assert tf.io.gfile.stat(file).length > LOSS.nbytes


def test_a_store_that_loses_bytes_is_detected(monkeypatch):
    real = tf.io.gfile.copy

    def cut(source, target):
        real(source, target)
        os.truncate(target, 3000)

    monkeypatch.setattr(tf.io.gfile, "copy", cut)
    with pytest.warns(CaptureWarning, match="not what was captured"):
        FirstLoss("ram://there/logs", **PLAIN).record(LOSS)


def strace_of(tmp_path):
    """Runs two steps under strace, and returns the system calls in order."""
    script = tmp_path / "job.py"
    script.write_text(
        "import tensorflow as tf\n"
        "from tb_firstloss import FirstLoss\n"
        "function = tf.function(lambda x: tf.sin(x) + 1)\n"
        "def step(i):\n"
        f"    open({str(tmp_path)!r} + f'/step{{i}}', 'w').close()\n"
        "    return function(tf.ones([4]))\n"
        f"step = FirstLoss({str(tmp_path / 'new' / 'logs')!r}, profile=False).wrap(step)\n"
        "step(0); step(1)\n"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,openat", "-o", str(trace)]
    subprocess.run([*command, sys.executable, str(script)], check=True)
    return trace.read_text().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("strace") and not os.environ.get("CI"), reason="strace is not installed"
)
def test_file_and_directories_are_synced_once_each_before_step_1(tmp_path):
    lines = strace_of(tmp_path)

    def index(word):
        return next(i for i, line in enumerate(lines) if "openat" in line and word in line)

    synced = [
        (i, found.group(1))
        for i, line in enumerate(lines)
        if (found := re.search(rf"sync\(\d+<({tmp_path}[^>]*)>", line))
    ]
    (file,) = event_files(tmp_path)
    run_dir = tmp_path / "new" / "logs" / "first_batch"
    assert sorted(path for _, path in synced) == sorted(
        map(str, [tmp_path, tmp_path / "new", tmp_path / "new" / "logs", run_dir, file])
    )
    during = {path for i, path in synced if i > index("/step0")}
    assert during == {str(run_dir), str(file)}  # the others exist before the step
    assert all(i < index("/step1") for i, _ in synced)


def test_nothing_of_the_training_data_is_stored(tmp_path):
    secret = np.frombuffer(b"CONFIDENTIAL DATA" * 8, np.uint8).astype(np.float32)
    step = FirstLoss(tmp_path, fingerprint=True, on_error="raise").wrap(
        tf.function(lambda x: tf.reduce_sum(x) * tf.ones([4]))
    )
    step(tf.constant(secret))
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.tobytes() not in stored
    assert secret[:8].tobytes() not in stored
