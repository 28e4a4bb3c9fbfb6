"""What a user reads keeps to the word list of CONTRIBUTING.md: none of the words that it rejects."""

from __future__ import annotations

import re

import pytest

from tests import ROOT
from tests.worlds.pages import PAGES

WORDS = "CONTRIBUTING.md"
TABLE = PAGES[WORDS].partition("| Say | Meaning | Not |\n")[2].partition("\n\n")[0]
TURNS = [turn for row in TABLE.splitlines() for turn in re.findall(r"`([^`]+)`", row.rpartition("| ")[2])]
UNWANTED = re.compile("|".join(rf"\b{turn}\b" if turn[0].isalpha() else turn for turn in TURNS), re.IGNORECASE)


def unwanted(text: str) -> list[str]:
    """Return the turns that the text uses, each with the words around it; a line break counts as a space.

    What a program printed and what is generated have their source elsewhere.
    """
    text = re.sub(r"^```\n.*?^```$|^(<!-- .*? -->)$.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = " ".join(text.split())
    return [text[max(0, found.start() - 30) : found.end() + 30] for found in UNWANTED.finditer(text)]


def test_the_table_is_read() -> None:
    assert {"shall", "whoever", "the door", "«"} <= set(TURNS)
    assert len(unwanted("It shall\nnot, by the  door of a «Marshall»")) == 4


@pytest.mark.parametrize("name", sorted(PAGES.keys() - {WORDS}))
def test_a_page_keeps_to_them(name: str) -> None:
    assert unwanted(PAGES[name]) == []


@pytest.mark.parametrize("name", ["template.yaml", "samconfig.toml", "Makefile"])
def test_what_is_deployed_and_typed_keeps_to_them(name: str) -> None:
    assert unwanted((ROOT / name).read_text(encoding="utf-8")) == []
