"""Applications see of a rotation what its strategy promises, and a person is shown that they do."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from rich.console import Console

from local.__main__ import main
from local.clients import Window, run_rotations, settings_for
from local.servers import applications
from local.servers.stack import STRATEGIES, USERNAME, Stack, run_stack
from rotation_lambda import handler
from rotation_lambda.settings import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.rotation import Invoke
    from tests.conftest import Role, Secret

REFUSED = "password authentication failed"
ONE_ROW = re.compile(r"^(\d+) +(\d+) ms +(\d+) +(\d+) +(\d+) +(\d+)$", re.MULTILINE)

changes_the_user_in_use = pytest.mark.parametrize("strategy", ["single-user", "superuser"])


def run(*arguments: str) -> str:
    """Return what the command prints in a process of its own, as a pipe gets it."""
    command = [sys.executable, "-m", "local", *arguments]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    return ran.stdout


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


def watch(stack: Stack, function: Invoke, *, terminal: bool = False) -> tuple[bool, str]:
    """Rotate once before clients; return whether they saw what they should, and what was printed."""
    console = Console(file=io.StringIO(), force_terminal=terminal, soft_wrap=True, highlight=False)
    kept = run_rotations(stack, function, console, clients=1, times=1)
    assert isinstance(console.file, io.StringIO)
    return kept, console.file.getvalue()


@changes_the_user_in_use
def test_every_refused_login_lies_between_the_commit_and_the_move(strategy: str) -> None:
    printed = run("--strategy", strategy, "--clients", "2", "--times", "2")
    assert f"Rotations: 2, {strategy}.\n" in printed
    numbers, windows, accepted, refused, accepted_alone, refused_alone = zip(*rows(printed), strict=True)
    assert (numbers, refused) == ((1, 2), (0, 0))
    assert min(*accepted, *accepted_alone) > 0
    assert f"{max(windows)} ms (longest)." in printed
    assert printed.endswith(f"\nAll {sum(refused_alone)} refused logins lie in that time.\n")


def test_alternating_users_are_never_refused() -> None:
    printed = run("--strategy", "alternating-users", "--clients", "2", "--times", "3")
    assert [(refused, alone) for _, _, _, refused, _, alone in rows(printed)] == [(0, 0)] * 3
    assert "AWSPENDING 0;" in printed
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


def test_a_login_that_is_refused_outside_of_the_window_does_not_pass(stack: Stack) -> None:
    """Somebody changes the password by hand while the rotation begins, and back again."""

    def meddle(event: dict[str, str]) -> object:
        if event["Step"] == "createSecret":
            change("by hand")
            enough, deadline = stack.postgres.log().count(REFUSED) + 20, time.monotonic() + 30
            while stack.postgres.log().count(REFUSED) < enough and time.monotonic() < deadline:
                time.sleep(0.01)
            change(stack.credential()["password"])
        return invoke(event)

    def change(password: str) -> None:
        stack.postgres.query(f"ALTER ROLE {USERNAME} PASSWORD '{password}'")

    kept, printed = watch(stack, meddle)
    assert not kept
    [(wrong, refused)] = re.findall(
        r"^(\d+) of (\d+) refused logins ought to have been accepted", printed, re.MULTILINE
    )
    assert 0 < int(wrong) <= int(refused)


def test_alternating_users_have_no_window_to_excuse_a_refusal(stack: Stack) -> None:
    """What rotates is a single user after all."""
    kept, printed = watch(replace(stack, strategy="alternating-users"), invoke)
    assert not kept
    assert re.search(r"^(\d+) of \1 refused logins ought to have been accepted\.$", printed, re.MULTILINE)


def test_a_terminal_shows_the_counts_as_they_grow(stack: Stack) -> None:
    kept, printed = watch(stack, invoke, terminal=True)
    assert kept
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed)
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
    secret = make_secret({**make_role(servers.postgres).document, "port": 1})
    with (
        pytest.raises(psycopg2.OperationalError, match="Connection refused"),
        applications.run_clients(1, secret.arn, secret.server, servers.postgres) as everybody,
    ):
        everybody.wait()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--clients 0", "argument --clients: '0' is not a number from 1 on"),
        ("--clients -1", "argument --clients: '-1' is not a number from 1 on"),
        ("--clients many", "argument --clients: 'many' is not a number from 1 on"),
        ("--times 0 --clients 2", "argument --times: '0' is not a number from 1 on"),
        ("--strategy auto", "argument --strategy: invalid choice: 'auto'"),
        ("--clients 2 --serve", "--clients is for rotations as they should be, and not for --serve"),
        ("--clients 2 --break dns", "--clients is for rotations as they should be, and not for --break"),
        ("--clients 2 --chaos 3", "--clients is for rotations as they should be, and not for --chaos"),
        ("--strategy superuser --break dns", "--break knows the strategy single-user only"),
        ("--strategy alternating-users --chaos 3", "--chaos knows the strategy single-user only"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"python -m local: error: {complaint}")


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"--strategy {{{','.join(STRATEGIES)}}}" in told
    assert "--clients N" in told
