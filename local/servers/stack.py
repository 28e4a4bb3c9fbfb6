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
    from local.servers.secrets_manager import Refuse, SecretsManagerServer

USERNAME = "app"
MASTER = "master"
CONTAINER = "container"
SECRET_NAME = f"local/{USERNAME}/postgres"
STRATEGIES = tuple(str(strategy) for strategy in Strategy if strategy is not Strategy.AUTO)
LOGGED = {"log_connections": "on", "log_statement": "all"}


@dataclass(frozen=True, slots=True)
class Stack:
    """Both servers, and the secret whose AWSCURRENT logs in; another one, if asked for, is for use in a container."""

    postgres: PostgresServer
    secrets_manager: SecretsManagerServer
    secret_arn: str
    strategy: str
    container_arn: str = ""

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
    container_host: str | None = None,
    refuse: Refuse = lambda _: None,
) -> Iterator[Stack]:
    """Run both servers with one user and its secret; afterwards nothing is left of them.

    For another strategy than "single-user" there is a superuser, too, whose secret is named in the other one. As on RDS
    it may create roles and give this one away, and is no superuser in PostgreSQL's eyes.

    `settings` go into postgresql.conf; `bind` lets others than this machine in, and `refuse` says which calls of
    Secrets Manager fail. With `container_host`, the name by which a container knows this machine, there is a second
    user whose secret has that name for the rotation; the server's certificate has it as well.
    """
    names = ("localhost", *filter(None, [container_host]))
    with (
        run_postgres(settings=settings, bind=bind, server_names=names) as postgres,
        run_secrets_manager(bind=bind, refuse=refuse) as keeper,
    ):

        def create(username: str, superuser: str, **more: str) -> str:
            if strategy == Strategy.SINGLE_USER:
                return add_secret(postgres, keeper, username, **more)
            master = add_secret(postgres, keeper, superuser, "CREATEROLE", **more)
            return add_secret(postgres, keeper, username, f"ADMIN {superuser}", masterarn=master, **more)

        arn = create(USERNAME, MASTER)
        container = create(CONTAINER, f"{CONTAINER}_{MASTER}", rotationHost=container_host) if container_host else ""
        yield Stack(postgres, keeper, arn, strategy, container)


def add_secret(
    postgres: PostgresServer, keeper: SecretsManagerServer, username: str, options: str = "", **more: str
) -> str:
    """Make a user, and the secret local/USERNAME/postgres that logs in as it; return the secret's ARN."""
    password = secrets.token_urlsafe(24)
    postgres.query(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} {}").format(
            sql.Identifier(username), sql.Literal(password), sql.SQL(options)
        )
    )
    login = {"host": postgres.host, "port": postgres.port, "dbname": "postgres", "username": username}
    value = {"engine": "postgres", **login, "password": password, **more}
    return keeper.create_secret(f"local/{username}/postgres", value)
