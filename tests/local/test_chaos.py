"""Chaos as a person sees it: all rotations are done in the end, and nobody is locked out."""

from __future__ import annotations

import io

from rich.console import Console

from local.chaos import run_chaos


def test_ends_in_rotations_that_are_done_and_a_table_without_lock_outs() -> None:
    console = Console(file=io.StringIO(), width=100)
    tally = run_chaos(3, console, seed=1)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert tally.done == 3
    assert tally.killed.total() + tally.cut.total() + tally.restarted.total() + tally.put_back.total() > 0
    assert tally.locked_out.total() == 0
    assert "3 rotations done" in printed
    assert "locked out" in printed
    assert "--chaos 3 --seed 1" in printed
