"""Rotate a PostgreSQL credential on this machine through the function itself, and tell what happens."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
import time
from contextlib import closing, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

import psycopg2
from rich.console import Console
from rich.live import Live
from rich.table import Table

from local import container, rotation
from local.availability import run_rotations, settings_for
from local.breakages import BREAKAGES, demonstrate
from local.chaos import run_chaos
from local.servers.stack import LOGGED, SECRET_NAME, STRATEGIES, USERNAME, Stack, run_stack
from rotation_lambda.errors import RotationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LABELS = ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS")
ROW = "{:<17}{:<12}{:<14}{:<14}{}"
CONTEXT = SimpleNamespace(
    function_name="rotation",
    memory_limit_in_mb=256,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:rotation",
    aws_request_id="local",
    get_remaining_time_in_millis=lambda: 60_000,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--times", type=_positive, default=1, metavar="N", help="rotate N times in a row (default: 1)")
    parser.add_argument(
        "--strategy", choices=STRATEGIES, default="single-user", help="whose password changes, and who changes it"
    )
    parser.add_argument(
        "--clients",
        type=_positive,
        metavar="N",
        help="let N applications log in meanwhile as examples/ shows, and N without its fallback; count what they see",
    )
    parser.add_argument("--logs", action="store_true", help="show the function's log lines, on standard error")
    parser.add_argument(
        "--serve", action="store_true", help="keep both servers running until Ctrl-C, and rotate nothing"
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS", help="serve there as well (default: where containers find this machine)"
    )
    parser.add_argument(
        "--break",
        dest="breakage",
        choices=BREAKAGES,
        metavar="WHAT",
        help=f"start broken; show what a preflight finds and what a rotation ends in ({', '.join(BREAKAGES)})",
    )
    parser.add_argument(
        "--chaos", type=_positive, metavar="N", help="rotate N times while processes are killed and connections break"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="what --chaos printed, for the same dice again")
    options = parser.parse_args(arguments)
    _check(parser, options)
    breakage = BREAKAGES.get(options.breakage)
    if breakage and breakage.part and breakage.part.missing:
        parser.exit(1, f"{breakage.part.missing}\n")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    try:
        if options.serve:
            bind = options.bind or container.bridge_address() or "127.0.0.1"
            with (
                run_stack(strategy=options.strategy, bind=bind, rotation_host=container.HOST) as stack,
                container.announced(stack, container.FOLDER),
            ):
                _serve(stack, console)
        if options.chaos:
            return int(run_chaos(options.chaos, console, options.seed).locked_out.total() > 0)
        settings = settings_for(options.clients) if options.clients else LOGGED
        with run_stack(strategy=options.strategy, settings=settings) as stack:
            function = _load_function(stack, logs=options.logs)
            if breakage:
                console.print(*demonstrate(breakage, stack, function), sep="\n", markup=False)
                return 0
            if options.clients:
                return int(not run_rotations(stack, function, console, clients=options.clients, times=options.times))
            for _ in range(options.times):
                _rotate(stack, function, console)
    except RotationError as error:
        console.print(f"\n{type(error).__name__} ({error.code}): {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; both servers are down, and nothing of them is left.")
        return 0 if options.serve else 128 + signal.SIGINT
    return 0


def _rotate(stack: Stack, function: Callable[[dict[str, str]], object], console: Console) -> None:
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


def _load_function(stack: Stack, *, logs: bool) -> Callable[[dict[str, str]], object]:
    """Import the handler into the stack's environment, as Lambda would, and give it a context."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PG"))]:
        del os.environ[name]
    os.environ.update(stack.environment)
    from rotation_lambda.handler import lambda_handler, logger  # noqa: PLC0415 - the environment has to be there first

    logger.handlers[0].setStream(sys.stderr if logs else io.StringIO())  # type: ignore[attr-defined]
    context = SimpleNamespace(**{**vars(CONTEXT), "invoked_function_arn": stack.secrets_manager.function_arn})
    return lambda event: lambda_handler(event, context)  # type: ignore[arg-type]


def _serve(stack: Stack, console: Console) -> NoReturn:
    """Say how to talk to both servers, and wait for Ctrl-C."""
    postgres = stack.postgres
    read = f"aws secretsmanager get-secret-value --secret-id {SECRET_NAME} --query SecretString --output text"
    password = f"$({read} | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"password\"])')"
    console.print(f"Secrets Manager  {stack.secrets_manager.endpoint_url}")
    console.print(f"secret           {stack.secret_arn}")
    console.print(f"PostgreSQL       {postgres.host}:{postgres.port}, role {USERNAME}, log {postgres.log_file}")
    console.print("\nFor a shell:\n")
    for name, value in stack.environment.items():
        console.print(f"  export {name}={value}")
    console.print("\nThe secret, and a session with it:\n")
    console.print(f"  {read}")
    console.print(
        f'  PGPASSWORD="{password}" psql "host={postgres.host} port={postgres.port} user={USERNAME} dbname=postgres '
        f'sslmode=verify-full sslrootcert={postgres.ca_file}"'
    )
    console.print(f"\nThe function gets in from a container, where this machine is {container.HOST}: `make events`.")
    console.print("\nCtrl-C ends both.")
    while True:
        signal.pause()


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program, with status 2, where an option would be passed over without a word."""
    modes = {"--serve": options.serve, "--break": options.breakage, "--chaos": options.chaos}
    mode = next((name for name, chosen in modes.items() if chosen), None)
    if options.clients and mode:
        parser.error(f"--clients is for rotations as they should be, and not for {mode}")
    if options.strategy != "single-user" and mode in {"--break", "--chaos"}:
        parser.error(f"{mode} knows the strategy single-user only")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
