import math

import numpy as np
import pytest

from tb_firstloss import FirstBatch, OutputLoss
from tb_firstloss.checks import check, check_tolerance, parse_expectation


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
        losses={} if loss is None else {"loss": np.float32(loss)},
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


@pytest.mark.parametrize(
    ("expect", "value"),
    [
        ("+1.5", 1.5),
        ("2 - 3 - 4", -5.0),
        ("8 / 4 / 2", 1.0),
        ("2 + 3 * 4", 14.0),
        ("(2 + 3) * 4", 20.0),
        ("exp(1) - e", 0.0),
        ("log10(1000)", 3.0),
        ("sqrt(16)", 4.0),
        ("pi", math.pi),
        ("1e3", 1000.0),
        ("0", 0.0),
    ],
)
def test_arithmetic_follows_the_usual_rules(expect, value):
    found = parse_expectation(expect)
    assert (type(found), found) == (float, pytest.approx(value, rel=1e-15))


@pytest.mark.parametrize(
    "expect", ["pi()", "log", "log(x=1)", "log(*[1])", "1 < 2", "1; 2", "x = 1", "~1", "not 1",
               "2 ** 3", "7 // 2", "7 % 2", "1j", "True + 1", "+True", "math.log(1)", "log(1)(2)"]
)  # fmt: skip
def test_no_other_python_is_evaluated(expect):
    with pytest.raises(ValueError, match=r"^expect: "):
        parse_expectation(expect)


def test_a_refusal_shows_the_shortened_expression_and_the_reason():
    with pytest.raises(ValueError, match=r"expect: 'os\.exit' .*log2.*sqrt") as caught:
        parse_expectation("os.exit")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match=r"expect: ") as caught:
        parse_expectation("x" * 5000)
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"expect: inf .*finite"):
        parse_expectation(math.inf)
    with pytest.raises(TypeError, match=r"expect: \[1\]"):
        parse_expectation([1])


@pytest.mark.parametrize("text", ["1e999", "1e308 * 10"])
def test_an_expression_without_a_finite_value_is_refused(text):
    with pytest.raises(ValueError, match=r"finite"):
        parse_expectation(text)


@pytest.mark.parametrize("tolerance", [-1e-9, -math.inf, math.inf, math.nan])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_is_a_finite_number_of_at_least_0(name, tolerance):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        check(first_batch([2.0]), 2.0, **{name: tolerance})
    check_tolerance(name, 0)
    check_tolerance(name, 1e300)


@pytest.mark.parametrize(
    ("expect", "tolerance", "kind"),
    [
        (2.0, {"rtol": 0.25}, "ok"),
        (2.0, {"rtol": 0.125, "atol": 0.25}, "ok"),
        (2.0, {"rtol": 0.125, "atol": 0.125}, "high"),
        (2.0, {"rtol": 0, "atol": 0.5}, "ok"),
        (3.0, {"rtol": 0, "atol": 0.5}, "ok"),
        (3.0, {"rtol": 0, "atol": 0.25}, "low"),
        (-2.5, {"rtol": 2.0}, "ok"),
        (-2.5, {"rtol": 1.0}, "high"),
        (2.5, {"rtol": 0}, "ok"),
    ],
)
def test_the_tolerance_is_atol_plus_a_share_of_the_expectations_size(expect, tolerance, kind):
    """The value is 2.5, so the boundaries are exact."""
    assert check(first_batch([2.0, 3.0]), expect, **tolerance).kind == kind


def test_the_default_tolerance_is_a_tenth():
    assert check(first_batch([11.0]), 10).ok
    assert not check(first_batch([11.5]), 10).ok
    assert check(first_batch([0.0]), 0).ok
    assert not check(first_batch([1e-6]), 0).ok


@pytest.mark.parametrize(
    ("values", "kind", "parts"),
    [
        ([2.0, 2.125], "ok", ["mean per-example loss 2.0625", "2"]),
        ([3.0, 4.0], "high", ["mean per-example loss 3.5", "expected 2", "1.5", "0.2", "weights"]),
        ([0.0, 1.0], "low", ["mean per-example loss 0.5", "expected 2", "1.5", "0.2", "labels"]),
        ([math.nan, 2, math.inf], "non-finite", ["expected 2", "2 of 3", "overflow"]),
        ([5.0, 5.0], "constant", ["expected 2", "all 2", "'out'", "last layer"]),
    ],
)
def test_the_message_says_what_was_found(values, kind, parts):
    verdict = check(first_batch(values), 2.0)
    assert verdict.kind == kind
    assert [part for part in parts if part not in verdict.message] == []
    assert str(verdict) == verdict.message


def test_the_verdict_carries_the_numbers_that_were_compared():
    verdict = check(first_batch([3.0, 4.0]), "1 + 1")
    assert (verdict.value, verdict.expected, verdict.ok) == (3.5, 2.0, False)
    verdict = check(first_batch(loss=3.0), 2)
    assert (verdict.value, verdict.compared, verdict.kind) == (3.0, "loss", "high")
    assert math.isnan(check(first_batch([math.nan]), 2.0).value)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"b": [1.0, math.nan]}, "non-finite"),
        ({"b": [4.0, 4.0]}, "constant"),
        ({"b": [4.0]}, "ok"),
        ({"b": []}, "ok"),
        ({"b": [1.0, 2.0]}, "ok"),
    ],
)
def test_every_output_is_examined_though_the_loss_is_compared(more, kind):
    assert check(first_batch(loss=2.0, a=[1.0, 3.0], **more), 2.0).kind == kind


def test_a_constant_output_is_named():
    assert "'b'" in check(first_batch(loss=2.0, a=[1.0, 3.0], b=[4.0, 4.0]), 2.0).message


def test_an_infinite_total_is_shown_with_its_value():
    for loss in (math.inf, -math.inf, math.nan):
        verdict = check(first_batch([1.9, 2.1], loss=loss), 2.0)
        assert verdict.kind == "non-finite"
        assert str(loss) in verdict.message
        assert verdict.value == pytest.approx(2.0)


@pytest.mark.parametrize("outputs", [{}, {"a": [1.0], "b": [2.0]}], ids=["none", "two"])
def test_a_loss_of_higher_rank_has_no_verdict(outputs):
    with pytest.raises(ValueError, match=rf"^run: {len(outputs)} outputs"):
        check(first_batch(loss=[1.0, 2.0], **outputs), 2.0)
    assert check(first_batch([2.0], loss=[1.0, math.inf]), 2.0).ok
