"""Every link leads somewhere, and every page is found from README.md."""

from __future__ import annotations

import re

import pytest

from local import pages
from tests import ROOT
from tests.worlds.pages import PAGES

README_LINES = 200


def links(name: str) -> list[str]:
    """Return where the page's links lead within the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]) if not target.startswith("https://")]


@pytest.mark.parametrize(
    ("title", "anchor"),
    [
        ("Roll back", "roll-back"),
        ("A previous rotation isn't complete", "a-previous-rotation-isnt-complete"),
        ("`code` and `errorType`", "code-and-errortype"),
        ("Alternating users: GRANT, a role", "alternating-users-grant-a-role"),
    ],
)
def test_a_heading_has_the_anchor_that_github_gives_it(title: str, anchor: str) -> None:
    assert pages.anchor(title) == anchor


def test_what_looks_like_a_heading_in_a_block_is_none() -> None:
    assert pages.headings("# A\n```sh\n# no\n```\n## B\n   ```\n   # no\n   ```\n") == [(1, "A"), (2, "B")]


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in links(name):
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.resolve().is_relative_to(ROOT), target
        assert file.exists(), target
        if anchor:
            titles = pages.headings(PAGES[file.resolve().relative_to(ROOT).as_posix()])
            assert anchor in {pages.anchor(title) for _, title in titles}, target


@pytest.mark.parametrize(
    "name", [name for name in PAGES if name != "CHANGELOG.md"]
)  # where each version has the same sections
def test_no_two_sections_of_a_page_have_one_anchor(name: str) -> None:
    anchors = [pages.anchor(title) for _, title in pages.headings(PAGES[name])]
    assert sorted(set(anchors)) == sorted(anchors)


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/")])
def test_every_page_is_found_from_the_readme(name: str) -> None:
    assert name in links("README.md")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_one_title_in_its_first_line(name: str) -> None:
    assert [title for level, title in pages.headings(PAGES[name]) if level == 1] == [PAGES[name].splitlines()[0][2:]]


def test_the_readme_is_short() -> None:
    assert PAGES["README.md"].count("\n") <= README_LINES
