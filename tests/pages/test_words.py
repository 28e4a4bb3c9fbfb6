"""What a user reads keeps to the word list of CONTRIBUTING.md: none of the words that it rejects."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING

import pytest

from tests import ROOT
from tests.worlds.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


ROOMS = "rotation_lambda", "local", "examples", "benchmarks"
CODE = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
THE_ACCOUNT = re.compile(r"(?:account|all|as) nobody\b")  # under which PostgreSQL runs where we are root


def told(source: str) -> Iterator[str]:
    """Yield every string of a module that has more than one word, docstrings too, and every comment."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and " " in str(node.value):
            yield str(node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_what_a_module_tells_is_read() -> None:
    source = '"""One two."""\nx = f"three {4} four"  # five\ny = "single"'
    assert list(told(source)) == ["One two.", "three ", " four", "# five"]


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_messages_docstrings_and_comments_keep_to_them(file: Path) -> None:
    source = THE_ACCOUNT.sub("", file.read_text(encoding="utf-8"))
    assert [turn for text in told(source) for turn in unwanted(text)] == []


@pytest.mark.parametrize("name", ["template.yaml", "samconfig.toml", "Makefile"])
def test_what_is_deployed_and_typed_keeps_to_them(name: str) -> None:
    assert unwanted((ROOT / name).read_text(encoding="utf-8")) == []
