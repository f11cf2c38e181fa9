import math

import pytest

from tb_firstloss.arithmetic import evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+1.5", 1.5),
        ("2 - 3 - 4", -5.0),
        ("8 / 4 / 2", 1.0),
        ("2 + 3 * 4", 14.0),
        ("(2 + 3) * 4", 20.0),
        ("exp(1) - e", 0.0),
        ("log10(1000)", 3.0),
        ("log2(8)", 3.0),
        ("ln(e) + log(e)", 2.0),
        ("sqrt(16)", 4.0),
        ("pi", math.pi),
        ("1e3", 1000.0),
        (" -0 ", 0.0),
    ],
)
def test_arithmetic_follows_the_usual_rules(text, value):
    found = evaluate(text)
    assert (type(found), found) == (float, pytest.approx(value, rel=1e-15))


@pytest.mark.parametrize(
    "text", ["pi()", "log", "log(x=1)", "log(*[1])", "1 < 2", "1; 2", "x = 1", "~1", "not 1",
             "2 ** 3", "7 // 2", "7 % 2", "1j", "True + 1", "+True", "math.log(1)", "log(1)(2)"]
)  # fmt: skip
def test_no_other_python_is_evaluated(text):
    with pytest.raises(ValueError, match=r"only numbers, |invalid syntax"):
        evaluate(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1/0", "division by zero"),
        ("exp(1000)", "math range error"),
        ("1e400 - 1e400 + log(0)", "."),
        ("sqrt(-1)", "."),
        ("(" * 300 + "1" + ")" * 300, "nested parentheses"),
        ("-" * 999 + "1", "recursion|MemoryError"),
    ],
    ids=lambda text: text[:10],
)
def test_what_has_no_value_is_a_value_error_that_says_why(text, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(text)


def test_a_text_that_could_crash_pythons_parser_is_not_parsed():
    assert evaluate("1" + " " * 999) == 1
    with pytest.raises(ValueError, match="more than 1000 characters"):
        evaluate("1" + " " * 1000)
