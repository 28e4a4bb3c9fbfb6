"""Chaos as a person sees it: all rotations are done in the end, and nobody is locked out."""

from __future__ import annotations

from io import StringIO
from threading import Event, Thread
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest

from local import chaos
from local.servers.proxy import Passage
from local.terminal import Screen
from tests import ROOT

pytestmark = pytest.mark.costly("programs")


def test_ends_in_rotations_that_are_done_and_a_table_without_lock_outs(capsys: pytest.CaptureFixture[str]) -> None:
    tally = chaos.run_chaos(3, Screen(), seed=1)
    printed = capsys.readouterr().out
    assert tally.done == 3
    assert tally.killed.total() + tally.cut.total() + tally.restarted.total() + tally.put_back.total() > 0
    assert tally.locked_out.total() == 0
    assert "Rotations: 3 done" in printed
    assert "locked out" in printed
    assert printed.endswith('\nTo repeat this run: make rotate ARGS="--chaos 3 --seed 1"\n')
    assert max(map(len, printed.splitlines())) <= 80


def test_a_step_is_over_only_when_the_server_is_up_again() -> None:
    """What the function says comes when its connection ends, which is before the end of the restart."""
    done: list[str] = []
    restarting = Event()

    def restart() -> None:
        restarting.set()
        sleep(0.1)
        done.append("restarted")

    def invoke(_: object) -> str:
        passage = Passage(1, "ask", 0, 1, b"")
        Thread(target=proxy.rule, args=(passage,)).start()
        restarting.wait(10)
        return "DatabaseUnreachableError"

    proxy: Any = SimpleNamespace(rule=None, port=1)
    first: Any = SimpleNamespace(randrange=lambda _: 0)
    stack: Any = SimpleNamespace(postgres=SimpleNamespace(restart=restart), secret_arn="")
    run = chaos.Chaos(stack, cast("Any", SimpleNamespace(invoke=invoke)), (proxy, proxy), StringIO(), first)
    assert run._take("setSecret", "token", "restart") == "DatabaseUnreachableError"
    assert done == ["restarted"]


def test_a_recovery_is_known_by_a_line_that_the_function_logs() -> None:
    assert chaos.RECOVERED in "".join(file.read_text() for file in (ROOT / "rotation_lambda").rglob("*.py"))
