import math

import pytest

from tb_firstloss.checks import parse_expectation


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
