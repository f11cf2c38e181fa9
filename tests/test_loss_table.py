"""The one rule by which every view shows a first batch."""

import math
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import read_first_loss
from tb_firstloss.first_batch import FirstBatch, OutputLoss, tabulate


def first_batch(losses=(), outputs=(), **metadata):
    """A recording with losses 1.0, 2.0, …, and outputs of means 10.0, 20.0, …, by name."""
    return FirstBatch(
        run="r",
        step=0,
        wall_time=0.0,
        losses={name: np.float32(i + 1) for i, name in enumerate(losses)},
        outputs={
            name: OutputLoss(per_example=np.float32([i * 10 + 9, i * 10 + 11]))
            for i, name in enumerate(outputs)
        },
        metadata=metadata,
    )


def rows_of(first):
    """The rows as name, value of the loss, and mean of the output's values."""
    return [
        (
            row.name,
            None if row.loss is None else float(row.loss.value),
            None if row.output is None else row.output.values.astype(float).mean(),
        )
        for row in tabulate(first).rows
    ]


@pytest.mark.parametrize(
    ("losses", "outputs", "rows"),
    [
        ([], [], [("", None, None)]),
        (["loss"], [], [("loss", 1, None)]),
        ([], ["dense"], [("dense", None, 10)]),
        (["loss"], ["dense"], [("loss", 1, 10)]),
        (["loss"], ["a", "b"], [("loss", 1, None), ("a", None, 10), ("b", None, 20)]),
        (["a"], ["b", "a"], [("a", 1, 20), ("b", None, 10)]),
        (["d", "g"], [], [("d", 1, None), ("g", 2, None)]),
        (["d", "g"], ["g"], [("d", 1, None), ("g", 2, 10)]),
        (["d", "g"], ["x"], [("d", 1, None), ("g", 2, None), ("x", None, 10)]),
        ([], ["b", "a"], [("b", None, 10), ("a", None, 20)]),
    ],
    ids=str,
)
def test_a_row_is_a_loss_with_its_output_or_either_alone(losses, outputs, rows):
    assert rows_of(first_batch(losses, outputs)) == rows


@pytest.mark.parametrize(
    ("losses", "outputs", "expected", "by_row"),
    [
        (["loss"], ["dense"], 2.5, {"loss": 2.5}),
        (["loss"], [], 2.5, {"loss": 2.5}),
        ([], ["dense"], 2.5, {"dense": 2.5}),
        (["loss"], ["a", "b"], 2.5, {"loss": 2.5}),
        (["d", "g"], ["g"], 2.5, {}),
        (["d", "g"], ["g"], {"g": 2.5}, {"g": 2.5}),
        (["d", "g"], ["x"], {"x": 3, "d": 1, "y": 7}, {"x": 3, "d": 1}),
        (["loss"], ["dense"], {"dense": 2.5}, {"loss": 2.5}),
        (["loss"], ["dense"], {"loss": 2.5}, {"loss": 2.5}),
        (["loss"], ["dense"], {"loss": 1.5, "dense": 2.5}, {"loss": 2.5}),
        ([], ["a", "b"], 2.5, {}),
        ([], [], 2.5, {}),
    ],
    ids=str,
)
def test_an_expectation_belongs_to_the_row_that_it_judges(losses, outputs, expected, by_row):
    table = tabulate(first_batch(losses, outputs, expected_loss=expected))
    assert {row.name: row.expected for row in table.rows if row.expected is not None} == by_row


def test_one_number_judges_nothing_where_losses_were_not_seen():
    first = first_batch(["loss"], ["dense"], expected_loss=2.5, unseen_losses=["g"])
    assert [row.expected for row in tabulate(first).rows] == [None]
    first = first_batch(["loss"], ["dense"], expected_loss={"loss": 2.5}, unseen_losses=["g"])
    assert [row.expected for row in tabulate(first).rows] == [2.5]


@pytest.mark.parametrize(
    "malformed",
    ["log(", ["hostile"], {}, {"loss": None}, {"loss": {"a": 1}}, {"x": 1}, 10**400, object()],
    ids=[*"abcdefgh"],
)
def test_a_malformed_expectation_is_none(malformed):
    for losses in (["loss"], ["loss", "g"]):
        table = tabulate(first_batch(losses, expected_loss=malformed))
        assert {row.expected for row in table.rows} == {None}


def test_texts_have_six_digits_and_lack_what_is_missing():
    with_both, loss_alone = tabulate(
        first_batch(["a", "b"], ["a"], expected_loss={"a": 1 / 3})
    ).rows
    assert list(loss_alone.texts().items()) == [
        ("loss", "2"),
        *((name, "") for name in list(with_both.texts())[1:]),
    ]
    assert with_both.texts() == {
        "loss": "1",
        "expected": "0.333333",
        "count": "2",
        "mean": "10",
        "std": "1",
        "min": "9",
        "max": "11",
        "non-finite": "0",
    }


def test_a_row_says_which_output_it_has():
    kinds = {
        ("loss", "dense"): "dense: float32[2]",
        ("loss", "loss"): "float32[2]",
        ("loss", None): "",
    }
    for (loss, output), kind in kinds.items():
        (row,) = tabulate(first_batch([loss], filter(None, [output]))).rows
        assert row.kind == kind


OF_VERSION_1 = {
    "loop": ["loss"],
    "lone_scalar": ["loss"],
    "values_alone": ["a/b", "c"],
    "left_out": ["loss"],
    "no_loss": [""],
    "vector_total": ["loss"],
    "unreduced": ["loss"],
    "two_outputs": ["loss", "a", "b"],
}


@pytest.mark.parametrize("recording", OF_VERSION_1)
def test_recordings_of_version_1_are_shown_by_the_same_rule(recording):
    first = read_first_loss(Path(__file__).parent / "contract_v1" / recording)
    assert [row.name for row in tabulate(first).rows] == OF_VERSION_1[recording]
    assert first._repr_html_().count("<tr>") == 1 + len(OF_VERSION_1[recording])


def test_a_loss_that_is_not_a_number_is_shown():
    first = FirstBatch(
        run="r", step=0, wall_time=0.0, losses={"loss": np.float16(math.nan)}, outputs={}
    )
    assert tabulate(first).rows[0].texts()["loss"] == "nan"
