"""How messages are shortened to one line, and lists of names to a few."""

import pytest

from tb_firstloss import errors


@pytest.mark.parametrize(
    ("error", "line", "named"),
    [
        (ValueError("\n  one\ntwo"), "one", "ValueError: one"),
        (ValueError(), "ValueError", "ValueError"),
        (ValueError("\n \n"), "ValueError", "ValueError"),
        (errors.CaptureError("one\ntwo"), "one", "one"),
    ],
    ids=["several-lines", "empty", "blank", "of-this-package"],
)
def test_an_error_is_reported_by_its_first_line(error, line, named):
    assert errors.first_line(error) == line
    assert errors.first_line(error, named=True) == named


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c, …")], ids=str
)
def test_long_lists_of_names_are_cut(count, text):
    assert errors.some_of(list("abcdef")[:count], limit=3) == text
