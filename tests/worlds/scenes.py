"""A secret, its role and the superuser of its `masterarn` on a real server: what both strategies' tests start from."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import sql

from local.servers import rotation
from rotation_lambda import errors
from rotation_lambda.credential import CLONE, SslMode
from rotation_lambda.deadline import Deadline
from rotation_lambda.postgres import Postgres
from rotation_lambda.rotation import Rotation
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import SHIPPED_BUNDLE, Settings, Strategy
from rotation_lambda.superuser import Superusers
from tests import conftest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

    from local.servers.postgres import PostgresServer
    from rotation_lambda.rds import Rds
    from rotation_lambda.staging import SecretVersions
    from tests.conftest import Role, Secret

Failure = TypeVar("Failure", bound=errors.RotationError)

VERSIONS = conftest.versions_here("no superuser changed a password on it.")

STATEMENT = re.compile(r"""(?:"[^"]*"|'[^']*'|[^;"'])+""")

# What the function may have written, by row: a row that was written anew has another xmin.
WRITTEN = """
SELECT 'role', rolname::text, '', xmin::text FROM pg_authid
UNION ALL SELECT 'setting', setrole::regrole::text, setdatabase::text, xmin::text FROM pg_db_role_setting
UNION ALL SELECT 'member', member::regrole::text, roleid::regrole::text, xmin::text FROM pg_auth_members
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """One secret with a `masterarn`; `role` is whom its first version logs in as."""

    role: Role
    superuser: Role
    secret: Secret
    master: Secret
    invoke: rotation.Invoke
    log: Callable[[], list[dict[str, Any]]]

    @property
    def server(self) -> PostgresServer:
        return self.role.server

    @property
    def clone(self) -> str:
        return self.role.name + CLONE

    @property
    def how_members(self) -> str:
        """How the function grants a membership on this version."""
        return " WITH INHERIT TRUE, SET TRUE" if self.server.version >= 16 else ""

    def look(self) -> dict[str, dict[str, str]]:
        """Run the preflight; return its findings by check."""
        report: Any = self.invoke({"Step": "preflight", "SecretId": self.secret.arn})
        return {finding["check"]: finding for finding in report["findings"]}

    def begin(self) -> str:
        return rotation.begin(self.secret.server.client(), self.secret.arn, self.secret.server.function_arn)

    def take(self, token: str, *steps: str) -> None:
        """Take these steps of a rotation, or all four."""
        rotation.invoke_steps(self.invoke, self.secret.arn, token, steps=steps or rotation.STEPS)

    def rotate(self) -> dict[str, Any]:
        """Rotate once, without a second try; return what AWSCURRENT holds then."""
        self.take(self.begin())
        return self.secret.document()

    def fail(self, error: type[Failure], *steps: str, token: str | None = None) -> Failure:
        """Let a rotation fail in the last of these steps, setSecret if none is named; return its error."""
        *before, last = steps or ("createSecret", "setSecret")
        token = token or self.begin()
        if before:
            self.take(token, *before)
        with pytest.raises(error) as caught:
            self.take(token, last)
        return caught.value

    def notes(self) -> str:
        """What the function has warned of so far."""
        return "\n".join(line["message"] for line in self.log() if line["level"] == "WARNING")

    def put(self, document: Mapping[str, object], token: str | None = None, label: str = "AWSCURRENT") -> None:
        """Make a new version of the secret AWSCURRENT by hand, or store another one."""
        self.secret.server.client().put_secret_value(
            SecretId=self.secret.arn,
            SecretString=json.dumps(document),
            ClientRequestToken=token or str(uuid4()),
            VersionStages=[label],
        )

    def log_in(self, document: Mapping[str, Any] | None = None, **overrides: object) -> Connection:
        """Return an autocommitting session of an application's, of AWSCURRENT's if it has no other version."""
        login = document or self.secret.document()
        connection = self.server.connect(
            login["username"], login["password"], **{"dbname": login["dbname"], **overrides}
        )
        connection.autocommit = True
        return connection

    def ask(self, query: str, document: Mapping[str, Any] | None = None, **overrides: object) -> list[tuple[Any, ...]]:
        """Run a query as an application would."""
        with closing(self.log_in(document, **overrides)) as connection:
            return run(connection, query)

    def query(self, query: str, *names: str, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a query as the server's own superuser, with quoted names in place of {}."""
        return self.server.query(sql.SQL(query).format(*map(sql.Identifier, names)), dbname=dbname)

    def written(self) -> set[tuple[str, ...]]:
        """Return the rows of WRITTEN that are of this secret's users."""
        users = {self.role.name, self.clone}
        return {row for row in self.server.query(WRITTEN) if row[1].strip('"') in users}

    def settings(self, role: str) -> dict[str, list[str]]:
        """Return what ALTER ROLE … SET has stored for the role, by database, without the `role` that a clone has."""
        rows = self.server.query(
            "SELECT coalesce(datname, ''), setconfig FROM pg_db_role_setting LEFT JOIN pg_database ON "
            "pg_database.oid = setdatabase JOIN pg_roles ON pg_roles.oid = setrole WHERE rolname = %s",
            (role,),
        )
        stored = {database: sorted(one for one in entries if not one.startswith("role=")) for database, entries in rows}
        return {database: entries for database, entries in stored.items() if entries}

    def follow(self, error: errors.RotationError) -> str:
        """Run exactly the statements of an error's hint, as the server's own superuser; return them."""
        statements = re.sub(r"^[^:]*: ", "", error.hint, count=1)
        self.server.query(statements)
        return statements


@dataclass(frozen=True, slots=True)
class Watched(SecretsManager):
    """The secret itself, and what happens right before its labels are read."""

    before: Callable[[], None]

    def describe_secret(self) -> SecretVersions:
        self.before()
        return SecretsManager.describe_secret(self)


def assemble(
    scene: Scene,
    token: str,
    strategy: Strategy,
    *,
    deadline: Deadline | None = None,
    before: Callable[[], None] = lambda: None,
    look_up: Callable[[object], list[str]] = lambda _: ["127.0.0.1"],
    open_rds: Callable[[], Rds] = lambda: pytest.fail("No call to RDS is due here."),
) -> Rotation:
    """Put a rotation together as the handler does, but with these parts: for the functions of steps.py."""
    client = scene.secret.server.client()
    sslmode = SslMode.VERIFY_FULL if scene.server.ca_file else SslMode.DISABLE
    settings = Settings.from_environment({"PGSSLMODE": sslmode, "SUPERUSER_SECRET_ARNS": scene.master.arn})
    deadline = deadline or Deadline(time.monotonic() + 60)
    versions = SecretsManager(client, scene.secret.arn, deadline).describe_secret()
    return Rotation(
        token,
        versions,
        Watched(client, scene.secret.arn, deadline, before),
        Postgres(sslmode, str(scene.server.ca_file or SHIPPED_BUNDLE), deadline, look_up),
        deadline,
        Superusers(lambda arn: SecretsManager(client, arn, deadline), open_rds, settings),
        strategy,
    )


def run(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def set_scene(
    make_role: Callable[..., Role],
    make_secret: Callable[[object], Secret],
    invoke: rotation.Invoke,
    log: Callable[[], list[dict[str, Any]]],
    direct: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Scene]:
    """Make a role, a superuser as RDS has them (CREATEROLE, and on 16 ADMIN OPTION on the role), and both secrets."""

    def make(server: PostgresServer, name: str | None = None, *, may: bool = True, **document: object) -> Scene:
        role = make_role(server, name)
        superuser = make_role(server, f"master_{uuid4().hex[:8]}", options="CREATEROLE" if may else "")
        if server.version >= 16 and may:
            names = map(sql.Identifier, (role.name, superuser.name))
            server.query(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(*names))
        tls = {} if server.ca_file else {"sslmode": "disable"}
        if server.ca_file:
            monkeypatch.setenv("PGSSLROOTCERT", str(server.ca_file))
        master = make_secret({**superuser.document, **tls})
        monkeypatch.setenv("SUPERUSER_SECRET_ARNS", f"{os.environ.get('SUPERUSER_SECRET_ARNS', '')} {master.arn}")
        secret = make_secret({**role.document, **tls, "masterarn": master.arn, **document})
        return Scene(role, superuser, secret, master, invoke, log)

    return make


@pytest.fixture
def scene(set_scene: Callable[..., Scene], postgres: PostgresServer) -> Scene:
    """A scene where the server's version does not matter."""
    return set_scene(postgres)


@pytest.fixture(params=VERSIONS)
def every_scene(
    request: pytest.FixtureRequest, set_scene: Callable[..., Scene], postgres_of: Callable[[int], PostgresServer]
) -> Scene:
    """The same on every version of PostgreSQL that there is."""
    return set_scene(postgres_of(request.param))


@contextmanager
def database(server: PostgresServer, name: str, owner: str = "postgres") -> Iterator[str]:
    """Make a database, and drop it afterwards."""
    names = sql.Identifier(name), sql.Identifier(owner)
    server.query(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
    try:
        yield name
    finally:
        server.query(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(names[0]))


def lets_in(scene: Scene, document: Mapping[str, Any]) -> bool:
    """Tell whether the server takes the credential; so it does where a session is the user's last, and not yet gone."""
    try:
        scene.log_in(document).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            return False
        if "too many connections for role" not in str(error):
            raise
    return True


def statements_in(log: str, verbs: Sequence[str] = ("CREATE", "ALTER", "GRANT", "REVOKE")) -> list[str]:
    """Return what a server with log_statement=all wrote of statements that begin with these verbs."""
    found = re.findall(r"LOG:  statement: (.*)", log)
    parts = [part.strip() for line in found for part in STATEMENT.findall(line)]
    return [part for part in parts if part.startswith(tuple(verbs))]
