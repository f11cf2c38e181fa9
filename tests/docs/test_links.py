"""Links lead somewhere, pictures are there, and the README keeps its promises of size."""

import re

import pytest

from tests.docs.pages import OTHERS, PAGES, REPOSITORY, prose

ADDRESS = "https://github.com/tb-firstloss/tb-firstloss/"
ALL = [*PAGES, *OTHERS]


def slugs(page):
    """Returns the anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        target = re.sub(rf"^{ADDRESS}(?:blob|tree|raw)/HEAD/", "/", target)
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        base = REPOSITORY if path.startswith("/") else page.parent
        file = (base / path.removeprefix("/")).resolve() if path else page
        assert file.exists(), target
        assert not anchor or file.suffix == ".png" or anchor in slugs(file), target


def test_every_picture_of_the_manual_is_shown_and_described():
    shown = {
        (page.parent / path).name
        for page in PAGES
        for text, path in re.findall(r"!\[([^]]*)\]\(([^)#]*\.png)[^)]*\)", prose(page))
        if text
    }
    assert shown == {path.name for path in (REPOSITORY / "docs").glob("*.png")}


def test_the_readme_is_a_front_page():
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 120] == []
