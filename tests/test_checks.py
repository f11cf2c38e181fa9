import math

import numpy as np
import pytest

from tb_firstloss import FirstBatch, OutputLoss
from tb_firstloss.checks import check, parse_expectation


@pytest.mark.parametrize(
    ("expect", "value"),
    [
        (2, 2.0),
        (0.5, 0.5),
        ("2.5", 2.5),
        ("log(10)", math.log(10)),
        (" ln(1000) ", math.log(1000)),
        ("log2(8) + 1", 4.0),
        ("-(1 - 3) * 2 / 4", 1.0),
        ("sqrt(2 * pi) + e", math.sqrt(2 * math.pi) + math.e),
    ],
)
def test_an_expectation_is_a_number_or_simple_arithmetic(expect, value):
    assert parse_expectation(expect) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "expect",
    [
        "", "log(", "log(0)", "1/0", "__import__('os')", "log.__class__", "x", "[1]",
        "1 if 1 else 2", "log(10, 2)", "True", "'a'", "9" * 5000, "1e999", "2**9999",
        "(" * 500 + "1" + ")" * 500,
        math.nan, math.inf, "1\0",
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(expect):
    with pytest.raises(ValueError, match="expect: ") as caught:
        parse_expectation(expect)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("expect", [None, True, [1], b"1"])
def test_other_types_are_refused(expect):
    with pytest.raises(TypeError, match="expect: "):
        parse_expectation(expect)


def first_batch(values=None, loss=None, **more):
    """A first batch with an output of these values, if any, and more outputs by name."""
    outputs = {} if values is None else {"out": np.asarray(values, np.float32)}
    outputs |= {name: np.asarray(array, np.float32) for name, array in more.items()}
    return FirstBatch(
        run="run",
        step=0,
        wall_time=0.0,
        loss=None if loss is None else np.float32(loss),
        outputs={name: OutputLoss(per_example=array) for name, array in outputs.items()},
    )


@pytest.mark.parametrize(
    ("values", "expect", "kind"),
    [
        ([1.9, 2.1], 2.0, "ok"),
        ([2.0, 2.375], "1 + 1", "ok"),  # off by 9 %, within 10 %
        ([2.0, 2.5], 2.0, "high"),
        ([1.0, 2.0], 2.0, "low"),
        ([2.0, np.nan], 2.0, "non-finite"),
        ([2.0, np.inf], 2.0, "non-finite"),
        ([2.0, 2.0, 2.0], 2.0, "constant"),
        ([5.0, 5.0, 5.0], 2.0, "constant"),
        ([2.0], 2.0, "ok"),  # a single example is not constant
    ],
)
def test_the_verdict_is_about_the_mean_of_the_values(values, expect, kind):
    verdict = check(first_batch(values, loss=9.0), expect)
    assert (verdict.kind, verdict.ok) == (kind, kind == "ok")
    assert verdict.compared == "mean per-example loss"
    assert verdict.expected == 2.0


@pytest.mark.parametrize(("loss", "kind"), [(2.0, "ok"), (3.0, "high"), (np.nan, "non-finite")])
@pytest.mark.parametrize("outputs", [{}, {"a": [1.0, 7.0], "b": [1.0, 2.0]}], ids=["none", "two"])
def test_without_a_single_output_the_verdict_is_about_the_loss_and_says_so(loss, kind, outputs):
    verdict = check(first_batch(loss=loss, **outputs), 2.0)
    assert verdict.kind == kind
    assert str(verdict).startswith("loss ")


def test_a_non_finite_loss_is_found_behind_finite_values():
    assert check(first_batch([1.9, 2.1], loss=np.inf), 2.0).kind == "non-finite"


@pytest.mark.parametrize(
    ("tolerance", "ok"),
    [({}, False), ({"rtol": 0.3}, True), ({"rtol": 0, "atol": 0.5}, True), ({"rtol": 0}, False)],
)
def test_tolerances_widen_the_expectation(tolerance, ok):
    assert check(first_batch([2.0, 3.0]), 2.0, **tolerance).ok is ok


@pytest.mark.parametrize("kind", ["high", "low", "non-finite", "constant"])
def test_every_finding_names_values_and_usual_causes_in_one_sentence(kind):
    values = {"high": [3, 4], "low": [0, 1], "non-finite": [np.nan, 2], "constant": [2, 2]}
    message = check(first_batch(values[kind]), 2.0).message
    assert "expected 2" in message
    assert "Usual causes: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"expect": "auto"}, "is for FirstLossCallback and probe"),
        ({"expect": 2, "rtol": -1}, "rtol: -1"),
        ({"expect": 2, "atol": math.nan}, "atol: nan"),
    ],
)
def test_unusable_options_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        check(first_batch([2.0]), **options)


def test_several_outputs_without_a_loss_have_no_verdict():
    with pytest.raises(ValueError, match="2 outputs and no scalar loss"):
        check(first_batch(a=[1.0], b=[2.0]), 2.0)
