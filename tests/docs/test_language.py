"""Sentences stay short."""

import re
import statistics

import pytest

from tests.docs.pages import PAGES, prose


def sentences(page):
    """Returns a page's sentences, as lists of words; tables and headings have none."""
    text = re.sub(r"<!-- generated.*?<!-- end -->", "", prose(page), flags=re.DOTALL)
    text = re.sub(r"^(?:\||#|:::|!\[).*$|<!--.*?-->", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    parts = re.split(r"\n\s*\n|\n\s*(?:-|\d+\.) |(?<=[.!?])[*_]*\s", text)
    return [words for part in parts if (words := re.findall(r"[^\W_][^\s]*", part))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_sentence_has_more_than_35_words(page):
    assert [" ".join(words) for words in sentences(page) if len(words) > 35] == []


def test_the_mean_sentence_has_fewer_than_17_words():
    assert statistics.mean(len(words) for page in PAGES for words in sentences(page)) < 17
