"""What counts as an event file, its run's name, and what is in the way."""

import ntpath
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


def cross(root, levels):
    """Makes directories d0, d1 … of which each has two links to the next; the last has a file."""
    for level in range(levels + 1):
        (root / f"d{level}").mkdir(parents=True)
    for level in range(levels):
        for name in "ab":
            (root / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    write(root / f"d{levels}" / FILE_NAME, event(simple("x", 1.0)))


def test_links_that_cross_a_little_name_every_run(tmp_path):
    cross(tmp_path, 3)
    found, skipped = found_at(tmp_path)
    paths = {"d3"} | {"d2/" + c for c in "ab"} | {f"d1/{c}/{e}" for c in "ab" for e in "ab"}
    paths |= {f"d0/{c}/{e}/{g}" for c in "ab" for e in "ab" for g in "ab"}
    assert ({file.run for file in found}, skipped) == (paths, [])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", ["", "**/*tfevents*", "**", "**/a", "*/**/b/**"])
def test_links_that_cross_often_are_read_in_moments_and_said(tmp_path, pattern):
    cross(tmp_path, 24)  # 16 million paths to the last one
    found, skipped = found_at(tmp_path / pattern)
    assert 0 < len(found) < 10_000
    assert len({file.run for file in found}) == len(found)
    assert skipped
    assert all("links lead here" in damage.message for damage in skipped)


def test_a_directory_is_read_under_its_own_name_however_many_links_lead_there(tmp_path):
    write(tmp_path / "z" / "deep" / FILE_NAME, event(simple("x", 1.0)))
    for number in range(1200):
        (tmp_path / f"a{number:04}").symlink_to("z")
    found, skipped = found_at(tmp_path)
    assert (found[-1].run, found[0].run) == ("z/deep", "a0000/deep")
    assert 100 < len(found) < 1200
    assert [Path(damage.path).parent for damage in skipped] == [tmp_path]


@pytest.mark.parametrize("pattern", ["**/*tfevents*", "*/**/*tfevents*", "**"])
def test_two_stars_match_what_glob_matches(logdir, pattern):
    write(logdir / ".hidden" / FILE_NAME, event(simple("x", 1.0)))
    write(logdir / "b" / "x[1]" / FILE_NAME, event(simple("x", 1.0)))
    found = {Path(file.path) for file in found_at(logdir / pattern)[0]}
    matched = set(map(Path, logdir.glob(pattern if pattern != "**" else "**/*tfevents*")))
    hidden = {path for path in matched if ".hidden" in path.parts}
    assert found - hidden == matched - hidden
    assert bool(found & hidden) == (pattern == "**")


def test_two_stars_follow_links_to_runs(logdir):
    (logdir / "linked").symlink_to(logdir / "a" / "train")
    assert ("linked", 2.0) in runs(logdir / "**" / "*tfevents*")


@pytest.mark.parametrize(
    "names",
    [
        ["events.out.tfevents.1600000000.host.5.9", "events.out.tfevents.1600000000.host.5.10"],
        ["events.out.tfevents.16.host.5.99.v2", "events.out.tfevents.16.host.5.100.v2"],
        ["events.out.tfevents.999999999.b", "events.out.tfevents.1000000000.a"],
        ["events.out.tfevents.16.node9.1", "events.out.tfevents.16.node10.1"],
        ["events.out.tfevents.16.host.5.9", "events.out.tfevents.16.host.5.9.v2"],
        ["events.out.tfevents.16.host.5.007", "events.out.tfevents.16.host.5.7"],
        ["events.out.tfevents." + "1" * 200 + ".9", "events.out.tfevents." + "1" * 200 + ".10"],
    ],
    ids=["number", "hundredth", "seconds", "host", "suffix", "same number", "long"],
)
def test_files_of_a_run_are_read_in_the_order_of_their_numbers(tmp_path, names):
    for number, name in reversed(list(enumerate(names))):
        write(tmp_path / name, event(simple("x", number)))
    assert [value for _, value in runs(tmp_path)] == [0.0, 1.0]
    assert runs(tmp_path / "*")[-1] == (".", 1.0)
    assert tb_firstloss.read_scalars(tmp_path, keep="last").value.tolist() == [1.0]


@pytest.mark.parametrize("below", ["logs", "logs/*", "logs/**", f"logs/{FILE_NAME}"])
def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch, below):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "logs" / FILE_NAME, event(simple("x", 5.0)))
    assert runs(f"~/{below}") == runs(Path("~", below)) == [(".", 5.0)]
    assert len(tb_firstloss.read_scalars(f"~/{below}")) == 1
    assert tb_firstloss.verify(f"~/{below}") == []
    assert next(tb_firstloss.follow(f"~/{below}")).value == 5.0
    assert tb_firstloss.read_first_losses("~/logs") == {}
    assert list(tb_firstloss.iter_events(f"~/{below}"))


def test_a_directory_named_like_a_home_that_no_user_has_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~no-such-user" / FILE_NAME, event(simple("x", 5.0)))
    assert runs("~no-such-user") == [(".", 5.0)]


def test_a_backslash_in_a_name_stays_one(tmp_path):
    write(tmp_path / "lr\\0.1" / FILE_NAME, event(simple("x", 5.0)))
    assert runs(tmp_path) == runs(f"{tmp_path}/*") == [("lr\\0.1", 5.0)]


@pytest.mark.parametrize(
    ("pattern", "above"),
    [
        ("C:\\logs\\*", "C:\\logs"),
        ("C:\\logs\\a*\\train\\*", "C:\\logs"),
        ("C:/logs\\run[12]", "C:/logs"),
        ("logs\\**\\*tfevents*", "logs"),
        ("*", "."),
    ],
)
def test_runs_of_a_glob_are_named_from_the_directory_above_on_windows(monkeypatch, pattern, above):
    monkeypatch.setattr(os, "path", ntpath)
    assert find._glob_prefix(pattern) == above


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
    with pytest.raises(errors.MissingDependencyError, match="pip install fsspec"):
        tb_firstloss.iter_tensors("memory://bucket")
