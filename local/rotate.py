"""One rotation as a table: where the labels are after each step, and which version the database accepts."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from contextlib import closing, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg2
from rich.live import Live
from rich.table import Table

from local.servers import rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from local.servers.stack import Stack

LABELS = ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS")
ROW = "{:<17}{:<12}{:<14}{:<14}{}"
CONTEXT = SimpleNamespace(
    function_name="rotation",
    memory_limit_in_mb=256,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
    aws_request_id="local",
    get_remaining_time_in_millis=lambda: 60_000,
)


def show_rotation(stack: Stack, function: Callable[[dict[str, str]], object], console: Console) -> None:
    """Rotate once, row by row: where the labels are, and which version the database accepts."""
    manager, postgres = stack.secrets_manager, stack.postgres
    client = manager.client()
    before = stack.credential()
    calls, log, seconds = {}, "", 0.0
    rows: list[tuple[str, ...]] = []
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:

        def tell(name: str) -> None:
            labels = rotation.labels(client, stack.secret_arn)
            rows.append((name, *(labels.cell(label) for label in LABELS), _accepted(stack)))
            if live is None:
                console.print(ROW.format(*rows[-1]))
            else:
                live.update(_table(rows), refresh=True)

        token = rotation.begin(client, stack.secret_arn, manager.function_arn)
        if live is None:
            console.print(ROW.format("", *LABELS, "the database accepts"))
        tell("before")
        for step in rotation.STEPS:
            manager.calls.clear()
            logged = len(postgres.log())
            began = time.monotonic()
            rotation.invoke_steps(function, stack.secret_arn, token, steps=[step])
            seconds += time.monotonic() - began
            calls[step] = len(manager.calls)
            log += postgres.log()[logged:]
            tell(step)
    after = stack.credential()
    logins, refused = log.count("connection authorized: "), log.count("password authentication failed")
    console.print()
    old, new = (f" (of {login['username']})" if stack.alternates else "" for login in (before, after))
    console.print(f"The old password{old} is {_answer(stack, before)}, the new one{new} is {_answer(stack, after)}.")
    console.print(f"Logins were by {_method(log)} over {_tls(stack, after)}, the server's certificate verified.")
    console.print(
        f"{sum(calls.values())} calls to Secrets Manager ({', '.join(f'{step} {n}' for step, n in calls.items())}), "
        f"{logins + refused} logins of which {refused} refused, {seconds:.2f} seconds.\n"
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title, style in zip(("", *LABELS, "the database accepts"), ("bold", "", "", "dim", "green"), strict=True):
        table.add_column(title, style=style, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _accepted(stack: Stack) -> str:
    """Try every version that has a label and a value, and return the ids of those that log in, and as whom."""
    client, accepted = stack.secrets_manager.client(), []
    labels = rotation.labels(client, stack.secret_arn)
    for version in dict.fromkeys(labels.versions.values()):
        if version not in labels.empty:
            value = client.get_secret_value(SecretId=stack.secret_arn, VersionId=version)["SecretString"]
            login = json.loads(value)
            if _answer(stack, login) == "accepted":
                accepted.append(f"{version[:4]} ({login['username']})" if stack.alternates else version[:4])
    return " ".join(accepted) or "none"


def _answer(stack: Stack, login: Mapping[str, str]) -> str:
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


def load_function(stack: Stack, *, logs: bool) -> Callable[[dict[str, str]], object]:
    """Import the handler into the stack's environment, as Lambda would, and give it a context."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PG"))]:
        del os.environ[name]
    os.environ.update(stack.environment)
    os.environ["POWERTOOLS_METRICS_DISABLED"] = "true"  # they are lines for CloudWatch, on the output of this program
    from rotation_lambda.handler import lambda_handler, logger  # noqa: PLC0415 - the environment has to be there first

    logger.handlers[0].setStream(sys.stderr if logs else io.StringIO())  # type: ignore[attr-defined]
    context = SimpleNamespace(**{**vars(CONTEXT), "invoked_function_arn": stack.secrets_manager.function_arn})
    return lambda event: lambda_handler(event, context)  # type: ignore[arg-type]
