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
from local.breakages import BREAKAGES, Breakage, demonstrate, rotate
from local.servers.stack import USERNAME, Stack, run_stack
from local.terminal import Screen
from rotation_lambda import handler, preflight
from rotation_lambda.postgres import login
from rotation_lambda.preflight import database
from tests.conftest import LEFT_OUT, has
from tests.worlds.clocks import Hasty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POSSIBLE = {
    name: one for name, one in BREAKAGES.items() if one.part is None or has(one.part, f"a stack broken by `{name}`")
}
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
    servers.postgres.query(f"DROP ROLE {USERNAME}")
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


@pytest.mark.parametrize("breakage", POSSIBLE.values(), ids=POSSIBLE)
def test_is_found_before_it_hurts_and_named_when_it_does(
    breakage: Breakage,
    stack: Stack,
    function: Callable[[dict[str, str]], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a person sees it, who asks for the demonstration."""

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

    found = demonstrate(breakage, stack, watched, Screen())
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

    assert shown.startswith(f"{breakage.name}: {breakage.what}\n\nThe preflight, in ")
    told = "nothing is in the way" if status == "ok" else rf"{status} +{breakage.check}: .+\n +→ .+"
    assert re.search(f"^{told}", shown, re.MULTILINE)
    if breakage.code:
        assert re.search(rf"^failed +\w+ \({breakage.code}\): .+\n +→ .+", shown, re.MULTILINE)
        assert f"{found['rotation']['step']:<14}failed\n" in shown
    else:
        assert shown.endswith("\nfinishSecret  done\nall four steps succeeded\n")


class TestCredcheck:
    __test__ = "credcheck" in POSSIBLE

    @pytest.mark.parametrize("breakage", [BREAKAGES["credcheck"]], ids=["as it comes"])
    def test_takes_what_it_refused_once_it_is_set_as_the_preflight_says(
        self, breakage: Breakage, stack: Stack, function: Callable[[dict[str, str]], Any]
    ) -> None:
        with breakage.broken(stack):
            assert "Set credcheck.encrypted_password_allowed = on:" in str(look(stack, function))
            stack.postgres.configure(**{"credcheck.encrypted_password_allowed": "on"})
            assert look(stack, function)["status"] == "ok"
            assert rotate(stack, function, Screen()) == ("finishSecret", None)


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
