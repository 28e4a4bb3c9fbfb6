"""A test that fails shows what the function and the server said during it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests import ROOT

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
    assert "1 failed, 1 passed" in told
    assert '"message":"Stored a new password for ' in failure
    _, _, server = failure.partition("- PostgreSQL 17 on port ")
    assert "ALTER ROLE SESSION_USER" in server
    assert "'before'" not in server
