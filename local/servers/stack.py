"""The stand-ins together: a PostgreSQL with a login role, and a Secrets Manager with the secret that opens it."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from local.servers.postgres import run_postgres
from local.servers.secrets_manager import run_secrets_manager
from rotation_lambda.settings import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer

SECRET_NAME = "local/app/postgres"  # noqa: S105 - a name
USERNAME = "app"
MASTER_SECRET_NAME = "local/master/postgres"  # noqa: S105
MASTER = "master"
STRATEGIES = tuple(str(strategy) for strategy in Strategy if strategy is not Strategy.AUTO)
LOGGED = {"log_connections": "on", "log_statement": "all"}


@dataclass(frozen=True, slots=True)
class Stack:
    """Both servers, and the secret whose AWSCURRENT logs in."""

    postgres: PostgresServer
    secrets_manager: SecretsManagerServer
    secret_arn: str
    strategy: str

    @property
    def alternates(self) -> bool:
        """Whether two users take turns, so that the one in use is left alone."""
        return self.strategy == Strategy.ALTERNATING_USERS

    @property
    def environment(self) -> dict[str, str]:
        """The function's environment: where Secrets Manager is, who signed the database's certificate, the strategy."""
        tls = {"PGSSLROOTCERT": str(self.postgres.ca_file)}
        return {**self.secrets_manager.environment, **tls, "ROTATION_STRATEGY": self.strategy}

    def credential(self, label: str = "AWSCURRENT") -> dict[str, Any]:
        """Return what the version with the staging label holds."""
        value = self.secrets_manager.client().get_secret_value(SecretId=self.secret_arn, VersionStage=label)
        return dict(json.loads(value["SecretString"]))


@contextmanager
def run_stack(
    *,
    strategy: str = "single-user",
    settings: Mapping[str, str] = LOGGED,
    bind: str = "127.0.0.1",
    port: int = 0,
    rotation_host: str | None = None,
) -> Iterator[Stack]:
    """Run both servers with one role and its secret; afterwards nothing is left of them.

    For another strategy than "single-user" there is a superuser, too, whose secret is named in the other one. As on RDS
    it may create roles and give this one away, and is no superuser in PostgreSQL's eyes.

    `settings` go into postgresql.conf; `bind` and `port` (of Secrets Manager) let others than this machine in. They may
    know it as `rotation_host`, which goes into the secret and into the server's certificate.
    """
    names = ("localhost", *filter(None, [rotation_host]))
    with (
        run_postgres(settings=settings, bind=bind, server_names=names) as postgres,
        run_secrets_manager(bind=bind, port=port) as keeper,
    ):

        def create(name: str, username: str, options: str = "", **more: str) -> str:
            """Make a role, and a secret that logs in as it; return the secret's ARN."""
            password = secrets.token_urlsafe(24)
            postgres.query(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} {}").format(
                    sql.Identifier(username), sql.Literal(password), sql.SQL(options)
                )
            )
            login = {"host": postgres.host, "port": postgres.port, "dbname": "postgres", "username": username}
            rotated = {} if rotation_host is None else {"rotationHost": rotation_host}
            return keeper.create_secret(name, {"engine": "postgres", **login, "password": password, **rotated, **more})

        if strategy == "single-user":
            arn = create(SECRET_NAME, USERNAME)
        else:
            master = create(MASTER_SECRET_NAME, MASTER, "CREATEROLE")
            arn = create(SECRET_NAME, USERNAME, f"ADMIN {MASTER}", masterarn=master)
        yield Stack(postgres, keeper, arn, strategy)
