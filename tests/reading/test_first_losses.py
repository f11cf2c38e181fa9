"""What `read_first_losses` returns: a dict, and a table of it as text, HTML and DataFrame."""

import math
import pickle
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tb_firstloss import errors, read_first_losses
from tests.helpers.recorded import write_losses


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """A GAN with an expectation for one of its losses, and a classifier."""
    logdir = tmp_path_factory.mktemp("runs")
    expected = {"expected_loss": {"g_loss": 0.7}}
    losses = {"d_loss": 1.375, "g_loss": 0.75}
    write_losses(logdir / "gan", losses, {"d_loss": [1.0, np.nan, 2.0]}, metadata=expected)
    write_losses(logdir / "plain", {"loss": 2.5}, {"dense": [[1.0, 3.0]]})
    return logdir


def test_it_is_a_dict(logdir):
    found = read_first_losses(logdir)
    assert isinstance(found, dict)
    assert found == dict(found.items())
    assert list(found) == ["gan/first_batch", "plain/first_batch"]
    assert list(pickle.loads(pickle.dumps(found))) == list(found)


def test_it_shows_itself_as_a_table(logdir):
    found = read_first_losses(logdir)
    assert str(found) == repr(found)
    assert [line.split() for line in repr(found).splitlines()] == [
        ["run", "loss", "expected", "count", "mean", "std", "min", "max", "non-finite"],
        ["gan/first_batch:", "d_loss", "1.375", "3", "1.5", "0.5", "1", "2", "1"],
        ["gan/first_batch:", "g_loss", "0.75", "0.7"],
        ["plain/first_batch", "2.5", "2", "2", "1", "1", "3", "0"],
    ]
    ends = [
        line.rstrip().index("1.375") + 5 for line in repr(found).splitlines() if "1.375" in line
    ]
    ends += [line.index("2.5") + 3 for line in repr(found).splitlines() if "2.5" in line]
    assert len(set(ends)) == 1  # numbers are aligned at their end


def test_a_notebook_shows_the_same_table(logdir):
    root = ET.fromstring(read_first_losses(logdir)._repr_html_())
    cells = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert [row[:3] for row in cells] == [
        ["", "loss", "expected"],
        ["gan/first_batch: d_loss ", "1.375", ""],
        ["gan/first_batch: g_loss ", "0.75", "0.7"],
        ["plain/first_batch ", "2.5", ""],
    ]
    assert len(list(root.iter("svg"))) == 2


def test_a_dataframe_has_a_row_per_loss(logdir):
    found = read_first_losses(logdir)
    frame = found.to_pandas()
    assert list(frame.columns) == [
        *("run", "name", "step", "wall_time", "loss", "expected", "count", "mean", "std"),
        *("min", "max", "nonfinite_count", "digest"),
    ]
    assert frame["run"].tolist() == ["gan/first_batch"] * 2 + ["plain/first_batch"]
    assert frame["name"].tolist() == ["d_loss", "g_loss", "loss"]
    assert frame["loss"].tolist() == [1.375, 0.75, 2.5]
    assert [x for x in frame["expected"].tolist() if not math.isnan(x)] == [0.7]
    assert frame["count"].isna().tolist() == [False, True, False]
    assert frame["count"].dropna().tolist() == [3, 2]
    assert frame["std"].dropna().tolist() == [np.std([1.0, 2.0]), np.std([1.0, 3.0])]
    assert frame["nonfinite_count"].sum() == 1
    assert (frame["step"] == 0).all()
    assert (frame["wall_time"] == 1.7e9).all()
    assert frame["digest"].tolist() == [found[run].digest for run in frame["run"]]
    assert set(frame.dtypes[["loss", "mean", "expected"]].map(str)) == {"float64"}
    assert set(frame.dtypes[["count", "nonfinite_count"]].map(str)) == {"Int64"}


def test_of_no_recordings_there_are_only_headings(tmp_path):
    found = read_first_losses(tmp_path)
    assert found == {}
    assert repr(found) == "run  loss"
    assert found.to_pandas().shape == (0, 13)


def test_without_pandas_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(errors.MissingDependencyError, match="pip install pandas"):
        read_first_losses(tmp_path).to_pandas()


def test_names_steer_neither_a_terminal_nor_a_page(tmp_path):
    hostile = "<script>\x1b[31m\n日本"
    write_losses(tmp_path / "\x1b[2J<img>", {hostile: 1.0, "b": 2.0})
    found = read_first_losses(tmp_path)
    text, html = repr(found), found._repr_html_()
    assert text.replace("\n", "").isprintable()
    assert "\\x1b[2J<img>/first_batch: <script>\\x1b[31m\\n日本" in text
    assert len(text.splitlines()) == 3
    wide, narrow = text.splitlines()[1:]
    assert len(wide) + 2 == len(narrow)  # two characters that take two columns each
    assert "<script>" not in html
    assert "<img>" not in html


def test_a_long_table_ends_with_the_number_of_the_rows_left_out(logdir):
    found = read_first_losses(logdir)
    first = found["plain/first_batch"]
    found.update({str(i): first for i in range(250)})
    lines = repr(found).splitlines()
    assert lines[-1] == "… and 53 more; .to_pandas() has all"
    assert len(lines) == 1 + 200 + 1
    assert len(found.to_pandas()) == 253
