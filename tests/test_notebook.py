import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tb_firstloss.first_batch import FirstBatch, OutputLoss


def shown(run="r", loss=None, **outputs):
    """What a notebook shows, parsed: it must be well-formed."""
    outputs = {name: OutputLoss(per_example=np.asarray(v)) for name, v in outputs.items()}
    losses = {} if loss is None else {"loss": loss}
    first = FirstBatch(run=run, step=3, wall_time=0.0, losses=losses, outputs=outputs)
    return ET.fromstring(first._repr_html_())


def cells(root):
    return [[cell.text for cell in row] for row in root.iter("tr")][1:]


def test_a_notebook_shows_the_statistics():
    root = shown(loss=np.float32(2.5), y=np.float32([1.0, 4.0, np.nan]))
    assert "step 3" in "".join(root.itertext())
    assert root.findall("b")[1].text == "2.5"
    assert cells(root)[0][1:7] == ["3", "2.5", "1.5", "1", "4", "1"]


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


def test_a_recording_without_outputs_is_one_line():
    root = shown(loss=np.float64(0.125))
    assert list(root.iter("table")) == []
    assert root.findall("b")[1].text == "0.125"


def test_names_are_escaped():
    hostile = "<script>alert('&\"')</script>"
    root = shown(run=hostile, **{hostile: [1.0], "b": [2.0]})
    assert root.find("b").text == hostile
    assert cells(root)[0][0].strip() == hostile
    assert list(root.iter("script")) == []
