"""Runs benchmarks/durability.py, which kills training processes, and checks its verdicts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import FirstLoss

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SIGNALS = {"SIGKILL": -9, "SIGTERM": -15, "SIGINT": -2, "abort": -6, "SIGXFSZ": -25}
EXITS = {"os._exit": 7, "SIGTERM, handled by sys.exit": 3, "none": 0}
AFTER = {"right after step 0", "at step 1", "never"}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """The cells of one run, each a dict of recorder, way, moment, ending, ended and found."""
    report = tmp_path_factory.mktemp("matrix") / "matrix.json"
    command = [sys.executable, BENCHMARKS / "durability.py", "--only", "matrix", "--quick"]
    env = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command += ["--json", report]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return json.loads(report.read_text())["matrix"]


@pytest.fixture(scope="module")
def deaths():
    """The package with which the benchmark judges its cells."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import deaths.cells
    finally:
        sys.path.remove(str(BENCHMARKS))
    return deaths


def of(matrix, recorder):
    return [cell for cell in matrix if cell["recorder"] == recorder]


@pytest.mark.slow
def test_once_step_0_has_returned_the_first_loss_is_there(matrix):
    cells = [cell for cell in of(matrix, "tb_firstloss") if cell["moment"] in AFTER]
    assert len(cells) == 2 * (8 * 2 + 1)
    assert [cell for cell in cells if cell["found"] != "complete"] == []


@pytest.mark.slow
def test_before_step_0_returns_it_is_complete_or_absent_and_never_wrong(matrix):
    cells = [cell for cell in of(matrix, "tb_firstloss") if cell["moment"] not in AFTER]
    assert len(cells) == 2 * (2 * 9 + 6 * 2 + 4)
    assert {cell["found"] for cell in cells} == {"complete", "absent"}
    killed = {cell["moment"]: cell["found"] for cell in cells if cell["ending"] == "SIGKILL"}
    assert killed["in step 0"] == killed["values flushed without their manifest"] == "absent"
    assert killed["synced, not read back"] == killed["closing the file"] == "complete"


@pytest.mark.slow
def test_every_process_has_died_as_it_should(matrix):
    expected = SIGNALS | EXITS
    for cell in matrix:
        if cell["ending"] in expected:
            assert cell["ended"] == expected[cell["ending"]], cell
    failures = [cell for cell in matrix if cell["ending"] == "exception"]
    # A failure inside the capture is no reason for training to stop.
    mine = {cell["moment"] for cell in failures if cell["ended"] == 0}
    assert mine == {cell["moment"] for cell in failures} - AFTER - {"in step 0"}
    assert {cell["ended"] for cell in failures if cell["moment"] in AFTER} == {1}


@pytest.mark.slow
def test_tf_summary_loses_it_to_a_signal_and_keeps_it_otherwise(matrix):
    """The comparison can go either way, so its result means something."""
    found = {
        (cell["way"], cell["ending"], cell["moment"]): cell["found"]
        for cell in of(matrix, "tf.summary")
    }
    for way in ("loop", "fit"):
        assert found[way, "SIGKILL", "right after step 0"] == "absent"
        assert found[way, "none", "never"] == "complete"


def recorded(tmp_path, deaths, change=lambda array: array):
    loss, per_example = deaths.training.expected()
    FirstLoss(tmp_path, graph=False, profile=False).record(change(per_example), total=loss)


def test_a_recording_of_the_right_bits_is_complete(tmp_path, deaths):
    recorded(tmp_path, deaths)
    assert deaths.cells.find_recording(tmp_path) == "complete"


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(np.float64),
        lambda array: np.nextafter(array, np.float32(0), dtype=np.float32),
    ],
    ids=["dtype", "last bit"],
)
def test_a_recording_of_other_bits_is_wrong(tmp_path, deaths, change):
    recorded(tmp_path, deaths, change)
    assert deaths.cells.find_recording(tmp_path).startswith("wrong")


def test_a_torn_recording_and_none_at_all_are_absent(tmp_path, deaths):
    assert deaths.cells.find_recording(tmp_path / "nowhere") == "absent"
    recorded(tmp_path, deaths)
    (file,) = (tmp_path / "first_batch").iterdir()
    data = file.read_bytes()
    for size in range(0, data.index(b"contract_version"), 97):
        file.write_bytes(data[:size])
        assert deaths.cells.find_recording(tmp_path) == "absent", size
    shutil.rmtree(tmp_path / "first_batch")
    assert deaths.cells.find_recording(tmp_path) == "absent"


@pytest.mark.parametrize(
    ("moment", "ending", "ended", "found", "log", "broken"),
    [
        ("at step 1", "SIGKILL", -9, "complete", "", None),
        ("at step 1", "SIGKILL", -9, "absent", "", "is lost"),
        ("at step 1", "SIGKILL", -9, "wrong: loss 2", "", "wrong: loss 2"),
        ("at step 1", "SIGKILL", 0, "complete", "", "ended with 0 instead of -9"),
        ("in step 0", "abort", -6, "absent", "", None),
        ("in step 0", "abort", -6, "wrong: loss 2", "", "wrong: loss 2"),
        ("closing the file", "exception", 0, "absent", "CaptureWarning: …", None),
        ("closing the file", "exception", 0, "absent", "", "without a word"),
        ("closing the file", "exception", 1, "complete", "", "instead of 0"),
        ("closing the file", "out of memory", -6, "absent", "", None),
        ("closing the file", "out of memory", -14, "complete", "", "ended with -14"),
    ],
)
def test_a_broken_promise_is_named(deaths, moment, ending, ended, found, log, broken):
    cell = deaths.cells.Cell("tb_firstloss", "loop", moment, ending, ended=ended, found=found)
    named = deaths.cells.broken_promise(cell, log)
    assert named is None if broken is None else broken in named
