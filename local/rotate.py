"""One rotation as a table: where the labels are after each step, and which version the database accepts."""

from __future__ import annotations

import io
import json
import os
import re
import time
from contextlib import closing, redirect_stdout
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg2

from local.servers import rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from local.servers.stack import Stack
    from local.terminal import Screen

LABELS = ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS")
ROW = "{:<14}{:<12}{:<14}{:<13}{}"
CONTEXT = SimpleNamespace(
    function_name="rotation",
    memory_limit_in_mb=256,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
    aws_request_id="local",
    get_remaining_time_in_millis=lambda: 60_000,
)


def show_rotation(stack: Stack, function: Callable[[dict[str, str]], object], screen: Screen) -> dict[str, Any]:
    """Rotate once; show after each step where the labels are and what the database accepts, and return all of it."""
    manager, postgres = stack.secrets_manager, stack.postgres
    client = manager.client()
    before = stack.credential()
    calls, log, seconds = {}, "", 0.0
    rows = []

    def look(after: str) -> None:
        labels = rotation.labels(client, stack.secret_arn)
        accepted = _accepted(stack)
        screen.row(ROW.format(after, *(labels.cell(label) for label in LABELS), " ".join(accepted) or "none"))
        rows.append({"after": after, **labels.versions, "empty": sorted(labels.empty), "accepted": accepted})

    token = rotation.begin(client, stack.secret_arn, manager.function_arn)
    screen.row(ROW.format("", *LABELS, "the database accepts"), style="bold")
    look("before")
    for step in rotation.STEPS:
        manager.calls.clear()
        logged = len(postgres.log())
        began = time.monotonic()
        with screen.waiting(step):
            rotation.invoke_steps(function, stack.secret_arn, token, steps=[step])
        seconds += time.monotonic() - began
        calls[step] = len(manager.calls)
        log += postgres.log()[logged:]
        look(step)
    after = stack.credential()
    logins, refused = log.count("connection authorized: "), log.count("password authentication failed")
    old, new = (f" (of {login['username']})" if stack.alternates else "" for login in (before, after))
    screen.say()
    screen.say(f"The old password{old} is {answer(stack, before)}, the new one{new} is {answer(stack, after)}.")
    how = f"{_method(log)} over {_tls(stack, after)}, certificate verified"
    screen.say(f"Logins: {logins + refused}, of which {refused} refused; {how}.")
    screen.say(f"API calls: {', '.join(f'{step} {n}' for step, n in calls.items())}.")
    screen.say(f"Time: {seconds:.2f} seconds.")
    screen.say()
    return {
        "steps": rows,
        "old": answer(stack, before),
        "new": answer(stack, after),
        "logins": logins + refused,
        "refused": refused,
        "calls": calls,
        "seconds": round(seconds, 3),
    }


def _accepted(stack: Stack) -> list[str]:
    """Try every version that has a label and a value, and return the ids of those that log in, and as whom."""
    client, accepted = stack.secrets_manager.client(), []
    labels = rotation.labels(client, stack.secret_arn)
    for version in dict.fromkeys(labels.versions.values()):
        if version not in labels.empty:
            value = client.get_secret_value(SecretId=stack.secret_arn, VersionId=version)["SecretString"]
            login = json.loads(value)
            if answer(stack, login) == "accepted":
                accepted.append(f"{version[:4]} ({login['username']})" if stack.alternates else version[:4])
    return accepted


def answer(stack: Stack, login: Mapping[str, str]) -> str:
    """Return what the database answers to the login: "accepted" or "refused"."""
    try:
        stack.postgres.connect(login["username"], login["password"]).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            return "refused"
        raise
    return "accepted"


def _method(log: str) -> str:
    """Tell from the server's log how it authenticated the function (log_connections, PostgreSQL 14 and newer)."""
    return " and ".join(sorted(set(re.findall(r'connection authenticated: identity="[^"]*" method=(\S+)', log))))


def _tls(stack: Stack, login: Mapping[str, str]) -> str:
    with closing(stack.postgres.connect(login["username"], login["password"])) as connection:
        return str(connection.info.ssl_attribute("protocol"))


def forget_environment() -> None:
    """Take away what would lead boto3 or libpq elsewhere: AWS_PROFILE, PGSERVICE and their kind."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PG"))]:
        del os.environ[name]


def load_function(stack: Stack, log: io.TextIOBase | None) -> Callable[[dict[str, str]], Any]:
    """Import the handler into the stack's environment, as Lambda would; what it logs goes to `log`, or nowhere."""
    forget_environment()
    os.environ.update(stack.environment)
    from rotation_lambda.handler import lambda_handler, logger  # noqa: PLC0415 - the environment has to be there first

    log = log or io.StringIO()
    logger.handlers[0].setStream(log)  # type: ignore[attr-defined]
    context: Any = SimpleNamespace(**{**vars(CONTEXT), "invoked_function_arn": stack.secrets_manager.function_arn})

    def function(event: dict[str, str]) -> object:
        with redirect_stdout(log):  # Lambda takes that for the log as well: metrics are lines of it
            return lambda_handler(event, context)

    return function
