import numpy as np

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
    losses={"loss": np.float32(1.5)},
    outputs={
        "plain": OutputLoss(per_example=np.float16([1.25, np.nan])),
        "ragged": OutputLoss(per_example=np.ones(3), row_splits=(np.array([0, 1, 3]),)),
        "large": OutputLoss(per_example=None, statistics=STATISTICS),
    },
)


def test_every_view_shows_the_same_kinds(capsys):
    kinds = {"plain": "float16[2]", "ragged": "float64[3], ragged", "large": "left out, too large"}
    report, html, text = write_report(FIRST, StepTrace(step=0)), FIRST._repr_html_(), repr(FIRST)
    assert rows.to_row(FIRST)["loss_kind"] == "float32[2]"
    assert {row["name"]: row["kind"] for row in rows.to_row(FIRST)["outputs"]} == kinds
    for name, kind in kinds.items():
        assert f"| {name} per example | {kind} |" in report
        assert f"{name} <small>{kind}</small>" in html
        assert f"{name}: {kind} mean " in text
    print_losses([FIRST])
    for shown in (report, html, text, capsys.readouterr().out):
        assert "float32[2]" in shown


def test_a_name_cannot_break_the_reports_table():
    first = FirstBatch(
        run="r", step=0, wall_time=0.0, losses={}, outputs={"a|b\nc": FIRST.outputs["plain"]}
    )
    assert "| a\\|b c per example | float16[2] |" in write_report(first, StepTrace(step=0))
