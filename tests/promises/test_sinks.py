"""No secret gets out: every place where a password, a token or a verifier could be read later is searched for them."""

from __future__ import annotations

import io
import json
import logging
import re
from contextlib import closing, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import pytest

from local.servers import rotation
from rotation_lambda import errors, handler
from rotation_lambda.postgres import login
from rotation_lambda.postgres.session import OPTIONS
from tests.worlds.clocks import Hasty
from tests.worlds.leaks import everything_in
from tests.worlds.scenes import Scene, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role, Secret

__all__ = ["scene", "set_scene"]

ROTATION_TOKEN = "rotation-token-0123456789-0123456789"
VERIFIER = re.compile(r"SCRAM-SHA-256\$|md5[0-9a-f]{32}")


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """Collect what this process logs with the root logger at DEBUG, as Lambda's ApplicationLogLevel sets it.

    And what it prints, which on Lambda is in the log as well: its metrics are.
    """
    stream = io.StringIO()
    writer, root = logging.StreamHandler(stream), logging.getLogger()
    [own] = handler.logger.handlers
    assert isinstance(own, logging.StreamHandler)
    usual, level, own_level = own.setStream(stream), root.level, handler.logger.log_level
    root.addHandler(writer)
    root.setLevel(logging.DEBUG)
    handler.logger.setLevel(logging.DEBUG)
    try:
        with redirect_stdout(stream):
            yield stream
        assert '"Namespace":"SecretRotation"' in stream.getvalue()
    finally:
        handler.logger.setLevel(own_level)
        root.setLevel(level)
        root.removeHandler(writer)
        own.setStream(usual)


@contextmanager
def every_change_fails(server: PostgresServer) -> Iterator[None]:
    """Let every ALTER ROLE fail, at a lock timeout that comes soon."""
    with (
        closing(server.connect("postgres", server.password)) as connection,
        connection.cursor() as cursor,
        pytest.MonkeyPatch.context() as patch,
    ):
        cursor.execute("LOCK TABLE pg_authid IN SHARE MODE")
        patch.setattr(login, "OPTIONS", OPTIONS.replace("lock_timeout=3s", "lock_timeout=50ms"))
        patch.setattr(handler, "Deadline", Hasty)
        yield


def statements(server: PostgresServer) -> str:
    return "\n".join(query for (query,) in server.query("SELECT query FROM pg_stat_statements"))


@pytest.fixture
def direct() -> None:
    """Let calls go over HTTP after all: what writes their log lines is one of the sinks."""


@pytest.fixture
def role(postgres: PostgresServer, make_role: Callable[..., Role]) -> Role:
    return make_role(postgres)


def test_the_search_would_find_a_password_that_is_set_in_clear_text(role: Role) -> None:
    server = role.server
    role.alter("PASSWORD 'in clear text'")
    assert "in clear text" in server.log()
    assert "in clear text" in statements(server)


def test_no_password_token_or_verifier_is_in_any_sink(
    role: Role, make_secret: Callable[[object], Secret], invoke: rotation.Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that fails in every way on its way is searched for afterwards."""
    server = role.server
    secret = make_secret(role.document)
    client = secret.server.client()
    logged = len(server.log())
    server.query("SELECT pg_stat_statements_reset()")
    raised: list[str] = []
    passwords = {role.password}

    def fail(error: type[Exception], token: str, step: str) -> None:
        with pytest.raises(error) as caught:
            rotation.invoke_steps(invoke, secret.arn, token, steps=[step], rotation_token=ROTATION_TOKEN)
        raised.append(everything_in(caught.value))

    with everything_logged() as log:
        token = rotation.begin(client, secret.arn, secret.server.function_arn)
        rotation.invoke_steps(invoke, secret.arn, token, steps=["createSecret"], rotation_token=ROTATION_TOKEN)
        passwords.add(secret.document("AWSPENDING")["password"])
        fail(errors.LoginRefusedError, token, "testSecret")
        with every_change_fails(server):
            fail(errors.RoleLockedError, token, "setSecret")
        role.alter("CONNECTION LIMIT 0")
        fail(errors.LoginNotAllowedError, token, "setSecret")
        role.alter("CONNECTION LIMIT -1")
        server.use_hba("hostssl all all all password")
        fail(errors.AuthenticationMethodError, token, "setSecret")
        server.use_hba(server.default_hba)
        with monkeypatch.context() as changed:
            changed.setenv("PGSSLROOTCERT", "")
            fail(errors.TlsError, token, "setSecret")
        rotation.invoke_steps(invoke, secret.arn, token, rotation_token=ROTATION_TOKEN)
    passwords.add(secret.document()["password"])
    assert role.lets_in(secret.document()["password"])

    server_log, ours = server.log()[logged:], [log.getvalue(), *raised]
    assert "ALTER ROLE SESSION_USER PASSWORD 'SCRAM-SHA-256$" in server_log  # the server did log the statement
    for sink in [server_log, statements(server), *ours]:
        assert [secret for secret in (*passwords, ROTATION_TOKEN) if secret in sink] == []
    for sink in ours:
        assert not VERIFIER.search(sink)


@pytest.mark.parametrize("strategy", ["alternating-users", "superuser"])
def test_no_password_or_verifier_of_a_superusers_rotation_is_in_any_sink(
    strategy: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for what a superuser changes: its own password, and those of both users."""
    monkeypatch.setenv("ROTATION_STRATEGY", strategy)
    server, client = scene.server, scene.secret.server.client()
    logged = len(server.log())
    server.query("SELECT pg_stat_statements_reset()")
    raised: list[str] = []
    passwords = {scene.role.password, scene.superuser.password}

    def fail(error: type[errors.RotationError], step: str = "setSecret") -> None:
        raised.append(everything_in(scene.fail(error, step, token=token)))

    with everything_logged() as ours:
        token = scene.begin()
        rotation.invoke_steps(
            scene.invoke, scene.secret.arn, token, steps=["createSecret"], rotation_token=ROTATION_TOKEN
        )
        passwords.add(scene.secret.document("AWSPENDING")["password"])
        fail(errors.LoginRefusedError, "testSecret")
        with every_change_fails(server):
            fail(errors.RoleLockedError)
        if strategy == "alternating-users":
            scene.role.alter("SET log_statement = 'all'")
            fail(errors.RoleNotPreparedError)
            scene.role.alter("RESET ALL")
        scene.query("REVOKE {} FROM {}", scene.role.name, scene.superuser.name)
        fail(errors.RoleNotPreparedError)
        scene.query("GRANT {} TO {} WITH ADMIN OPTION", scene.role.name, scene.superuser.name)
        scene.superuser.alter("CONNECTION LIMIT 0")
        fail(errors.LoginNotAllowedError)
        scene.superuser.alter("CONNECTION LIMIT -1 VALID UNTIL '2001-01-01'")
        fail(errors.LoginRefusedError)
        scene.superuser.alter("VALID UNTIL 'infinity'")
        master = scene.master.document()
        for broken, error in [
            ({**master, "port": 1}, errors.SuperuserMismatchError),
            ({**master, "password": [master["password"]]}, errors.InvalidSecretError),
            ({**master, "sslmode": "verify-full", "tlsServerName": "elsewhere"}, errors.TlsError),
        ]:
            client.put_secret_value(SecretId=scene.master.arn, SecretString=json.dumps(broken))
            fail(error)
        client.put_secret_value(SecretId=scene.master.arn, SecretString=json.dumps(master))
        scene.take(token)
        scene.rotate()
    passwords |= {scene.secret.document(label)["password"] for label in ("AWSCURRENT", "AWSPREVIOUS")}
    assert len(passwords) == 4

    server_log = server.log()[logged:]
    assert re.search('ALTER ROLE "[^"]*" PASSWORD \'SCRAM-SHA-256\\$', server_log)  # the server did log the statement
    for sink in [server_log, statements(server), ours.getvalue(), *raised]:
        assert [secret for secret in (*passwords, ROTATION_TOKEN) if secret in sink] == []
    for sink in [ours.getvalue(), *raised]:
        assert not VERIFIER.search(sink)
