import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tb_firstloss.first_batch import FirstBatch, OutputLoss


def shown(run="r", losses=(), metadata=(), **outputs):
    """What a notebook shows, parsed: it must be well-formed."""
    outputs = {name: OutputLoss(per_example=np.asarray(v)) for name, v in outputs.items()}
    first = FirstBatch(
        run=run,
        step=3,
        wall_time=0.0,
        losses=dict(losses),
        outputs=outputs,
        metadata=dict(metadata),
    )
    return ET.fromstring(first._repr_html_())


def cells(root):
    """The texts of the rows by heading; that of the first column is ""."""
    headings, *rows = ([cell.text or "" for cell in row] for row in root.iter("tr"))
    return [dict(zip(headings[:-1], row, strict=False)) for row in rows]


def test_a_notebook_shows_the_statistics():
    root = shown(losses={"loss": np.float32(3.5)}, y=np.float32([1.0, 4.0, np.nan]))
    assert "step 3" in "".join(root.itertext())
    assert cells(root) == [
        {
            "": "loss ",
            "loss": "3.5",
            "count": "3",
            "mean": "2.5",
            "std": "1.5",
            "min": "1",
            "max": "4",
            "non-finite": "1",
        }
    ]
    assert root.find(".//small").text == "y: float32[3]"


def test_every_loss_is_shown_next_to_the_statistics_of_its_output():
    losses = {"d_loss": np.float32(1.25), "g_loss": np.float32(0.75)}
    root = shown(losses=losses, metadata={"expected_loss": {"g_loss": 0.5}}, g_loss=[0.5, 1.0])
    shown_texts = [[row[name] for name in ("", "loss", "expected", "mean")] for row in cells(root)]
    assert shown_texts == [["d_loss ", "1.25", "", ""], ["g_loss ", "0.75", "0.5", "0.75"]]
    assert len(list(root.iter("svg"))) == 1


def test_bars_are_as_high_as_their_bins_are_full():
    values = np.repeat([0.0, 1.0, 2.0, 3.0], [1, 2, 4, 8])
    (path,) = shown(y=values).iter("path")
    heights = [-float(h) for h in re.findall(r"v(-[\d.]+)", path.get("d"))]
    assert heights == [4, 8, 16, 32]


@pytest.mark.parametrize(
    "values",
    [[], [math.nan, math.inf]],
    ids=["empty", "none-finite"],
)
def test_without_finite_values_there_is_no_histogram(values):
    assert list(shown(y=np.array(values)).iter("svg")) == []


@pytest.mark.parametrize("values", [[7.0], [1e17] * 9, [-1.7e308, 1.7e308], [5e-324, 0.0]], ids=str)
def test_unusual_ranges_are_drawn(values):
    (path,) = shown(y=np.array(values)).iter("path")
    assert not re.search("nan|inf", path.get("d"))
    assert path.get("d").startswith("M")


def test_without_outputs_the_losses_are_all_there_is():
    root = shown(losses={"a": np.float64(0.125), "b": np.float64(2)})
    assert cells(root) == [{"": "a ", "loss": "0.125"}, {"": "b ", "loss": "2"}]


def test_names_are_escaped():
    hostile = "<script>alert('&\"')</script>"
    losses = {"loss": np.float32(1), hostile + "2": np.float32(2)}
    root = shown(run=hostile, losses=losses, **{hostile: [1.0], "b": [2.0]})
    assert root.find("b").text == hostile
    names = [row[""].strip() for row in cells(root)]
    assert names == ["loss", hostile + "2", hostile, "b"]
    (row,) = cells(root := shown(losses={hostile: np.float32(1)}, **{hostile + "2": [1.0]}))
    assert row[""].strip() == hostile
    assert root.find(".//small").text == f"{hostile}2: float64[1]"
    assert list(root.iter("script")) == []
