"""Names from files, in every command and on both streams: shown on one line, steering nothing."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tb_firstloss import contract
from tests.helpers.event_files import event, frame, simple, version
from tests.reading.test_hostile_recordings import NAME, record

ODD = {
    "escape": b"\x1b[31mred",
    "newline": b"a\nb",
    "undecodable": b"\xe9t\xe9",
    "reversed": "\u202eback".encode(),
}
SHOWN = {
    "escape": r"\x1b[31mred",
    "newline": r"a\nb",
    "undecodable": r"\udce9t\udce9",
    "reversed": r"\u202eback",
}
LOCALES = {
    "UTF-8": {"PYTHONUTF8": "1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
COMMANDS = {
    "show": (["show"], 1),
    "show-json": (["show", "--json"], 1),
    "check": (["check", "--expect", "9"], 1),
    "compare": (["compare", "{logdir}/plain"], 1),
    "tags": (["tags"], 1),
    "verify": (["verify"], 1),
    "watch": (["watch", "--timeout", "0.3", "--interval", "0.1"], 0),
    "profile": (["profile"], 1),
}


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """A recording, a damaged one and damaged training logs in a run of each odd name."""
    logdir = tmp_path_factory.mktemp("logs")
    record(logdir / "plain")
    for name in ODD.values():
        run = logdir / os.fsdecode(name)
        record(run)
        shutil.copytree(run, run / "damaged")
        with (run / "damaged" / NAME).open("r+b") as file:
            file.truncate(100)
        tag = name.decode(errors="replace")
        data = frame(version()) + frame(event(simple(tag, 1.0)))
        (run / "events.out.tfevents.1.host").write_bytes(data + b"junk" * 20)
    return logdir


def run(words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tb_firstloss", *words],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_steers_no_terminal(logdir, command, locale):
    words, code = COMMANDS[command]
    done = run([*(word.format(logdir=logdir) for word in words), logdir], **LOCALES[locale])
    assert done.returncode == code
    for stream in (done.stdout, done.stderr):
        text = stream.decode("ascii" if locale == "C" else "utf-8")
        assert all(line.isprintable() for line in text.split("\n"))
        assert "Traceback" not in text
    if command == "show-json":
        runs = [each["run"] for each in json.loads(done.stdout)]
        encoding = "ascii" if locale == "C" else "utf-8"
        odd = [name.decode(encoding, "surrogateescape") for name in ODD.values()]
        assert sorted(runs) == sorted(["plain", *odd])
    elif command != "profile":
        shown = (done.stdout + done.stderr).decode()
        # Under LANG=C, a file's name is bytes beyond ASCII.
        names = {**SHOWN, "reversed": r"\udcaeback"} if locale == "C" else SHOWN
        assert all(name in shown for name in names.values())


@pytest.mark.parametrize("name", ODD)
def test_a_path_that_is_not_there_is_named_on_one_line(tmp_path, name):
    for words in (["show"], ["tags"], ["check", "--expect", "1", "--rtol"]):
        done = run([*words, os.fsencode(tmp_path) + b"/" + ODD[name]])
        assert done.returncode == 2
        assert SHOWN[name] in done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_the_caller_has_closed_is_no_traceback(logdir, stream):
    number = {"stdout": 1, "stderr": 2}[stream]
    command = f"{sys.executable} -m tb_firstloss show '{logdir}/plain' {number}>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("plain" in done.stdout or "." in done.stdout) == (stream == "stderr")


@pytest.mark.parametrize("option", ["--timeout", "--interval"])
@pytest.mark.parametrize("seconds", ["1e10", "inf", "nan", "-1"])
def test_watch_says_in_one_line_how_long_it_can_wait(tmp_path, option, seconds):
    done = run(["watch", tmp_path, option, seconds])
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"tb-firstloss: {option} {seconds.replace('1e10', '')}")
    assert done.stderr.count(b"\n") == 1


def test_check_has_a_row_for_a_run_without_a_loss(tmp_path):
    record(tmp_path / "first_batch-no-loss", None)
    expect = ["check", "--expect", "2.33", tmp_path]
    alone = run(expect)
    assert (alone.returncode, alone.stderr) == (1, b"")
    record(tmp_path / "first_batch")
    done = run(expect)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.rpartition("  ")[2].strip() for line in done.stdout.decode().splitlines()[2:]] == [
        "ok",
        "no loss",
    ]
    facts = json.loads(run([*expect, "--json"]).stdout)
    assert [each["kind"] for each in facts] == ["ok", "no loss"]


def test_compare_passes_over_a_run_without_a_loss(tmp_path):
    for side in ("before", "after"):
        record(tmp_path / side / "first_batch-no-loss", None)
        record(tmp_path / side / "first_batch")
    done = run(["compare", tmp_path / "before", tmp_path / "after"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"identical") == 1


METADATA = {
    "expected": {"expected_loss": {"y": [1]}},
    "expected truth": {"expected_loss": True},
    "expected names": {"expected_loss": {"": {}}},
    "expected size": {"expected_loss": 10**400},
    "unseen": {"unseen_losses": {"a": 1}, "expected_loss": 1.0},
    "fingerprint": {"fingerprint": {"batch": {}, "weights": []}},
}


@pytest.mark.parametrize("metadata", METADATA)
def test_metadata_of_any_kind_is_one_line_at_most(tmp_path, metadata):
    for name in "ab":
        record(tmp_path / name, change=lambda facts: facts.update(metadata=METADATA[metadata]))
    for words in (["check"], ["compare", tmp_path / "a"], ["show", "--json"], ["show"]):
        done = run([*words, tmp_path])
        assert b"Traceback" not in done.stderr
        assert done.returncode == (2 if words == ["check"] else 0)
        assert done.stderr.count(b"\n") == (2 if words == ["check"] else 0)


def test_a_complex_loss_is_a_damaged_recording(tmp_path):
    def make_complex(facts):
        facts["outputs"][0]["per_example"]["dtype"] = "complex64"

    record(tmp_path / "complex", change=make_complex)
    done = run(["check", "--expect", "1", tmp_path])
    assert done.returncode == 1
    assert b"per_example.dtype is 'complex64'" in done.stderr
    assert contract.FILE_SUFFIX.encode() in done.stderr
