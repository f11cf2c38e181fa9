import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tb_firstloss import FirstBatch, OutputLoss, Scalars, TensorDatum, check, compare


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


def test_the_picture_has_axis_ends_the_expectation_and_the_runs_name():
    values, losses = [1.0, 2.0, 5.0], {"loss": np.float32(3)}
    root = shown(losses=losses, metadata={"expected_loss": 3.0}, y=values)
    assert [text.text for text in root.iter("text")] == ["1", "5"]
    assert root.find(".//title").text == "loss: 3 values from 1 to 5, expected 3"
    (line,) = root.iter("line")
    assert line.get("x1") == line.get("x2") == "90.0"  # half of 180 pixels


@pytest.mark.parametrize(
    ("expected", "at", "ends"),
    [(9.0, "180.0", ["1", "9"]), (-3.0, "0.0", ["-3", "5"]), (1.7e308, "180.0", ["1", "1.7e+308"])],
    ids=str,
)
def test_an_expectation_off_the_values_widens_the_axis(expected, at, ends):
    root = shown(metadata={"expected_loss": expected}, y=[1.0, 5.0])
    assert next(root.iter("line")).get("x1") == at
    assert [text.text for text in root.iter("text")] == ends


def test_equal_values_are_a_bar_at_their_place():
    root = shown(metadata={"expected_loss": 4.0}, y=[2.0, 2.0])
    assert next(root.iter("path")).get("d").startswith("M-2.0 32v-32.0")
    assert next(root.iter("line")).get("x1") == "180.0"


@pytest.mark.parametrize("expected", [math.nan, math.inf, "<b>"], ids=str)
def test_what_is_no_finite_expectation_is_not_drawn(expected):
    assert not list(shown(metadata={"expected_loss": expected}, y=[2.0, 3.0]).iter("line"))


HOSTILE = "<script>alert('&\"')</script>\x1b[31m\ud800"


def first_batch(run, values, **metadata):
    outputs = {HOSTILE: OutputLoss(per_example=np.float32(values))}
    return FirstBatch(
        run=run, step=HOSTILE, wall_time=0.0, losses={}, outputs=outputs, metadata=metadata
    )


def scalars():
    codes = np.zeros(1, np.int32)
    numbers = np.int64([7]), np.float64([0.5]), np.float64([1.25])
    return Scalars([HOSTILE], [HOSTILE], codes, codes, *numbers)


SHOWN = {
    "FirstBatch": first_batch(HOSTILE, [1, 2]),
    "Scalars": scalars(),
    "Comparison": compare(first_batch("a", [1, 2], **{HOSTILE: 1}), first_batch(HOSTILE, [1, 3])),
    "Verdict": check(first_batch("a", [1, 1]), {HOSTILE: 1}),
    "TensorDatum": TensorDatum(HOSTILE, HOSTILE, 0, 0.0, HOSTILE, np.float32(1)),
}


@pytest.mark.parametrize("thing", SHOWN.values(), ids=SHOWN)
def test_nothing_in_a_name_or_step_becomes_html_or_steers(thing):
    text = thing._repr_html_()
    assert list(ET.fromstring(text).iter("script")) == []
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text.encode().decode()  # UTF-8 has no lone surrogate


def test_a_comparison_shows_a_row_per_loss_and_what_else_differs():
    one, other = first_batch("a", [1, 2], seed=1), first_batch("b", [1, 3], seed=2)
    root = ET.fromstring(compare(one, other)._repr_html_())
    assert root.find("b").text.startswith("b: different, compared with a; the difference is in")
    (row,) = cells(root)
    assert row["different"] == "1 of 2"
    assert row["max abs"] == "1"
    assert "Also different: seed." in "".join(root.itertext())


def test_a_verdict_shows_each_part_and_the_causes():
    outputs = {name: OutputLoss(per_example=np.float32([1, 3])) for name in ("a", "b")}
    first = FirstBatch(run="r", step=0, wall_time=0.0, losses={}, outputs=outputs)
    verdict = check(first, {"a": 2, "b": 9})
    root = ET.fromstring(verdict._repr_html_())
    assert [tuple(td.text for td in row) for row in root.iter("tr")][1:] == [
        ("a", "2", "2", "ok"),
        ("b", "2", "9", "low"),
    ]
    assert verdict.message in "".join(root.itertext())
    assert root.find("b").text == "low"


def test_scalars_show_their_first_rows_and_how_many_there_are():
    count = 25
    zeros, steps = np.zeros(count, np.int32), np.arange(count)
    found = Scalars(["r"], ["loss"], zeros, zeros, steps, steps / 2, steps / 4)
    root = ET.fromstring(found._repr_html_())
    rows = [[td.text for td in row] for row in root.iter("tr")]
    assert len(rows) == 21
    assert rows[0] == ["run", "tag", "step", "wall_time", "value"]
    assert rows[20] == ["r", "loss", "19", "9.5", "4.75"]
    assert "… and 5 more" in "".join(root.itertext())
    assert root.find("b").text == "Scalars(25 rows, 1 runs, 1 tags)"


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (np.float32(1.5), "float32[]", "1.5"),
        (np.eye(2, dtype=np.int32), "int32[2, 2]", "[[1 0] [0 1]]"),
        (np.array([b"<b>" * 9999], object), "string[1]", "[b'<b><b>"),
        (np.array([], object), "string[0]", "[]"),
        (np.zeros((0, 3)), "float64[0, 3]", "[]"),
    ],
    ids=["scalar", "matrix", "long-text", "no-text", "empty"],
)
def test_a_tensor_shows_its_kind_and_how_it_begins(value, kind, text):
    root = ET.fromstring(TensorDatum("r", "t", 3, 0.5, "p", np.asarray(value))._repr_html_())
    rows = [[td.text or "" for td in row] for row in root.iter("tr")][1:]
    assert rows[:5] == [
        ["run", "r"], ["step", "3"], ["wall_time", "0.5"], ["plugin_name", "p"], ["value", kind]
    ]  # fmt: skip
    assert rows[5][1].startswith(text)
    assert len(rows[5][1]) <= 500
