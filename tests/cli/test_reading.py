"""The commands tags, export, verify and watch on real runs."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
import tensorflow as tf

from tb_firstloss import read_scalars
from tb_firstloss.cli import main
from tests.helpers.event_files import event, floats, simple, tensor, version, write
from tests.helpers.recorded import record


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A recording, and a run of three steps written by TensorFlow."""
    logdir = tmp_path_factory.mktemp("runs")
    record(logdir / "a", [1.0, 3.0], total=2.5)
    with tf.summary.create_file_writer(str(logdir / "train")).as_default():
        for step in range(3):
            tf.summary.scalar("epoch/loss", 1 / (step + 1), step=step)
        tf.summary.text("note", ["x", "y"], step=7)
    return logdir


@pytest.fixture
def logdir(recordings, tmp_path):
    """A copy to damage or to add to."""
    return shutil.copytree(recordings, tmp_path / "copy")


def rows_of(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_tags_lists_kind_count_and_steps(recordings, capsys):
    assert main(["tags", str(recordings), "--run", "train"]) == 0
    assert rows_of(capsys)[2:] == [
        ["train", "scalars", "3", "0", "to", "2", "float32[]", "epoch/loss"],
        ["train", "text", "1", "7", "string[2]", "note"],
    ]


def test_tags_are_chosen_by_globs(recordings, capsys):
    arguments = ["tags", str(recordings), "--tag", "*/loss", "--tag", "note", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["tag"]) for row in found] == [
        ("a/first_batch", "first_batch/loss"),
        ("a/first_batch", "first_batch/tensors/losses/loss"),
        ("train", "epoch/loss"),
        ("train", "note"),
    ]


def test_no_tags_is_a_finding_and_a_missing_path_is_misuse(tmp_path, capsys):
    assert main(["tags", str(tmp_path)]) == 1
    assert "no values found" in capsys.readouterr().err
    assert main(["tags", str(tmp_path), "--quiet"]) == 1
    assert capsys.readouterr().err == ""
    assert main(["tags", str(tmp_path / "missing")]) == 2


def test_export_streams_csv_that_reads_back_exactly(recordings, capfdbinary):
    assert main(["export", str(recordings), "--run", "train"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode())))
    expected = read_scalars(recordings, runs="train")
    assert [float(row["value"]) for row in rows] == expected.value.tolist()
    assert [float(row["wall_time"]) for row in rows] == expected.wall_time.tolist()
    assert {(row["run"], row["tag"]) for row in rows} == {("train", "epoch/loss")}


def test_export_writes_parquet_of_several_paths(recordings, tmp_path, capsys):
    path = tmp_path / "out.parquet"
    sources = [str(recordings / "a"), str(recordings / "train"), str(recordings / "train")]
    assert main(["export", *sources, "--tag", "*loss", "-o", str(path)]) == 0
    table = pyarrow.parquet.read_table(path).to_pandas()
    assert table["run"].tolist() == [
        str(recordings / "a" / "first_batch"),
        *[str(recordings / "train")] * 6,
    ]
    assert table["value"].tolist()[0] == 2.5
    assert set(table["tag"]) == {"first_batch/loss", "epoch/loss"}
    assert "7 rows" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("appended", [False, True], ids=["pipe", "file"])
def test_export_writes_into_an_open_file_without_force(recordings, tmp_path, place, appended):
    words = [sys.executable, "-m", "tb_firstloss", "export", str(recordings), "-q"]
    expected = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    words += ["--format", "csv", "-o", place]
    if not appended:
        assert subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout == expected
        return
    (tmp_path / "out").write_bytes(b"before\n")
    with (tmp_path / "out").open("ab") as out:
        subprocess.run(words, stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"before\n" + expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_export_that_is_ended_leaves_nothing_behind(recordings, tmp_path, number):
    os.mkfifo(tmp_path / "pipe.csv")  # which nobody reads, so that it waits
    (tmp_path / "temporary").mkdir()
    words = [sys.executable, "-m", "tb_firstloss", "export", str(recordings)]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen([*words, "-o", str(tmp_path / "pipe.csv")], env=environment) as process:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in (tmp_path / "temporary").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert list((tmp_path / "temporary").iterdir()) == []
    assert (tmp_path / "pipe.csv").is_fifo()


def test_export_replaces_a_file_only_with_force(recordings, tmp_path, capsys):
    path = tmp_path / "out.csv"
    path.write_text("precious")
    assert main(["export", str(recordings), "-o", str(path)]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert main(["export", str(recordings), "-o", str(path), "--force", "--quiet"]) == 0
    assert path.read_text().startswith("run,tag,step")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "parquet"], 2, "give -o FILE"),
        (["-o", "{0}/out.xls"], 2, "give --format"),
        (["-o", "{0}/missing/out.csv"], 2, "No such file"),
        (["--run", "nothing"], 1, "nothing to export"),
    ],
    ids=["parquet-to-stdout", "unknown-ending", "no-directory", "no-rows"],
)
def test_export_says_what_it_cannot_write(recordings, tmp_path, capsys, arguments, code, message):
    arguments = [word.format(tmp_path) for word in arguments]
    assert main(["export", str(recordings), *arguments]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def restarted(tmp_path):
    """A run of steps 0 to 3, killed while it wrote the last, and resumed at step 2."""
    for i, steps in enumerate((range(4), range(2, 4))):
        events = [event(simple("loss", i + s), simple("acc", -float(s)), step=s) for s in steps]
        write(tmp_path / "runs" / "one" / f"events.out.tfevents.{i}.host", version(), *events)
    first = tmp_path / "runs" / "one" / "events.out.tfevents.0.host"
    first.write_bytes(first.read_bytes()[:-5])
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--wide", "--keep", "resumed"], ["0,0.0,-0.0", "1,1.0,-1.0", "2,3.0,-2.0", "3,4.0,-3.0"]),
        (["--wide", "--keep", "first", "--steps", "2"], ["2,2.0,-2.0"]),
        (["--wide", "--keep", "last", "--steps", "1,2"], ["1,1.0,-1.0", "2,3.0,-2.0"]),
        (["--wide", "--last"], ["3,4.0,-3.0"]),
        (["--wide", "--last", "--steps", ":2"], ["1,1.0,-1.0"]),
        (["--wide", "--steps", "3:"], ["3,4.0,-3.0"]),
        (["--wide", "--steps", "::3"], ["0,0.0,-0.0", "3,4.0,-3.0"]),
    ],
    ids=" ".join,
)
def test_export_chooses_and_widens(restarted, capfd, arguments, expected):
    assert main(["export", str(restarted), *arguments]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == ["run,step,loss,acc", *(f"one,{row}" for row in expected)]
    assert err.count("truncated record") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wide"], "pivot: several values of one loss at step 2, one acc at step 2"),
        (["--steps", "x"], "argument --steps: invalid steps value: 'x'"),
        (["--steps", "1:2:0"], "argument --steps: invalid steps value: '1:2:0'"),
        (["--steps", "1:2:3:4"], "argument --steps: invalid steps value: '1:2:3:4'"),
    ],
    ids=" ".join,
)
def test_export_says_which_values_or_steps_it_cannot_place(restarted, capsys, arguments, message):
    command = ["export", str(restarted), *arguments]
    try:
        assert main(command) == 2
    except SystemExit as error:  # argparse's way out
        assert error.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["tags"], ["export"], ["verify"], ["watch", "--timeout", "0.5"]],
    ids=lambda words: words[0],
)
def test_a_killed_runs_cut_last_record_is_only_a_warning(restarted, capsys, arguments):
    assert main([arguments[0], str(restarted), *arguments[1:]]) == 0
    text = "".join(capsys.readouterr())
    assert text.count("truncated record") == (0 if arguments[0] == "watch" else 1)


@pytest.mark.parametrize("behind", [b"", b"more"], ids=["at the end", "before the end"])
def test_other_damage_than_the_cut_is_a_finding(restarted, capsys, behind):
    path = restarted / "one" / "events.out.tfevents.0.host"
    content = path.read_bytes()
    whole = (restarted / "one" / "events.out.tfevents.1.host").read_bytes()
    path.write_bytes(content + whole if behind else content[:-40] + b"?" + content[-39:])
    assert main(["tags", str(restarted)]) == main(["verify", str(restarted)]) == 1


def test_tags_names_each_kind_of_content_once(tmp_path, capsys):
    made = [tensor("t", floats([2, 3], [0] * 6)), tensor("t", floats([4], [0] * 4))]
    write(tmp_path / "events.out.tfevents.1.host", *(event(made[i % 2]) for i in range(6)))
    assert main(["tags", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["content"] == "float32[2, 3], float32[4]"


def test_export_stops_quietly_when_its_reader_does(recordings):
    command = f"{sys.executable} -m tb_firstloss export {recordings} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "run,tag,step,wall_time,value\n"


def test_verify_finds_nothing_in_intact_files(recordings, capsys):
    assert main(["verify", str(recordings)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "everything is intact" in err
    assert main(["verify", str(recordings), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_verify_names_the_damaged_bytes(logdir, capsys):
    (file,) = (logdir / "train").glob("events*")
    content = bytearray(file.read_bytes())
    place = content.index(b"epoch/loss")
    content[place] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(logdir), "--json"]) == 1
    (damage,) = json.loads(capsys.readouterr().out)
    assert damage["path"] == str(file)
    assert damage["start"] < place < damage["end"]
    assert damage["kind"] == "corrupt"
    assert main(["verify", str(logdir)]) == 1
    assert capsys.readouterr().out.startswith(f"{file}: bytes {damage['start']} to ")


def test_verify_finds_a_recording_that_lost_its_end(logdir, capsys):
    (file,) = (logdir / "a" / "first_batch").glob("events*")
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"first_batch/tensors/manifest") - 40])
    assert main(["verify", str(logdir)]) == 1
    assert "manifest" in capsys.readouterr().out


def test_verify_reports_damage_next_to_an_intact_recording_once(logdir, capsys):
    (file,) = (logdir / "a" / "first_batch").glob("events*")
    content = bytearray(file.read_bytes())
    content[content.rindex(b"first_batch/report")] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(logdir)]) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_verify_of_a_missing_path_is_misuse(tmp_path):
    assert main(["verify", str(tmp_path / "missing")]) == 2


def test_watch_prints_existing_values_and_ends_in_time(recordings, capsys):
    arguments = ["watch", str(recordings / "train"), "--timeout", "0.5", "--interval", "0.1"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        ".  epoch/loss  step 0  1",
        ".  epoch/loss  step 1  0.5",
        ".  epoch/loss  step 2  0.333333",
        ".  note  step 7  string[2]",
    ]


def test_watch_sees_what_is_written_later(logdir):
    command = [sys.executable, "-m", "tb_firstloss", "watch", str(logdir), "--json"]
    command += ["--tag", "later", "--interval", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with tf.summary.create_file_writer(str(logdir / "train")).as_default():
            tf.summary.scalar("later", 4.5, step=9)
        line = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert (line["run"], line["tag"], line["step"], line["value"]) == ("train", "later", 9, 4.5)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--timeout", "0.2"], 1),
        (["--timeout", "-1"], 2),
        (["--interval", "-1", "--timeout", "0.2"], 2),
    ],
    ids=["nothing-came", "negative-timeout", "negative-interval"],
)
def test_watch_of_nothing_is_a_finding_and_nonsense_is_misuse(tmp_path, arguments, code):
    assert main(["watch", str(tmp_path), *arguments]) == code
