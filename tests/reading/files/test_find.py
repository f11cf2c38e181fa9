"""What counts as an event file, its run's name, and what is in the way."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tb_firstloss
from tb_firstloss import errors
from tb_firstloss.reading.files import find
from tests.helpers.damaged_files import FILE_NAME
from tests.helpers.event_files import event, simple, write


def found_at(path):
    skipped = []
    return find.find_event_files(path, report=skipped.append), skipped


def runs(path):
    return [(d.run, float(d.value)) for d in tb_firstloss.iter_tensors(path, on_damage="raise")]


@pytest.fixture
def logdir(tmp_path):
    root = tmp_path / "logs"
    for number, run in enumerate(["", "a", "a/train", "b/train", "b/eval"]):
        write(root / run / FILE_NAME, event(simple("x", number)))
    (root / "a" / "notes.txt").write_text("no event file")
    (root / "a" / "host.profile-empty").write_text("events.out.tfevents")
    return root


EVERY_RUN = [(".", 0.0), ("a", 1.0), ("a/train", 2.0), ("b/eval", 4.0), ("b/train", 3.0)]


def test_runs_are_named_relative_to_the_logdir(logdir):
    assert runs(logdir) == runs(str(logdir)) == EVERY_RUN
    assert runs(logdir / "a") == [(".", 1.0), ("train", 2.0)]


def test_runs_have_the_names_that_tensorboard_gives_them(logdir):
    from tensorboard.backend.event_processing import io_wrapper

    shown = {os.path.relpath(d, logdir) for d in io_wrapper.GetLogdirSubdirectories(str(logdir))}
    assert {run for run, _ in runs(logdir)} == shown


def test_a_file_is_read_whatever_its_name(tmp_path):
    path = write(tmp_path / "copy.bin", event(simple("x", 1.0)))
    assert runs(path) == [(".", 1.0)]
    assert runs(f"file://{path}") == [(".", 1.0)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/train", [("a/train", 2.0), ("b/train", 3.0)]),
        ("b", [("eval", 4.0), ("train", 3.0)]),
        ("b*", [("b/eval", 4.0), ("b/train", 3.0)]),
        ("**/*tfevents*", EVERY_RUN),
        ("a/[t]rain/*", [("train", 2.0)]),
    ],
)
def test_a_glob_names_runs_from_the_directory_above_it(logdir, pattern, expected):
    assert runs(logdir / pattern) == expected


def test_a_directory_with_glob_characters_is_itself(tmp_path):
    write(tmp_path / "lr[0.1]" / FILE_NAME, event(simple("x", 1.0)))
    assert runs(tmp_path / "lr[0.1]") == [(".", 1.0)]


def test_links_are_followed_but_circles_are_not(logdir):
    (logdir / "linked").symlink_to(logdir / "a" / "train")
    (logdir / "a" / "up").symlink_to(logdir)
    assert ("linked", 2.0) in runs(logdir)
    assert len(runs(logdir)) == 6


@pytest.mark.parametrize("kind", ["fifo", "socket", "broken link", "directory", "loop"])
def test_what_is_merely_named_like_an_event_file_is_skipped_and_reported(logdir, kind, monkeypatch):
    path = logdir / "events.out.tfevents.0.sorts-first"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(logdir)  # a socket's name is short
        socket.socket(socket.AF_UNIX).bind(path.name)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else logdir / "nowhere")
    found, skipped = found_at(logdir)
    assert [file.run for file in found] == [run for run, _ in EVERY_RUN]
    assert [(d.path, d.kind) for d in skipped] == [(str(path), "unreadable")]
    with pytest.warns(errors.DamageWarning, match="sorts-first: named like an event file, but"):
        assert len(list(tb_firstloss.iter_tensors(logdir))) == 5


def test_a_fifo_given_by_name_raises_instead_of_hanging(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.EventFileError, match="pipe: not a regular file"):
        list(tb_firstloss.iter_tensors(tmp_path / "pipe", on_damage="raise"))


def test_a_file_or_directory_without_permission_is_reported(logdir):
    """As another user, since root may read anything; hence below a directory that all may enter."""
    script = """
import os, sys
sys.path.insert(0, os.getcwd())
import tb_firstloss
list(tb_firstloss.iter_tensors(sys.argv[1]))  # imports what it needs, while it may
tb_firstloss.verify(sys.argv[1])
os.chmod(sys.argv[1] + "/a/" + sys.argv[2], 0)
os.chmod(sys.argv[1] + "/b", 0)
if os.getuid() == 0:
    os.setuid(65534)
print([d.run for d in tb_firstloss.iter_tensors(sys.argv[1], on_damage="ignore")])
print(*tb_firstloss.verify(sys.argv[1]), sep="\\n")
"""
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        copy = shutil.copytree(logdir, f"{open_to_all}/logs")
        done = subprocess.run(
            [sys.executable, "-c", script, copy, FILE_NAME],
            capture_output=True,
            text=True,
            check=False,
        )
        Path(copy, "b").chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "['.', 'a/train']"
    assert "cannot be opened (Permission denied)" in lines[1]
    assert "cannot be listed (Permission denied)" in lines[2]


@pytest.mark.parametrize(
    "path", ["no/such/place", "a\0b", "none/*"], ids=["missing", "NUL", "glob"]
)
def test_a_path_to_nothing_raises_one_clear_line(path):
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        tb_firstloss.iter_tensors(path)


@pytest.fixture
def bucket(logdir):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in logdir.rglob("*tfevents*"):
        memory.pipe(f"/bucket/{path.relative_to(logdir)}", path.read_bytes())
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_a_bucket_reads_like_a_directory(bucket):
    assert runs(bucket) == EVERY_RUN
    assert runs(f"{bucket}/a") == [(".", 1.0), ("train", 2.0)]
    assert runs(f"{bucket}/*/train") == [("a/train", 2.0), ("b/train", 3.0)]
    assert runs(f"{bucket}/a/train/{FILE_NAME}") == [(".", 2.0)]


def test_of_a_remote_file_only_the_head_is_fetched(bucket, monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/big/" + FILE_NAME, memory.cat("/bucket/a/" + FILE_NAME) * 20_000)
    fetched = []
    original = type(memory).cat_file

    def counting(self, path, start=None, end=None, **options):
        fetched.append((start, end))
        return original(self, path, start=start, end=end, **options)

    monkeypatch.setattr(type(memory), "cat_file", counting)
    data = tb_firstloss.iter_tensors(f"{bucket}/big")
    assert float(next(data).value) == 1.0
    assert fetched == [(0, 1 << 16)]


def test_a_missing_bucket_an_unknown_protocol_and_a_missing_package_are_clear_lines(monkeypatch):
    with pytest.raises(FileNotFoundError, match="memory://nothing: no such file"):
        tb_firstloss.iter_tensors("memory://nothing")
    with pytest.raises(ValueError, match="nosuch://bucket: "):
        tb_firstloss.iter_tensors("nosuch://bucket")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(errors.MissingDependencyError, match=r"tb-firstloss\[remote\]"):
        tb_firstloss.iter_tensors("memory://bucket")
