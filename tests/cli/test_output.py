"""Tables and progress as a user sees them."""

import re
import time

import numpy as np
import pytest

from tb_firstloss.cli import output, progress
from tests.helpers.recorded import python_on_terminal, record

SLOW_JOB = """
import time
from tb_firstloss.cli.progress import track
for item in track(range(4), "Working", 4, quiet={quiet}):
    time.sleep({seconds})
print("done")
"""


def test_columns_are_aligned_by_what_a_terminal_shows(capsys):
    output.print_table(["run", "value", ""], [["日本", "1.5", "x"], ["long-name", "22", "yy"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "run        value",
        "─" * 20,
        "日本         1.5  x",
        "long-name     22  yy",
    ]


def test_chosen_columns_are_aligned_left(capsys):
    output.print_table(["a", "bbb", "c"], [["1", "2", "3"]], left=[1])
    assert capsys.readouterr().out.splitlines()[2] == "1  2    3"


def test_a_table_in_a_file_is_never_cut(capsys):
    output.print_table(["run", "value"], [["r" * 500, "v" * 500]])
    assert len(capsys.readouterr().out.splitlines()[2]) == 1002


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ä 日", "plain ä 日"), ("a\x1b[2J\n\tb\u202e", "a\\x1b[2J\\n\\tb\\u202e")],
)
def test_control_characters_are_escaped(text, shown):
    assert output.printable(text) == shown


def test_the_histogram_line_shows_the_shape_of_the_finite_values():
    values = np.array([0.0] * 8 + [1.0] * 4 + [3.0, np.nan, np.inf], np.float32)
    assert output.histogram_line(values, bins=3) == "█▅▂"
    assert output.histogram_line(values[-2:]) == ""


@pytest.mark.parametrize(
    ("values", "line"),
    [([3e38] * 4, " █ "), ([5e-324, 1e-323], "█ █"), ([1.7e308, -1.7e308], "█ █")],
    ids=["equal-and-huge", "too-close", "too-far"],
)
def test_the_histogram_line_of_losses_without_room_for_bins(values, line):
    assert output.histogram_line(np.array(values), bins=3) == line


def test_progress_is_drawn_after_a_second_and_leaves_nothing():
    code, shown = python_on_terminal(SLOW_JOB.format(quiet=False, seconds=0.4))
    assert code == 0
    drawn = re.findall(r"\rWorking (█*)(░*) +(\d+) %  (\d) s\x1b\[K", shown)
    assert drawn
    assert all(len(full) + len(empty) == 30 for full, empty, _, _ in drawn)
    assert {percent for _, _, percent, _ in drawn} <= {"50", "75", "100"}
    assert shown.endswith("\r\x1b[Kdone\r\n")


@pytest.mark.parametrize(
    ("job", "environment"),
    [
        ({"quiet": False, "seconds": 0.01}, {}),
        ({"quiet": True, "seconds": 0.4}, {}),
        ({"quiet": False, "seconds": 0.4}, {"TERM": "dumb"}),
    ],
    ids=["quick", "quiet", "dumb-terminal"],
)
def test_progress_is_not_drawn(job, environment):
    assert python_on_terminal(SLOW_JOB.format(**job), **environment) == (0, "done\r\n")


def test_progress_is_not_drawn_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0)
    with progress.bar("Working", 2) as bar:
        bar.advance()
        time.sleep(0.3)
    with progress.reading_threads("Reading") as threads:
        assert threads is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["show", "compare"])
def test_what_comes_after_reading_is_not_silent_either(tmp_path, command):
    record(tmp_path / "a", [1.0, 2.0])
    words = {"show": [str(tmp_path)], "compare": [str(tmp_path / "a"), str(tmp_path)]}[command]
    script = f"""
from tb_firstloss.cli import main, progress
progress.DELAY_SECONDS = 0
main([{command!r}, *{words!r}])
"""
    _, shown = python_on_terminal(script)
    assert {"show": "Drawing", "compare": "Comparing"}[command] in shown
    assert "first_batch" in shown.rpartition("\x1b[K")[2]  # nothing is drawn into the results


def test_reading_on_a_terminal_counts_the_readers_tasks():
    script = """
import time
from tb_firstloss.cli.progress import reading_threads
with reading_threads("Reading") as threads:
    print(list(threads.map(lambda a, b: time.sleep(1.5) or a + b, [1, 2], [3, 4])))
"""
    code, shown = python_on_terminal(script, columns=20, PYTHONIOENCODING="ascii")
    assert code == 0
    assert "\rReading ...........\x1b[K" in shown  # one column is left free
    assert shown.endswith("[4, 6]\r\n")
