"""Whoever reads a copy of the login from a secret is let in after each rotation, whatever the strategy."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import sqlalchemy
from psycopg2.extensions import make_dsn

from rotation_lambda import errors
from rotation_lambda.settings import Strategy
from tests.worlds import shapes
from tests.worlds.scenes import set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from local.servers.postgres import PostgresServer
    from tests.worlds.scenes import Scene

__all__ = ["set_scene"]  # a fixture

STRATEGIES = [strategy for strategy in Strategy if strategy is not Strategy.AUTO]
HOSTILE = "a b'\\:;@/{}\"=%#?&,ü"


def place(server: PostgresServer) -> dict[str, Any]:
    where = {"host": server.host, "port": str(server.port), "dbname": "postgres"}
    return {**where, "sslmode": "verify-full", "sslrootcert": str(server.ca_file)}


def strings(server: PostgresServer, user: str, password: str) -> dict[str, str]:
    """Return what drivers take as it is."""
    where = place(server)
    url = "{}://{}:{}@{host}:{port}/{dbname}?sslmode={sslmode}&sslrootcert={sslrootcert}"
    user_, password_ = shapes.percent(user), shapes.percent(password)
    return {
        "url": url.format("postgresql", user_, password_, **where),
        "sqlalchemy": url.format("postgresql+psycopg2", user_, password_, **where),
        "dsn": make_dsn(user=user, password=password, **where),
        "user_alone": make_dsn(user=user, **where),
        "passphrase": password,
        "pgpass": f"{where['host']}:{where['port']}:*:{shapes.escape(user)}:{shapes.escape(password)}\n",
    }


class Application:
    """Logs in by every key of a secret that has a login."""

    def __init__(self, server: PostgresServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.file, self.monkeypatch = server, folder / "pgpass", monkeypatch

    def log_in(self, document: Mapping[str, Any]) -> set[str]:
        """Return as whom it was let in."""
        users = {self.ask(psycopg2.connect(document["live"][name])) for name in ("url", "dsn")}
        live = document["live"]
        users.add(self.ask(psycopg2.connect(live["user_alone"], password=live["passphrase"])))
        engine = sqlalchemy.create_engine(document["live"]["sqlalchemy"], poolclass=sqlalchemy.NullPool)
        with engine.connect() as session:
            users.add(session.scalar(sqlalchemy.text("SELECT session_user")))
        self.file.write_text(document["live"]["pgpass"], encoding="utf-8")
        self.file.chmod(0o600)
        users.add(self.ask(psycopg2.connect(user=document["username"], passfile=str(self.file), **place(self.server))))
        with self.monkeypatch.context() as environment:
            for name in ("PGUSER", "PGPASSWORD"):
                environment.setenv(name, document[name])
            users.add(self.ask(psycopg2.connect(**place(self.server))))
        logins = {(copy["user"], copy["password"]) for copy in shapes.read(document).values()}
        return users | {self.ask(self.server.connect(*login)) for login in logins}

    def ask(self, connection: Any) -> str:  # noqa: ANN401 - psycopg2's stubs know no type of its own
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT session_user")
            [(user,)] = cursor.fetchall()
            return str(user)


@pytest.fixture
def application(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    return Application(postgres, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", [None, HOSTILE], ids=["app", "hostile"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_copy_logs_in_after_each_rotation(
    strategy: Strategy,
    name: str | None,
    application: Application,
    set_scene: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second password has every character that there is."""
    monkeypatch.setenv("ROTATION_STRATEGY", strategy)
    scene = set_scene(application.server, name)
    login = scene.role.name, scene.role.password
    keys = {"PGUSER": login[0], "PGPASSWORD": login[1], "live": strings(application.server, *login)}
    scene.put({**scene.secret.document(), **keys, **shapes.copies(*login), "number": 1.50})
    before = scene.secret.document()
    users = [scene.role.name, scene.clone if strategy is Strategy.ALTERNATING_USERS else scene.role.name]
    assert application.log_in(before) == {users[0]}
    for turn in (1, 2):
        monkeypatch.setenv("EXCLUDE_CHARACTERS", "" if turn == 2 else "#")
        monkeypatch.setenv("PASSWORD_LENGTH", "32" if turn == 1 else "200")
        after = scene.rotate()
        assert application.log_in(after) == {users[turn % 2]}
        read, was = shapes.read(after), shapes.read(before)
        login = after["username"], after["password"]
        assert read == {name: {**copy, "user": login[0], "password": login[1]} for name, copy in was.items()}
    assert before["password"] not in str(after)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_copy_that_would_go_stale_stops_before_anything_is_stored(
    strategy: Strategy, postgres: PostgresServer, set_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTATION_STRATEGY", strategy)
    scene = set_scene(postgres)
    document = {**scene.secret.document(), "script": f"export PGPASSWORD={scene.role.password}"}
    scene.put(document)
    token = scene.begin()
    error = scene.fail(errors.InvalidSecretError, "createSecret", token=token)
    assert "`script`" in error.what
    assert scene.role.lets_in(scene.role.password)
    client = scene.secret.server.client()
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_secret_value(SecretId=scene.secret.arn, VersionId=token)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_copy_that_may_go_stale_stays_and_is_told(
    strategy: Strategy, postgres: PostgresServer, set_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTATION_STRATEGY", strategy)
    scene = set_scene(postgres)
    script = f"export PGPASSWORD={scene.role.password}"
    scene.put({**scene.secret.document(), "script": script, "allowStaleCopies": ["script"]})
    assert scene.rotate()["script"] == script
    assert scene.notes().startswith("`script`: left as it is, as `allowStaleCopies` says.")
