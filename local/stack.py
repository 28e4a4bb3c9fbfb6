"""The stand-ins together: a PostgreSQL with one login role, and a Secrets Manager with the secret that opens it."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg2 import sql

from local.postgres import run_postgres
from local.secrets_manager import run_secrets_manager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from local.postgres import PostgresServer
    from local.secrets_manager import SecretsManagerServer

SECRET_NAME = "local/app/postgres"  # noqa: S105 - a name
USERNAME = "app"
LOGGED = {"log_connections": "on", "log_statement": "all"}


@dataclass(frozen=True, slots=True)
class Stack:
    """Both servers, and the secret whose AWSCURRENT logs in."""

    postgres: PostgresServer
    secrets_manager: SecretsManagerServer
    secret_arn: str

    @property
    def environment(self) -> dict[str, str]:
        """The function's environment: where Secrets Manager is, and who signed the database's certificate."""
        return {**self.secrets_manager.environment, "PGSSLROOTCERT": str(self.postgres.ca_file)}


@contextmanager
def run_stack(
    *,
    settings: Mapping[str, str] = LOGGED,
    bind: str = "127.0.0.1",
    port: int = 0,
    rotation_host: str | None = None,
) -> Iterator[Stack]:
    """Run both servers with one role and its secret; afterwards nothing is left of them.

    `settings` go into postgresql.conf; `bind` and `port` (of Secrets Manager) let others than this machine in. They may
    know it as `rotation_host`, which goes into the secret and into the server's certificate.
    """
    names = ("localhost", *filter(None, [rotation_host]))
    with (
        run_postgres(settings=settings, bind=bind, server_names=names) as postgres,
        run_secrets_manager(bind=bind, port=port) as keeper,
    ):
        password = secrets.token_urlsafe(24)
        postgres.query(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USERNAME), sql.Literal(password))
        )
        login = {"host": postgres.host, "port": postgres.port, "dbname": "postgres", "username": USERNAME}
        rotated = {} if rotation_host is None else {"rotationHost": rotation_host}
        arn = keeper.create_secret(SECRET_NAME, {"engine": "postgres", **login, "password": password, **rotated})
        yield Stack(postgres, keeper, arn)
