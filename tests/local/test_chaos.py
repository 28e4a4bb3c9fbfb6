"""Chaos as a person sees it: all rotations are done in the end, and nobody is locked out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local import chaos
from local.terminal import Screen
from tests import ROOT

if TYPE_CHECKING:
    import pytest


def test_ends_in_rotations_that_are_done_and_a_table_without_lock_outs(capsys: pytest.CaptureFixture[str]) -> None:
    tally = chaos.run_chaos(3, Screen(), seed=1)
    printed = capsys.readouterr().out
    assert tally.done == 3
    assert tally.killed.total() + tally.cut.total() + tally.restarted.total() + tally.put_back.total() > 0
    assert tally.locked_out.total() == 0
    assert "3 rotations done" in printed
    assert "locked out" in printed
    assert printed.endswith('\nTo repeat this run: make rotate ARGS="--chaos 3 --seed 1"\n')
    assert max(map(len, printed.splitlines())) <= 80


def test_a_recovery_is_known_by_a_line_that_the_function_logs() -> None:
    assert chaos.RECOVERED in "".join(file.read_text() for file in (ROOT / "rotation_lambda").rglob("*.py"))
