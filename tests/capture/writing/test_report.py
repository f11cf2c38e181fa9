import itertools

import numpy as np
import pytest

from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.writing.report import write_report
from tb_firstloss.cli.commands.show import print_losses
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.tensorboard_tab import rows

STATISTICS = OutputLoss(per_example=np.array([1.0, 3.0])).statistics
FIRST = FirstBatch(
    run="r",
    step=0,
    wall_time=1.0,
    losses={"g": np.float32(1.5), "plain": np.float16(1.25), "d": np.float64(np.nan)},
    outputs={
        "plain": OutputLoss(per_example=np.float16([1.25, np.nan])),
        "ragged": OutputLoss(per_example=np.ones(3), row_splits=(np.array([0, 1, 3]),)),
        "large": OutputLoss(per_example=None, statistics=STATISTICS),
    },
    metadata={"expected_loss": {"d": 0.5}},
)
LOSSES = {"g": "1.5", "plain": "1.25", "d": "nan", "ragged": "", "large": ""}
KINDS = {"plain": "float16[2]", "ragged": "float64[3], ragged", "large": "left out, too large"}


def cells_of(report):
    """The cells of the report's first table, by name and heading."""
    _, _, headings, _, *lines = report.split("\n\n**")[0].splitlines()
    lines = lines[: lines.index("")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in [headings, *lines]]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}


def test_every_view_shows_the_same_rows(capsys):
    report, html, text = write_report(FIRST, StepTrace(step=0)), FIRST._repr_html_(), repr(FIRST)
    shown = cells_of(report)
    assert list(shown) == [row["name"] for row in rows.to_json(FIRST)["rows"]] == list(LOSSES)
    assert {row["name"]: row["kind"] for row in rows.to_json(FIRST)["rows"] if row["kind"]} == KINDS
    for name, kind in KINDS.items():
        assert shown[name]["per example"] == kind
        assert f"{name} <small>{kind}</small>" in html
        assert f"{name}: {kind} mean " in text
    print_losses([FIRST])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[1] for line in lines] == list(LOSSES)
    assert [line[3] for line in lines if LOSSES[line[1]]] == list(filter(None, LOSSES.values()))


def test_the_report_shows_each_loss_with_its_dtype_output_and_expectation():
    shown = cells_of(write_report(FIRST, StepTrace(step=0)))
    assert [row["loss"] for row in shown.values()] == [
        "1.5 (float32[])",
        "1.25 (float16[])",
        "nan (float64[])",
        "",
        "",
    ]
    assert [row["expected"] for row in shown.values()] == ["", "", "0.5", "", ""]
    assert [row["mean"] for row in shown.values()] == ["", "1.25", "", "1", "2"]
    assert [row["non-finite"] for row in shown.values()] == ["", "1", "", "0", "0"]


def test_no_table_begins_with_an_empty_row():
    lines = write_report(FIRST, StepTrace(step=0, seconds=1.0)).splitlines()
    headings = [above for above, line in itertools.pairwise(lines) if "---" in line]
    assert len(headings) == 2
    assert all(line.strip("| ") for line in headings)


@pytest.mark.parametrize(
    ("run_dir", "heading"),
    [
        ("/runs/mine/first_batch", "mine/first_batch"),
        ("gs://bucket/runs/mine/first_batch/", "mine/first_batch"),
        ("first_batch", "first_batch"),
        ("", "r"),
    ],
)
def test_the_report_is_headed_by_its_run(run_dir, heading):
    report = write_report(FIRST, StepTrace(step=0), run_dir)
    assert report.startswith(f"## {heading}: first batch, step 0\n")


def test_the_only_loss_and_the_only_output_are_one_row():
    output = OutputLoss(per_example=np.float32([1.0, 3.0]))
    first = FirstBatch(
        run="r",
        step=0,
        wall_time=0.0,
        losses={"loss": np.float32(2.5)},
        outputs={"dense": output},
    )
    assert cells_of(write_report(first, StepTrace(step=0))) == {
        "loss": {
            "": "loss",
            "loss": "2.5 (float32[])",
            "count": "2",
            "mean": "2",
            "std": "1",
            "min": "1",
            "max": "3",
            "non-finite": "0",
            "per example": "dense: float32[2]",
        }
    }


def test_without_a_loss_the_report_says_so_and_why():
    first = FirstBatch(run="r", step=0, wall_time=0.0, losses={}, outputs={})
    report = write_report(first, StepTrace(step=0, missing=["the loss: it was lost"]))
    assert "**No loss** was captured." in report
    assert "- the loss: it was lost" in report


def test_a_name_cannot_break_the_reports_table():
    losses = {"a|b\nc": np.float32(1), "d": np.float32(2)}
    first = FirstBatch(run="r", step=0, wall_time=0.0, losses=losses, outputs={})
    assert "| a\\|b c | 1.0 (float32[]) |" in write_report(first, StepTrace(step=0))
