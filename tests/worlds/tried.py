"""The table in docs/testing.md of what was tried: one row for each test of the crash matrix.

With CRASHES=write each test writes its own row; otherwise it must stand there already.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from typing import TYPE_CHECKING

import pytest

from rotation_lambda.settings import Strategy
from tests import ROOT
from tests.worlds.sample import MODE

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = ROOT / "docs" / "testing.md"
FROM, TO = "<!-- what was tried: begin -->\n", "<!-- what was tried: end -->\n"

WHOSE = {
    Strategy.SINGLE_USER: "",
    Strategy.ALTERNATING_USERS: "alternating users: ",
    Strategy.SUPERUSER: "by a superuser: ",
}

Tried = Callable[[int, int], None]


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """Call this at the end of a test that has met no violation, with the moments tried, and the ways on from each."""

    def compare(moments: int, ways: int) -> None:
        row = f"| {name_of(request.node)} | {moments} | {ways} | {moments * ways} | 0 |"
        if MODE == "write":
            write(row, names_beside(request.node))
        assert row in rows_of(PAGE.read_text(encoding="utf-8")), "CRASHES=write brings docs/testing.md up to date"

    return compare


def name_of(test: pytest.Item) -> str | None:
    """Return what the table calls the test, None where it has no row."""
    marker = test.get_closest_marker("row")
    if marker is None or not isinstance(test, pytest.Function):
        return None
    parameters = test.callspec.params if hasattr(test, "callspec") else {}
    return WHOSE[Strategy(str(parameters.get("strategy", Strategy.SINGLE_USER)))] + str(marker.args[0]).format(
        **parameters
    )


def names_beside(test: pytest.Item) -> list[str]:
    """Return the names of all rows of the test's module, whichever of its tests were selected."""
    [module] = [one for one in test.listchain() if isinstance(one, pytest.Module)]
    return [name for one in module.collect() if isinstance(one, pytest.Item) and (name := name_of(one))]


def rows_of(page: str) -> list[str]:
    """Return the rows of the page's table, but for head and sum."""
    return page.partition(FROM)[2].partition(TO)[0].splitlines()[2:-1]


def first_cell(row: str) -> str:
    return row.split(" | ", maxsplit=1)[0].removeprefix("| ")


def in_all(rows: Sequence[str]) -> str:
    """Return the last row: what the others come to."""
    numbers = [re.findall(r" (\d+) \|", row) for row in rows]
    return f"| in all | {sum(int(row[-4]) for row in numbers)} | | {sum(int(row[-2]) for row in numbers)} | 0 |"


def write(row: str, names: Sequence[str]) -> None:
    """Put the row in its place, and leave the rows out that are no test's."""
    with PAGE.open("r+", encoding="utf-8") as page:
        flock(page, LOCK_EX)  # others write their rows beside us
        text = page.read()
        known = {first_cell(one): one for one in (*rows_of(text), row)}
        rows = [known[name] for name in names if name in known]
        before, _, rest = text.partition(FROM)
        told, _, after = rest.partition(TO)
        table = "\n".join([*told.splitlines()[:2], *rows, in_all(rows), ""])
        page.seek(0)
        page.write(before + FROM + table + TO + after)
        page.truncate()
