"""Both servers, kept running until Ctrl-C: what a person does to the secret there happens as on AWS."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import time
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NoReturn

from local import events
from local.rotate import load_function
from local.servers.rotator import rotating
from local.servers.stack import SECRET_NAME, USERNAME, run_stack
from rotation_lambda.errors import RotationError

if TYPE_CHECKING:
    from pathlib import Path

    from local.servers.stack import Stack
    from local.terminal import Screen


def address(text: str) -> str:
    """Return the IPv4 address, on which this machine can listen; ValueError says why not."""
    try:
        IPv4Address(text)
        socket.create_server((text, 0)).close()
    except ValueError:
        raise ValueError(f"{text!a} is not an IPv4 address") from None
    except OSError as error:
        raise ValueError(f"this machine cannot listen on {text}: {os.strerror(error.errno or 0)}") from None
    return text


def serve(screen: Screen, *, strategy: str, bind: str | None, logs: bool) -> NoReturn:
    """Serve on the loopback interface and on `bind` until Ctrl-C, and rotate when RotateSecret asks for it."""
    bind = bind or events.bridge_address() or "127.0.0.1"
    with ExitStack() as kept:
        with screen.waiting("Starting PostgreSQL and Secrets Manager"):
            stack = kept.enter_context(run_stack(strategy=strategy, bind=bind, container_host=events.HOST))
        function = load_function(stack, screen.log() if logs else None)

        def tell(name: str, version: str, what: str, error: Exception | None) -> None:
            told = what if error is None else f"{what}: {_complaint(error)}"
            try:
                screen.say(f"{time.strftime('%H:%M:%S')}  {name}  {version[:4]}  {told}", indent="    ")
            except BrokenPipeError:  # the reader has seen enough (`| head`); this is the rotator's thread
                os.kill(os.getpid(), signal.SIGTERM)

        manager = stack.secrets_manager
        kept.enter_context(rotating(manager, function, tell, left_alone=stack.container_arn))
        manager.client().rotate_secret(  # as a deployment does: testSecret alone
            SecretId=stack.secret_arn, RotationLambdaARN=manager.function_arn, RotateImmediately=False
        )
        environment = _write_environment(stack)
        try:
            kept.enter_context(events.announced(stack, events.FOLDER))
        except OSError as error:
            screen.complain(f"`make events` will not find this: {error.strerror}: {events.FOLDER}.")
        _instruct(stack, environment, screen)
        while True:
            signal.pause()


def _complaint(error: Exception) -> str:
    if isinstance(error, RotationError):
        return f"{type(error).__name__} ({error.code}): {error}"
    return f"{type(error).__name__}: {error}"


def _write_environment(stack: Stack) -> Path:
    """Write what a shell has to export to a file that lives as long as the servers, and return it."""
    file = stack.postgres.data.parent / "environment.sh"
    exports = [f"export {name}={shlex.quote(text)}\n" for name, text in stack.environment.items()]
    file.write_text("".join(["unset AWS_PROFILE\n", *exports]))
    file.chmod(0o644)
    return file


def _instruct(stack: Stack, environment: Path, screen: Screen) -> None:
    postgres, manager = stack.postgres, stack.secrets_manager
    screen.result(
        {
            "secret_id": SECRET_NAME,
            "secret_arn": stack.secret_arn,
            "secrets_manager": manager.endpoint_url,
            "function_arn": manager.function_arn,
            "postgres": {"host": postgres.host, "port": postgres.port, "user": USERNAME, "log": postgres.log_file},
            "environment": stack.environment,
            "environment_file": environment,
        }
    )
    screen.row(f"Secrets Manager  {manager.endpoint_url}")
    screen.row(f"Secret           {SECRET_NAME}")
    screen.row(f"PostgreSQL       {postgres.host}:{postgres.port}, user {USERNAME}")
    screen.row(f"Server's log     {postgres.log_file}")
    screen.say()
    screen.say("In another terminal, set the variables, and rotate, check or read the secret:")
    screen.say()
    screen.row(f"  . {shlex.quote(str(environment))}")
    screen.row(f"  aws secretsmanager rotate-secret --secret-id {SECRET_NAME}")
    screen.row(f"  make preflight SECRET={SECRET_NAME}")
    screen.row(f"  aws secretsmanager get-secret-value --secret-id {SECRET_NAME}")
    screen.say()
    screen.say("A session with it:")
    screen.say()
    screen.row("  PGPASSWORD=$(aws secretsmanager get-secret-value --output text \\")
    screen.row(f"      --secret-id {SECRET_NAME} --query SecretString |")
    screen.row("      python3 -c 'import json; print(json.loads(input())[\"password\"])') \\")
    screen.row(f"  PGSSLMODE=verify-full psql -h {postgres.host} -p {postgres.port} -U {USERNAME} postgres")
    screen.say()
    screen.say(f"`make events` rotates another secret, in a container ({events.HOST}).")
    screen.say()
    screen.say("Ctrl-C ends both servers. What happens to the secret is shown here:")
    screen.say()
