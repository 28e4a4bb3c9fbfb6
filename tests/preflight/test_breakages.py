"""Each way to break a stack is found by the preflight, which changes nothing, and named by the rotation's error."""

from __future__ import annotations

import json
import re
import secrets
import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from local import breakages
from local.breakages import BREAKAGES, Breakage, demonstrate
from local.servers.stack import USERNAME, Stack, run_stack
from local.terminal import Screen
from rotation_lambda import handler, preflight
from rotation_lambda.postgres import login
from rotation_lambda.preflight import database
from tests.conftest import LEFT_OUT, has
from tests.test_errors import VERBS
from tests.worlds.clocks import Hasty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POSSIBLE = {
    name: one for name, one in BREAKAGES.items() if one.part is None or has(one.part, f"a stack broken by `{name}`")
}
CASES = {
    f"{name}: {words}" if words else name: (one, words)
    for name, one in POSSIBLE.items()
    for words in (one.remedies or [""])
}
"""Each breakage with each of its remedies; with none where its hints need none, since nothing goes wrong."""
REFUSED = "password authentication failed"


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with run_stack() as running:
        yield running


@pytest.fixture
def breakage() -> Breakage | None:
    return None


@pytest.fixture
def stack(breakage: Breakage | None, servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack with a fresh role and secret, on servers of its own where the breakage is the server's."""
    for module in (handler, sys.modules[preflight.run.__module__]):
        monkeypatch.setattr(module, "Deadline", Hasty)
    if breakage and breakage.name == "silent":
        monkeypatch.setattr(login, "CONNECT_TIMEOUT_S", 0.2)
    if breakage and breakage.name == "asleep":
        monkeypatch.setattr(breakages, "WAKES_UP_S", 0.2)
        monkeypatch.setattr(database, "SLOW_MS", 200)
    with ExitStack() as own:
        running = own.enter_context(run_stack()) if breakage and breakage.of_server else renew(servers)
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")  # they are lines on standard output
        yield running


def renew(servers: Stack) -> Stack:
    """Make the role anew, and a secret for it."""
    password = secrets.token_urlsafe(24)
    servers.postgres.query("DROP DATABASE IF EXISTS nowhere")
    servers.postgres.query(f"DROP ROLE IF EXISTS {USERNAME}")
    servers.postgres.query(f"CREATE ROLE {USERNAME} LOGIN PASSWORD '{password}'")
    document = {"host": "localhost", "port": servers.postgres.port, "username": USERNAME, "password": password}
    return replace(servers, secret_arn=servers.secrets_manager.create_secret(f"app/{uuid4().hex}", document))


@pytest.fixture
def function(stack: Stack) -> Callable[[dict[str, str]], Any]:
    context = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn=stack.secrets_manager.function_arn,
        aws_request_id="test",
        get_remaining_time_in_millis=lambda: 60_000,
    )
    return lambda event: handler.lambda_handler(event, context)  # type: ignore[arg-type]


def state(stack: Stack) -> list[object]:
    """Return labels, values, and the roles where the server runs: what nobody but a rotation may change."""
    client = stack.secrets_manager.client()
    versions = client.describe_secret(SecretId=stack.secret_arn)["VersionIdsToStages"]
    found: list[object] = [versions, values(stack)]
    if stack.postgres.pid is not None:
        with closing(
            stack.postgres.connect("postgres", stack.postgres.password, sslmode="prefer", sslrootcert="")
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT pg_authid::text FROM pg_authid ORDER BY rolname")
            found += cursor.fetchall()
    return found


def values(stack: Stack) -> dict[str, str]:
    client, found = stack.secrets_manager.client(), {}
    for version in client.describe_secret(SecretId=stack.secret_arn)["VersionIdsToStages"]:
        try:
            found[version] = client.get_secret_value(SecretId=stack.secret_arn, VersionId=version)["SecretString"]
        except client.exceptions.ResourceNotFoundException:
            continue
    return found


def look(stack: Stack, function: Callable[[dict[str, str]], Any]) -> dict[str, Any]:
    report: dict[str, Any] = function({"Step": "preflight", "SecretId": stack.secret_arn})
    return report


def lets_in(stack: Stack) -> bool:
    """Tell whether AWSCURRENT logs in to the server itself, whatever stands before it."""
    login = stack.credential()
    database = login.get("dbname", "postgres")
    stack.postgres.connect(
        login["username"], login["password"], dbname=database, sslmode="prefer", sslrootcert=""
    ).close()
    return True


def is_an_instruction(hint: str) -> bool:
    """Tell whether the hint begins with a verb, or with a command."""
    return hint.startswith("`") or hint.partition(" ")[0].rstrip(":") in VERBS


@pytest.mark.parametrize(("breakage", "words"), CASES.values(), ids=CASES)
def test_is_found_before_it_hurts_named_when_it_does_and_over_after_what_the_hint_says(
    breakage: Breakage,
    words: str,
    stack: Stack,
    function: Callable[[dict[str, str]], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a person sees it, who asks for the demonstration."""
    current = stack.credential()["password"]

    def watched(event: dict[str, str]) -> object:
        if event["Step"] != "preflight":
            return function(event)
        before, logged = state(stack), len(stack.postgres.log())
        stack.secrets_manager.calls.clear()
        report = function(event)
        assert state(stack) == before
        assert not {"PutSecretValue", "UpdateSecretVersionStage", "RotateSecret"} & {*stack.secrets_manager.calls}
        known = {json.loads(value)["password"] for value in values(stack).values()}
        assert stack.postgres.log()[logged:].count(REFUSED) <= len(known)
        assert not [password for password in known if password in json.dumps(report)]
        return report

    with ExitStack() as kept:  # until the stack is looked at once more

        def apply(stack: Stack) -> None:
            opened = breakage.apply(stack)
            if isinstance(opened, ExitStack):
                kept.enter_context(opened)

        found = demonstrate(replace(breakage, apply=apply), stack, watched, Screen(), words)
        assert lets_in(stack)
        assert stack.credential()["password"] != current
        assert look(stack, function)["status"] in {"ok", "warning"}
    shown = capsys.readouterr().out
    findings = {finding["check"]: finding for finding in found["preflight"]["findings"]}
    finding, status = findings[breakage.check], found["preflight"]["status"]
    assert (finding["status"], status) == (breakage.status, breakage.status)
    assert bool(finding.get("action")) is (status != "ok")
    assert finding.get("code") == breakage.code
    others = [finding["check"] for finding in findings.values() if finding["status"] == "failed"]
    assert set(others) <= {breakage.check}, [finding["seen"] for finding in findings.values()]
    assert found["rotation"]["code"] == breakage.code, found["rotation"]
    assert found["as_expected"] is True
    hints = [told for told in (finding.get("action"), found["rotation"]["hint"]) if told]
    assert all(words in hint and is_an_instruction(hint) for hint in hints), hints

    assert shown.startswith(f"{breakage.name}: {breakage.what}\n\nThe preflight, in ")
    told = "nothing is in the way" if status == "ok" else rf"{status} +{breakage.check}: .+\n +→ .+"
    assert re.search(f"^{told}", shown, re.MULTILINE)
    if breakage.code:
        assert re.search(rf"^failed +\w+ \({breakage.code}\): .+\n +→ .+", shown, re.MULTILINE)
        assert f"{found['rotation']['step']:<14}failed\n" in shown
        assert f"\nA rotation after what the hint says ({words}):\n" in shown
    assert shown.endswith("\nfinishSecret  done\nall four steps succeeded\n")


def test_the_list_of_what_was_left_out_is_right() -> None:
    for name, breakage in BREAKAGES.items():
        told = any(f"`{name}`" in sentence for sentence in LEFT_OUT)
        assert told is (name not in POSSIBLE) is bool(breakage.part and breakage.part.missing)


def test_a_healthy_stack_has_neither_warnings_nor_failures(
    stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    before, logged = state(stack), len(stack.postgres.log())
    report = look(stack, function)
    assert report["status"] == "ok"
    assert {finding["check"] for finding in report["findings"] if finding["status"] == "not reached"} == {
        "PutSecretValue",
        "UpdateSecretVersionStage",
        "rotation",
        "login AWSPENDING",
        "login AWSPREVIOUS",
        "superuser secret",
        "superuser login",
    }
    log = stack.postgres.log()[logged:]
    assert log.count("connection authenticated") == 1
    assert log.count(REFUSED) == 0
    assert state(stack) == before


@pytest.mark.parametrize("breakage", [replace(BREAKAGES["no-login"], code="login-refused")], ids=["no-login"])
def test_the_demonstration_tells_when_something_else_comes_out(
    breakage: Breakage, stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    assert demonstrate(breakage, stack, function, Screen())["as_expected"] is False
