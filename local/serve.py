"""Both servers, kept running until Ctrl-C, and how to talk to them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NoReturn

from local import events
from local.servers.stack import SECRET_NAME, USERNAME, Stack, run_stack

if TYPE_CHECKING:
    from rich.console import Console


def serve(console: Console, *, strategy: str, bind: str | None) -> NoReturn:
    """Serve on the loopback interface and on `bind`, by default where containers find this machine, until Ctrl-C."""
    bind = bind or events.bridge_address() or "127.0.0.1"
    with (
        run_stack(strategy=strategy, bind=bind, rotation_host=events.HOST) as stack,
        events.announced(stack, events.FOLDER),
    ):
        _tell(stack, console)
        while True:
            signal.pause()


def _tell(stack: Stack, console: Console) -> None:
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
    console.print(f"\nThe function gets in from a container, where this machine is {events.HOST}: `make events`.")
    console.print("\nCtrl-C ends both.")
