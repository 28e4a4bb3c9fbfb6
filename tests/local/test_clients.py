"""Applications see of a rotation what its strategy promises, and a person is shown that they do."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from examples import database
from local.clients import Window, run_rotations, settings_for
from local.servers import applications
from local.servers.stack import STRATEGIES, USERNAME, Stack, run_stack
from local.terminal import Screen
from rotation_lambda import handler
from rotation_lambda.settings import Strategy
from tests.worlds.clocks import PATIENCE_S
from tests.worlds.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.rotation import Invoke
    from tests.conftest import Role, Secret

pytestmark = pytest.mark.costly("programs")

REFUSED = "password authentication failed"
ONE_ROW = re.compile(r"^(\d+) +(\d+) ms +(\d+) +(\d+) +(\d+) +(\d+)$", re.MULTILINE)

changes_the_user_in_use = pytest.mark.parametrize("strategy", ["single-user", "superuser"])


def run(*arguments: str) -> str:
    """Return what the command prints in a process of its own, as a pipe gets it."""
    command = [sys.executable, "-m", "local", *arguments]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    # A client that read AWSCURRENT before the move, and AWSPENDING after it, has to wait a moment, and says so.
    said = re.sub(r"^No session by \S+ yet; trying again: .*\n\s*", "", ran.stderr, flags=re.MULTILINE)
    assert (ran.returncode, said) == (0, ""), ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    return ran.stdout


def total(printed: str) -> list[int]:
    """Return the counts of the last row, once they are the sums of those above."""
    cells = [row.split() for row in printed.splitlines() if re.match(r"before|after|in all|\d+ +\d+ ms", row)]
    *above, last = ([int(cell) for cell in row[-4:]] for row in cells)
    assert [sum(column) for column in zip(*above, strict=True)] == last
    return last


def rows(printed: str) -> list[list[int]]:
    """Return each rotation's line: its number, the window, logins with the fallback, logins with AWSCURRENT alone."""
    return [[int(cell) for cell in row] for row in ONE_ROW.findall(printed)]


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with run_stack(settings=settings_for(2)) as running:
        yield running


@pytest.fixture
def stack(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")  # they are lines on standard output
    return servers


def invoke(event: dict[str, str]) -> object:
    """Have the function change its user's own password."""
    context: Any = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
        aws_request_id="test",
        get_remaining_time_in_millis=lambda: 60_000,
    )
    return handler.lambda_handler(event, context)


def watch(stack: Stack, function: Invoke) -> bool:
    """Rotate once before clients; return whether they saw what they should."""
    return bool(run_rotations(stack, function, Screen(), clients=1, times=1)["as_expected"])


@changes_the_user_in_use
def test_every_refused_login_lies_between_the_commit_and_the_move(strategy: str) -> None:
    printed = run("--strategy", strategy, "--clients", "2", "--times", "2")
    assert f"Rotations: 2, {strategy}.\n" in printed
    numbers, windows, accepted, refused, accepted_alone, refused_alone = zip(*rows(printed), strict=True)
    assert (numbers, refused) == ((1, 2), (0, 0))
    assert min(*accepted, *accepted_alone) > 0
    assert f"{max(windows)} ms (longest)." in printed
    assert total(printed)[1::2] == [0, sum(refused_alone)]
    assert printed.endswith(f"\nAll {sum(refused_alone)} refused logins lie in that time.\n")


def test_alternating_users_are_never_refused() -> None:
    printed = run("--strategy", "alternating-users", "--clients", "2", "--times", "3")
    assert [(refused, alone) for _, _, _, refused, _, alone in rows(printed)] == [(0, 0)] * 3
    assert " AWSPENDING 0;" in printed
    assert total(printed)[1::2] == [0, 0]
    assert printed.endswith("\nNo login was refused.\n")


def test_the_table_shows_that_both_of_two_users_log_in_and_which_is_whose() -> None:
    printed = run("--strategy", "alternating-users", "--times", "2")
    first, second, _, third = re.findall(r"^(?:before|finishSecret) +([0-9a-f]{4}) ", printed, re.MULTILINE)
    accepted = [set(re.findall(r"([0-9a-f]{4}) \((app\w*)\)", line)) for line in printed.splitlines()]
    app, clone, again = (first, "app"), (second, "app_clone"), (third, "app")
    first_rotation = [{app}] * 2 + [{app, clone}] * 3
    second_rotation = [{app, clone}] * 2 + [{clone, again}] * 3
    assert [pairs for pairs in accepted if pairs] == first_rotation + second_rotation
    assert "The old password (of app) is accepted, the new one (of app_clone) is accepted." in printed
    assert "The old password (of app_clone) is accepted, the new one (of app) is accepted." in printed


def test_the_strategies_are_those_of_the_function() -> None:
    assert {*Strategy} - {Strategy.AUTO} == {*STRATEGIES}


@pytest.mark.parametrize(
    ("began", "answered", "explained"),
    [(8, 9, False), (9, 10, True), (12, 14, True), (9, 21, True), (20, 22, True), (21, 22, False)],
)
def test_a_window_explains_who_read_before_its_end_and_was_refused_after_its_beginning(
    began: float,
    answered: float,
    explained: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert Window(opened=10, closed=20).explains(began, answered) is explained


def test_a_login_that_is_refused_outside_of_the_window_does_not_pass(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody changes the password by hand while the rotation begins, and back again."""

    def meddle(event: dict[str, str]) -> object:
        if event["Step"] == "createSecret":
            change("by hand")
            enough, deadline = stack.postgres.log().count(REFUSED) + 20, time.monotonic() + PATIENCE_S
            while stack.postgres.log().count(REFUSED) < enough and time.monotonic() < deadline:
                time.sleep(0.01)
            change(stack.credential()["password"])
        return invoke(event)

    def change(password: str) -> None:
        stack.postgres.query(f"ALTER ROLE {USERNAME} PASSWORD '{password}'")

    assert not watch(stack, meddle)
    printed = capsys.readouterr().out
    [(wrong, refused)] = re.findall(
        r"^(\d+) of (\d+) refused logins ought to have been accepted", printed, re.MULTILINE
    )
    assert 0 < int(wrong) <= int(refused)


def test_alternating_users_have_no_window_to_excuse_a_refusal(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """What rotates is a single user after all."""
    assert not watch(replace(stack, strategy="alternating-users"), invoke)
    printed = capsys.readouterr().out
    assert re.search(r"^(\d+) of \1 refused logins ought to have been accepted\.$", printed, re.MULTILINE)


def test_a_terminal_shows_the_counts_as_they_grow(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as screen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", screen.file)
        assert watch(stack, invoke)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.shown)
    counts = [[int(n) for n in found] for found in re.findall(r"with the fallback +(\d+) +(\d+)\s", plain)]
    assert len(counts) > 3
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert "rotation 1, " in plain
    assert "after rotation 1" in plain
    assert rows(plain.replace("\r", "\n"))


def test_a_client_that_cannot_go_on_is_heard(
    make_role: Callable[..., Role],
    make_secret: Callable[[object], Secret],
    servers: Stack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(applications, "PATIENCE_S", 0.5)
    monkeypatch.setattr(database, "WAIT_S", 0.5)
    secret = make_secret({**make_role(servers.postgres).document, "port": 1})
    with (
        pytest.raises(psycopg2.OperationalError, match="Connection refused"),
        applications.run_clients(1, secret.arn, secret.server, servers.postgres) as everybody,
    ):
        everybody.wait()
