"""A stack to break, with a fresh role and secret for each test, and the function that looks at it and rotates."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from local import breakages
from local.servers.stack import USERNAME, Stack, run_stack
from rotation_lambda import handler, preflight
from rotation_lambda.postgres import login
from rotation_lambda.preflight import database
from tests.test_errors import VERBS
from tests.worlds.clocks import Hasty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.breakages import Breakage

DENIED: set[str] = set()
"""What the execution role may not do, of the secrets on the shared servers."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with run_stack(refuse=lambda operation: (400, "AccessDeniedException") if operation in DENIED else None) as running:
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
    DENIED.clear()
    password = secrets.token_urlsafe(24)
    servers.postgres.query("DROP DATABASE IF EXISTS nowhere")
    servers.postgres.query(f"DROP ROLE IF EXISTS {USERNAME}")
    servers.postgres.query(f"CREATE ROLE {USERNAME} LOGIN PASSWORD '{password}'")
    document = {"host": "localhost", "port": servers.postgres.port, "username": USERNAME, "password": password}
    return replace(servers, secret_arn=servers.secrets_manager.create_secret(f"app/{uuid4().hex}", document))


def deploy(stack: Stack, timeout_s: float = 60) -> Callable[[dict[str, str]], Any]:
    """Return the function as it is with this Timeout."""
    context = SimpleNamespace(
        function_name="rotation",
        memory_limit_in_mb=256,
        invoked_function_arn=stack.secrets_manager.function_arn,
        aws_request_id="test",
        get_remaining_time_in_millis=lambda: int(1000 * timeout_s),
    )
    return lambda event: handler.lambda_handler(event, context)  # type: ignore[arg-type]


@pytest.fixture
def function(stack: Stack) -> Callable[[dict[str, str]], Any]:
    return deploy(stack)


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
