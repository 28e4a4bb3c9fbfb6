"""A test that fails shows what the function and the server said during it; what costs much is run by turns."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from tests import ROOT
from tests.worlds import sample

if TYPE_CHECKING:
    from pathlib import Path

FAILING = """
from tests.worlds.scenes import scene, set_scene

def test_before(scene):
    scene.role.alter("SET application_name = 'before'")

def test_fails(scene):
    scene.role.alter("SET application_name = 'during'")
    scene.rotate()
    raise ValueError
"""


def test_a_failure_shows_the_lines_of_the_function_and_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    _, _, failure = told.partition(" FAILURES ")
    assert "1 failed, 1 passed" in told, told
    assert '"message":"Stored a new password for ' in failure, told
    _, _, server = failure.partition("- PostgreSQL 17 on port ")
    assert "ALTER ROLE SESSION_USER" in server
    assert "'before'" not in server


@dataclass(frozen=True)
class Item:
    """What the draw looks at."""

    nodeid: str
    fixturenames: tuple[str, ...] = ()
    marks: dict[str, pytest.Mark] = field(default_factory=dict, hash=False)

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.marks.get(name)


def costly(*kind: str) -> dict[str, pytest.Mark]:
    return {"costly": pytest.mark.costly(*kind).mark}


QUICK = [Item(f"test_a.py::test_quick[{number}]") for number in range(20)]
KINDS = {
    "cases": [Item(f"test_a.py::test_cases[{number}]", ("scene", "secrets_manager")) for number in range(21)],
    "few": [Item(f"test_a.py::test_few[{number}]", marks=costly()) for number in range(3)],
    "builds": [Item(f"test_b.py::test_{number}", marks=costly("builds")) for number in range(9)],
    "another": [Item("test_c.py::test_alone", ("postgres",))],
}
MATRIX = [Item(f"test_crashes.py::test_{number}", ("secrets_manager",), costly(sample.MATRIX)) for number in range(7)]


def run_on(day: int | None, monkeypatch: pytest.MonkeyPatch) -> set[Item]:
    monkeypatch.setattr(sample, "DAY", day)
    items = [*MATRIX, *QUICK, *(item for cases in KINDS.values() for item in cases)]
    return set(items) - {cast("Item", item) for item in sample.not_drawn(cast("list[pytest.Item]", items))}


def test_each_day_runs_a_part_of_each_kind_that_costs_much_and_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    days = [run_on(day, monkeypatch) for day in range(739_000, 739_000 + 2 * sample.PARTS)]
    for day in days:
        assert day >= {*QUICK}
        assert 3 <= len(day.intersection(MATRIX)) <= 4
        for cases in KINDS.values():
            assert 1 <= len(day.intersection(cases)) <= 1 + len(cases) // sample.PARTS
    assert set.union(*days) == run_on(None, monkeypatch) == {*MATRIX, *QUICK}.union(*KINDS.values())
    assert set.union(*days[: sample.PARTS]) >= set.union(*map(set, KINDS.values()))
