"""docs/security.md's table of attackers names every class of tests/attacks, and no other."""

from __future__ import annotations

import ast
import re

from tests import ROOT
from tests.worlds.pages import PAGES

FILES = sorted((ROOT / "tests" / "attacks").glob("test_*.py"))
CLASSES = {
    f"{path.name}::{node.name}": [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
    for path in FILES
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
}
TABLE = PAGES["docs/security.md"].partition("| Attacker | Could try |")[2].partition("\n\n")[0]


def test_each_row_names_what_shows_it() -> None:
    rows = TABLE.splitlines()[2:]
    assert len(rows) > 10
    assert all(re.search(r"\| `test_\w+\.py::Test\w+` \|$", row) for row in rows)


def test_each_attack_is_in_the_table() -> None:
    assert sorted(re.findall(r"`(test_\w+\.py::Test\w+)`", TABLE)) == sorted(CLASSES)


def test_each_attack_has_the_honest_case_beside_it() -> None:
    lonely = [name for name, tests in CLASSES.items() if not any("honest" in test for test in tests)]
    assert lonely == []
