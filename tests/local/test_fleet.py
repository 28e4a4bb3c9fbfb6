"""A fleet as a person sees it: how many of its secrets are rotated, tried again and lost."""

from __future__ import annotations

import re
import sys
from itertools import count
from typing import TYPE_CHECKING

import pytest

from local import fleet
from local.__main__ import main
from local.terminal import Screen
from tests.worlds.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.costly("programs")


def denying(puts: int) -> Callable[[str], tuple[int, str] | None]:
    """Deny so many calls of PutSecretValue, which the function does not repeat."""
    numbers = count()
    return lambda operation: (
        (400, "AccessDeniedException") if operation == "PutSecretValue" and next(numbers) < puts else None
    )


def test_a_terminal_shows_a_bar_and_then_a_table_in_which_none_is_lost() -> None:
    with terminal() as shown, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        patch.setattr(sys, "stdout", shown.file)
        found = fleet.run_fleet(2, Screen(), strategy="alternating-users", refuse=denying(1))
    assert [found[name] for name in ("secrets", "rotated", "retried", "lost")] == [2, 2, 1, 0]
    assert found["as_expected"]
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.shown)
    assert re.search(r"rotating ━+ 2/2 ", plain)
    assert re.search(r"^ +2 +2 +1 +0 +\d+ +\d+\.\d\d s +\d+\.\d s$", plain, re.MULTILINE)


def test_a_pipe_gets_the_table_alone_and_the_caller_the_secrets_that_are_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first secret fails as often as it is tried, and the other one is rotated all the same."""
    monkeypatch.setattr(fleet, "AT_ONCE", 1)
    run = fleet.run_fleet
    monkeypatch.setattr(
        "local.__main__.run_fleet",
        lambda number, screen, strategy: run(number, screen, strategy=strategy, refuse=denying(fleet.ATTEMPTS)),
    )
    assert main(["--fleet", "2"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    told, empty, head, row = out.splitlines()
    assert told == "1 at the same time, 50 writes a second, single-user."
    assert (empty, head) == ("", fleet.ROW.format(*fleet.HEAD))
    assert row.split()[:4] == ["2", "1", "1", "1"]
    assert max(len(head), len(row)) <= 80
