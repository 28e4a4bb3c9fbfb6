"""What is generated in the pages is there and up to date, and what the hints refer to exists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from local import pages
from rotation_lambda import errors
from tests import ROOT
from tests.worlds.pages import PAGES, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

SCREEN = 60
"""Lines, above which a page needs a table of contents."""


def kinds(kind: type[errors.RotationError] = errors.RotationError) -> Iterator[type[errors.RotationError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from kinds(below)


@pytest.mark.parametrize("name", PAGES)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    """If not: make docs."""
    assert pages.renew(PAGES[name]) == PAGES[name]


@pytest.mark.parametrize("name", ["breakages", "codes", "outputs", "parameters", "regions"])
def test_each_table_is_there_once(name: str) -> None:
    assert TEXT.count(f"<!-- {name} -->") == 2


def test_every_error_has_a_section_with_its_code_its_class_and_its_hint() -> None:
    for kind in kinds():
        section = PAGES["docs/errors.md"].partition(f"\n## {kind.code}\n")[2].partition("\n## ")[0]
        assert section.startswith(f"\n`{kind.__name__}`: ")
        assert kind.hint in re.sub(r"\[(docs/[^]]+)\]\([^)]+\)", r"\1", section)


def test_a_table_that_is_old_is_renewed() -> None:
    old = "a\n<!-- codes -->\nold\n<!-- codes -->\nb\n"
    new = pages.renew(old)
    assert new.startswith("a\n<!-- codes -->\n\n## rotation-failed\n")
    assert new.endswith(".\n<!-- codes -->\nb\n")
    assert "old" not in new.splitlines()


def test_a_page_that_is_longer_than_a_screen_has_a_table_of_contents() -> None:
    long = [name for name, text in PAGES.items() if text.count("\n") > SCREEN and name.startswith(("README", "docs/"))]
    assert [name for name in long if "<!-- contents -->\n- [" not in PAGES[name]] == []


def test_every_page_and_section_that_the_program_names_is_there() -> None:
    """In a hint, a help text, a description of the template."""
    files = [*ROOT.glob("rotation_lambda/**/*.py"), *ROOT.glob("local/**/*.py"), ROOT / "template.yaml"]
    text = "\n".join(re.sub(r'["\']\n *["\']', "", file.read_text(encoding="utf-8")) for file in files)
    named = set(re.findall(r"\bdocs/[\w-]+\.md(?:#[\w-]*\w)?", text))
    assert "docs/runbook.md#change-the-secret" in named
    for page, _, anchor in (name.partition("#") for name in named):
        assert not anchor or anchor in {pages.anchor(title) for _, title in pages.headings(PAGES[page])}
