"""A person is shown a rotation step by step, in a pipe, on a terminal and in JSON."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from local.rotate import show_rotation
from local.servers import rotation
from local.servers.stack import Stack, run_stack
from local.terminal import Screen
from rotation_lambda import handler
from tests.worlds.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.costly("programs")


@pytest.fixture(scope="module", params=["single-user", "alternating-users"])
def servers(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with run_stack(strategy=request.param) as running:
        yield running


@pytest.fixture
def stack(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")  # they are lines on standard output
    return servers


def invoke(event: dict[str, str]) -> object:
    context: Any = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
        aws_request_id="test",
        get_remaining_time_in_millis=lambda: 60_000,
    )
    return handler.lambda_handler(event, context)


def test_a_rotation_fits_eighty_columns(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        show_rotation(stack, invoke, Screen())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    steps = [line.split()[0] for line in lines if re.match(r"\w+ +[0-9a-f]{4} ", line)]
    assert steps == ["before", *rotation.STEPS] * 2


def test_what_is_shown_is_returned_for_a_program(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.result(show_rotation(stack, invoke, screen))
    found = json.loads(capsys.readouterr().out)
    before, *_, after = found["steps"]
    assert [row["after"] for row in found["steps"]] == ["before", *rotation.STEPS]
    assert before["empty"] == [before["AWSPENDING"]]
    assert after["AWSCURRENT"] == before["AWSPENDING"]
    assert after["AWSCURRENT"][:4] in [version.split()[0] for version in after["accepted"]]
    assert (found["new"], found["refused"]) == ("accepted", 0)
    assert found["calls"].keys() == set(rotation.STEPS)


def test_a_terminal_shows_what_is_done_and_keeps_every_row(stack: Stack) -> None:
    with terminal() as shown, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        patch.setattr(sys, "stdout", shown.file)
        show_rotation(stack, invoke, Screen())
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.shown)
    assert re.search(r"[|/\\-] setSecret 0:00:00", plain)
    rows = [line.split()[0] for line in re.split(r"[\r\n]", plain) if re.match(r"\w+ +[0-9a-f]{4} ", line)]
    assert rows == ["before", *rotation.STEPS]
    assert "\x1b[1m" in shown.shown
