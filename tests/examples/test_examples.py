"""Applications built on examples/ live through rotations, ask little of Secrets Manager, and tell no secret."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Barrier
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import django.conf
import psycopg
import psycopg2
import pytest
import sqlalchemy
from aws_lambda_powertools.utilities.parameters.base import clear_caches
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from django.db.utils import ConnectionHandler
from moto.secretsmanager.models import secretsmanager_backends
from psycopg2 import sql
from samcli.yamlhelper import yaml_parse

from examples import database as example
from examples.database import REFUSED, Database
from examples.engine import create_engine_for
from examples.pool import create_pool_for
from examples.secret import read_secret, read_version
from local.servers import rotation
from local.servers.applications import make_provider, run_clients
from local.servers.proxy import Cut, Passage, run_proxy
from local.servers.secrets_manager import REGION, run_secrets_manager
from rotation_lambda.credential import Credential
from rotation_lambda.postgres.answers import read_answer
from tests import ROOT
from tests.deployment import cloudformation
from tests.worlds import secret_format
from tests.worlds.aws_cli import aws_cli
from tests.worlds.clients import account_of
from tests.worlds.clocks import PATIENCE_S, wait_until
from tests.worlds.fakes import FakeClock
from tests.worlds.leaks import everything_in
from tests.worlds.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Role, Secret

PAGE = "docs/applications.md"
REFUSAL = "password authentication failed"
CHANGE = ["createSecret", "setSecret"]
FINISH = ["testSecret", "finishSecret"]


@dataclass(frozen=True, slots=True)
class Application:
    """A process with a credential of its own: the role, its secret, the example's Database, and what that reads."""

    role: Role
    secret: Secret
    database: Database
    reads: list[str]
    invoke: rotation.Invoke
    refuse: dict[str, str]

    def log_in(self, **parameters: object) -> None:
        self.database.connect(**parameters).close()

    def begin_rotation(self) -> str:
        """Bring a rotation into the window: the database wants AWSPENDING. Return its token."""
        server = self.secret.server
        token = rotation.begin(server.client(), self.secret.arn, server.function_arn)
        rotation.invoke_steps(self.invoke, self.secret.arn, token, steps=CHANGE)
        return token

    def finish_rotation(self, token: str) -> None:
        rotation.invoke_steps(self.invoke, self.secret.arn, token, steps=FINISH)

    def put_pending(self, token: str, value: str) -> None:
        """Have the version hold another value, which AWS does not allow: as if createSecret had stored that one."""
        backend = secretsmanager_backends[account_of(self.secret.arn)][REGION]
        backend.secrets[self.secret.arn].versions[token]["secret_string"] = value

    def put(self, value: object) -> None:
        """Make another value AWSCURRENT, which is not the function's doing."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.secret.server.client().put_secret_value(SecretId=self.secret.arn, SecretString=text)


@pytest.fixture(autouse=True)
def surroundings(
    secrets_manager: SecretsManagerServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Give the test the environment of an application, and an empty cache."""
    for name, value in {**secrets_manager.environment, "PGSSLROOTCERT": str(postgres.ca_file)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(example, "DEADLINE_S", 30)
    clear_caches()  # type: ignore[no-untyped-call]
    yield
    clear_caches()  # type: ignore[no-untyped-call]


@pytest.fixture
def role(postgres: PostgresServer, make_role: Callable[..., Role]) -> Role:
    return make_role(postgres)


@pytest.fixture
def application(role: Role, make_secret: Callable[[object], Secret], invoke: rotation.Invoke) -> Application:
    secret = make_secret(role.document)
    client = secret.server.client(user_agent_extra="application")
    refuse: dict[str, str] = {}
    refuse_reading(client, refuse)
    provider, reads = make_provider(client)
    return Application(role, secret, Database(secret.arn, provider), reads, invoke, refuse)


def refuse_reading(client: Any, refuse: dict[str, str]) -> None:  # noqa: ANN401 - its stubs know no hook that answers
    """Let GetSecretValue fail for the labels of `refuse`, with the error code it has for them, as IAM would."""

    def answer(params: dict[str, Any], **_: object) -> tuple[object, object] | None:
        label = json.loads(params["body"])["VersionStage"]
        if label not in refuse:
            return None
        error = {"Code": refuse[label], "Message": "the role is not authorized to perform this action"}
        return SimpleNamespace(status_code=400), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 400}}

    client.meta.events.register("before-call.secretsmanager.GetSecretValue", answer)


def failure(application: Application, error: type[Exception], match: str, **parameters: object) -> Exception:
    """Log in, which fails at once and asks nothing more of Secrets Manager; return the error."""
    began, asked = time.monotonic(), len(application.reads)
    with pytest.raises(error, match=match) as caught:
        application.log_in(**parameters)
    assert time.monotonic() - began < example.DEADLINE_S
    assert len(application.reads) - asked <= 1
    assert application.role.password not in everything_in(caught.value)
    return caught.value


class TestReading:
    def test_reads_once_and_remembers(self, make_secret: Callable[[object], Secret]) -> None:
        secret = make_secret({"username": "shop", "password": "first"})
        secret.server.calls.clear()
        assert [read_secret(secret.arn)["password"] for _ in range(3)] == ["first"] * 3
        assert secret.server.calls == ["GetSecretValue"]

    def test_reads_again_what_is_older_than_asked_for(self, make_secret: Callable[[object], Secret]) -> None:
        secret = make_secret({"password": "first"})
        read_secret(secret.arn, max_age_s=0)
        secret.server.client().put_secret_value(SecretId=secret.arn, SecretString='{"password": "second"}')
        assert read_secret(secret.arn, max_age_s=0) == {"password": "second"}

    def test_reads_what_a_customer_managed_key_encrypts(self, secrets_manager: SecretsManagerServer) -> None:
        key = secrets_manager.client("kms").create_key()["KeyMetadata"]["KeyId"]
        secrets_manager.client().create_secret(Name="test/shop/key", SecretString='{"a": 1}', KmsKeyId=key)
        assert read_secret("test/shop/key") == {"a": 1}

    def test_another_version_does_not_become_everybodys(self, make_secret: Callable[[object], Secret]) -> None:
        secret = make_secret({"password": "first"})
        secret.server.client().put_secret_value(SecretId=secret.arn, SecretString='{"password": "second"}')
        for _ in range(2):
            assert read_version(secret.arn, "AWSPREVIOUS") == {"password": "first"}
            assert read_secret(secret.arn) == {"password": "second"}

    @pytest.mark.parametrize("value", ["no JSON: hunter2", b"\xff hunter2"])
    def test_an_error_does_not_carry_along_what_is_not_json(
        self, value: str | bytes, secrets_manager: SecretsManagerServer
    ) -> None:
        kind = "SecretString" if isinstance(value, str) else "SecretBinary"
        name = f"test/shop/{kind}"
        secrets_manager.client().create_secret(Name=name, **{kind: value})
        for read in (read_secret, lambda name: read_version(name, "AWSCURRENT")):
            with pytest.raises(ValueError, match="does not hold JSON") as caught:
                read(name)
            assert "hunter2" not in everything_in(caught.value)

    def test_says_that_it_may_not_read(self) -> None:
        with pytest.raises(GetParameterError, match="ResourceNotFoundException"):
            read_secret("test/shop/none")


class TestConnecting:
    def test_reads_once_for_many_sessions(self, application: Application) -> None:
        for _ in range(3):
            application.log_in()
        assert application.reads == ["AWSCURRENT"]

    def test_verifies_the_server_and_sends_no_password(self, application: Application) -> None:
        with closing(application.database.connect(application_name="shop")) as connection:
            given = connection.info.dsn_parameters
        assert (given["sslmode"], given["require_auth"]) == ("verify-full", "scram-sha-256,md5")
        assert (given["application_name"], given["connect_timeout"]) == ("shop", "5")

    def test_the_login_is_the_secrets_alone(self, application: Application) -> None:
        application.log_in(user="postgres", password="wrong", host="elsewhere.invalid")

    def test_reads_again_when_the_password_is_refused(self, application: Application) -> None:
        application.log_in()
        application.put({**application.role.document, "password": "new"})
        application.role.alter("PASSWORD 'new'")
        application.log_in()
        assert application.reads == ["AWSCURRENT"] * 2

    def test_turns_to_pending_in_the_window_and_stays_there(self, application: Application) -> None:
        application.log_in()
        token = application.begin_rotation()
        for _ in range(3):
            application.log_in()
        application.finish_rotation(token)
        application.log_in()
        assert application.reads == ["AWSCURRENT", "AWSCURRENT", "AWSPENDING"]

    def test_returns_to_current_when_it_was_put_back(self, application: Application) -> None:
        application.begin_rotation()
        application.log_in()
        application.role.alter(f"PASSWORD '{application.role.password}'")
        application.log_in()
        assert application.reads[-1] == "AWSCURRENT"

    @pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException", "InternalServiceError"])
    def test_waits_for_the_end_of_the_window_where_pending_cannot_be_read(
        self, application: Application, code: str
    ) -> None:
        """Not for this role to read, or without a value (the same error as for a label that is nowhere)."""
        application.refuse["AWSPENDING"] = code
        application.log_in()
        token = application.begin_rotation()
        self.check_waiting(application, token)

    @pytest.mark.parametrize("value", ["no JSON", '{"password": "of nothing"}', '{"host": "h", "username": "u"}'])
    def test_waits_for_the_end_of_the_window_where_pending_is_no_credential(
        self, application: Application, value: str
    ) -> None:
        application.log_in()
        token = application.begin_rotation()
        pending = json.dumps(application.secret.document("AWSPENDING"))
        application.put_pending(token, value)
        self.check_waiting(application, token, lambda: application.put_pending(token, pending))

    def check_waiting(
        self, application: Application, token: str, before_the_end: Callable[[], object] = lambda: None
    ) -> None:
        with ThreadPoolExecutor(1) as pool:
            session = pool.submit(application.log_in)
            wait_until(lambda: len(application.reads) > 2, "AWSCURRENT is read again")
            assert not session.done()
            before_the_end()
            application.finish_rotation(token)
            session.result(timeout=PATIENCE_S)
        assert 2 < len(application.reads) <= 15

    def test_a_pending_of_another_server_learns_nothing(
        self, application: Application, make_role: Callable[..., Role]
    ) -> None:
        """Whoever writes AWSPENDING might name a server that asks for the password in clear text."""
        other = make_role(application.role.server)
        application.log_in()
        token = application.begin_rotation()
        application.put_pending(token, json.dumps(other.document))
        server = application.role.server
        server.use_hba(f"hostssl all {other.name} all password", server.default_hba)
        try:
            with pytest.raises(psycopg2.OperationalError, match="authentication method requirement"):
                application.log_in()
        finally:
            server.use_hba(server.default_hba)

    def test_threads_share_one_reading(self, application: Application) -> None:
        application.log_in()
        application.begin_rotation()
        with ThreadPoolExecutor(8) as pool:
            start = Barrier(8)

            def log_in(_: int) -> None:
                start.wait()
                application.log_in()

            list(pool.map(log_in, range(8)))
        assert application.reads == ["AWSCURRENT", "AWSCURRENT", "AWSPENDING"]


class TestFailing:
    def test_gives_up_at_the_deadline_without_a_storm(
        self, application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Somebody changed the password by hand, in the middle of a rotation: nothing in Secrets Manager logs in."""
        monkeypatch.setattr(example, "DEADLINE_S", 1)
        caplog.set_level(logging.DEBUG)
        application.log_in()
        application.begin_rotation()
        application.role.alter("PASSWORD 'by hand'")
        pending = application.secret.document("AWSPENDING")["password"]
        application.reads.clear()
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            errors = [work.exception() for work in [pool.submit(application.log_in) for _ in range(8)]]
        seconds = time.monotonic() - began
        assert len(application.reads) <= 2 * (1 + seconds / example.READ_AGAIN_S)
        for error in errors:
            assert isinstance(error, psycopg2.OperationalError)
            assert REFUSED.search(str(error))
            assert application.secret.arn in error.__notes__[0]
            told = everything_in(error) + caplog.text + repr(application.database)
            assert [secret for secret in (application.role.password, pending, "by hand") if secret in told] == []

    def test_a_wrong_database_is_no_reason_to_read_again(self, application: Application) -> None:
        application.put({**application.role.document, "dbname": "none"})
        failure(application, psycopg2.OperationalError, 'database "none" does not exist')

    def test_a_server_that_does_not_answer_is_none(
        self, application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(example, "WAIT_S", 1)
        application.put({**application.role.document, "port": 1})
        error = failure(application, psycopg2.OperationalError, "Connection refused")
        assert application.secret.arn in error.__notes__[0]
        assert 2 <= caplog.text.count("trying again: connection to server at") < 20
        assert application.role.password not in caplog.text

    @pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_NODATA])
    @pytest.mark.parametrize("more", [{}, {"tlsServerName": "localhost"}], ids=["", "name"])
    def test_a_host_that_dns_does_not_know_is_none(
        self, application: Application, more: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        application.put({**application.role.document, "host": "nowhere.invalid", **more})
        asked = answer_dns(monkeypatch, "nowhere.invalid", code)
        failure(application, psycopg2.OperationalError, "DNS does not know nowhere.invalid")
        assert len(asked) == 1

    def test_a_server_with_another_name_is_none(self, application: Application) -> None:
        application.put({**application.role.document, "host": "127.0.0.1"})
        failure(application, psycopg2.OperationalError, "server certificate for")

    def test_a_server_that_rds_does_not_vouch_for_is_none(
        self, application: Application, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PGSSLROOTCERT")
        failure(application, psycopg2.OperationalError, f'root certificate file "{example.RDS_BUNDLE}" does not exist')
        monkeypatch.setattr(example, "RDS_BUNDLE", ROOT / "rotation_lambda" / "roots" / "all.pem")
        failure(application, psycopg2.OperationalError, "certificate verify failed")

    def test_a_server_that_asks_for_the_password_is_none(self, application: Application) -> None:
        server = application.role.server
        server.use_hba(f"hostssl all {application.role.name} all password", server.default_hba)
        try:
            failure(application, psycopg2.OperationalError, "server requested a cleartext password")
        finally:
            server.use_hba(server.default_hba)

    def test_says_that_current_may_not_be_read(self, application: Application) -> None:
        application.refuse["AWSCURRENT"] = "AccessDeniedException"
        failure(application, GetParameterError, "AccessDeniedException")

    def test_says_that_current_may_not_be_read_any_more(self, application: Application) -> None:
        application.log_in()
        application.refuse["AWSCURRENT"] = "AccessDeniedException"
        application.role.alter("PASSWORD 'new'")
        failure(application, GetParameterError, "AccessDeniedException")

    def test_says_that_the_secret_is_deleted(self, application: Application) -> None:
        application.secret.server.client().delete_secret(SecretId=application.secret.arn)
        failure(application, GetParameterError, "marked (for deletion|deleted)")

    @pytest.mark.parametrize(
        "value",
        [
            "not JSON: {password}",
            '["{password}"]',
            '"{password}"',
            "null",
            '{{"password": "{password}"}}',
            '{{"host": "localhost", "username": "\\ud800", "password": "{password}"}}',
            '{{"host": "localhost", "username": "app", "password": "{password}\\u0000"}}',
            '{{"host": "localhost", "username": "app", "password": ["{password}"]}}',
            '\ufeff{{"host": "localhost", "username": "app", "password": "{password}"}}',
        ],
    )
    def test_says_that_the_secret_is_no_credential(self, application: Application, value: str) -> None:
        application.put(value.format(password=application.role.password))
        failure(application, ValueError, "AWSCURRENT of .* is not the JSON of a database's credential")

    @pytest.mark.parametrize(
        ("text", "refused"),
        [
            ('password authentication failed for user "app"', True),
            ("password authentication failed", True),
            ("SASL authentication failed", True),
            ("The password that was provided for the role app is wrong.", True),
            ("This RDS proxy has no credentials for the role app. Check the credentials for this role …", True),
            ("This RDS Proxy requires TLS connections", False),
            ('role "x failed: FATAL:  SASL authentication failed" is not permitted to log in', False),
            ('database "password authentication failed" does not exist', False),
            ("sorry, too many clients already", False),
            ("Passwort-Authentifizierung fehlgeschlagen", False),
        ],
    )
    def test_knows_a_refused_password_by_its_text(self, text: str, refused: bool) -> None:  # noqa: FBT001
        error = f'connection to server at "db.example" (192.0.2.1), port 5432 failed: FATAL:  {text}\n'
        assert bool(REFUSED.search(error)) is refused
        many = (
            f"connection failed: {error}Multiple connection attempts failed. All failures were:\n- host: 'h': {error}"
        )
        assert example.is_refused(psycopg.OperationalError(many)) is refused

    @pytest.mark.parametrize(
        ("text", "passes"),
        [
            ("Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?", True),
            ("timeout expired", True),
            ("Connection timed out", True),
            ("No route to host", True),
            ("server closed the connection unexpectedly\n\tThis probably means …", True),
            ("FATAL:  the database system is starting up", True),
            ("FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent …", True),
            ("FATAL:  sorry, too many clients already", True),
            ("FATAL:  terminating connection due to administrator command", True),
            ('FATAL:  no pg_hba.conf entry for host "::1", user "app", database "d", SSL encryption', True),
            ('FATAL:  no pg_hba.conf entry for host "::1", user "app", database "d", no encryption', False),
            ('FATAL:  pg_hba.conf rejects connection for host "::1", user "app", database "d", SSL encryption', True),
            ('FATAL:  pg_hba.conf rejects connection for host "::1", user "app", database "d", no encryption', False),
            ("FATAL:  canceling authentication due to timeout", True),
            ("FATAL:  terminating connection due to idle-session timeout", False),
            ("FATAL:  terminating connection due to transaction timeout", False),
            ("SSL SYSCALL error: EOF detected", True),
            ("SSL SYSCALL error: Connection reset by peer", True),
            ("could not receive data from server: Connection reset by peer", True),
            ("could not send data to server: Broken pipe", True),
            ('authentication method requirement "scram-sha-256,md5" failed: server requested a cleartext', False),
            ('FATAL:  password authentication failed for user "app"', False),
            ('FATAL:  role "x" is not permitted to log in', False),
            ("SSL error: certificate verify failed", False),
            ('server certificate for "a" does not match host name "b"', False),
            ("server does not support SSL, but SSL was required", False),
        ],
    )
    def test_knows_by_its_text_what_may_pass(self, text: str, passes: bool) -> None:  # noqa: FBT001
        error = f'connection to server at "db.example" (192.0.2.1), port 5432 failed: {text}\n'
        assert bool(example.PASSES.search(error)) is passes
        rotation_waits = read_answer(text, Credential("db.example", 5432, "d", "app", "")).unknown
        assert rotation_waits is passes

    @pytest.mark.parametrize(
        "text",
        [
            "connection timeout expired",  # psycopg 3's own word
            'connection to server at "h", port 1 failed: SSL error: unexpected eof while reading',
            'connection to server at "h", port 1 failed: could not send SSL negotiation packet: Broken pipe',
            "DNS does not answer for h: Temporary failure in name resolution",
        ],
    )
    def test_knows_what_may_pass_by_the_words_of_drivers_as_well(self, text: str) -> None:
        assert example.PASSES.search(text)


class TestFormat:
    """The table that the rotation's reader goes through as well."""

    @pytest.mark.parametrize(("changes", "expected"), secret_format.ACCEPTED, ids=str)
    def test_reads_what_the_rotation_accepts(self, changes: dict[str, Any], expected: dict[str, Any]) -> None:
        read = example.login_of(secret_format.secret(changes))
        login = secret_format.login(expected)
        name = login.pop("tlsServerName")
        assert read == {**login, "sslmode": login["sslmode"] or "verify-full", **({"name": name} if name else {})}

    @pytest.mark.parametrize("changes", secret_format.REFUSED, ids=str)
    def test_refuses_what_the_rotation_refuses(self, changes: dict[str, Any]) -> None:
        with pytest.raises((ValueError, LookupError, TypeError)):
            example.login_of(secret_format.secret(changes))

    def test_verifies_another_name_at_every_address_of_the_host(self, application: Application) -> None:
        application.put({**application.role.document, "host": "127.0.0.1", "tlsServerName": "localhost"})
        with closing(application.database.connect()) as connection:
            given = connection.info.dsn_parameters
        assert (given["host"], given["hostaddr"], given["sslmode"]) == ("localhost", "127.0.0.1", "verify-full")

    def test_goes_without_tls_where_the_secret_says_so_and_the_code_does_not(self, application: Application) -> None:
        application.put({**application.role.document, "ssl": "false"})
        server = application.role.server
        server.use_hba(f"host all {application.role.name} all scram-sha-256", server.default_hba)
        try:
            with closing(application.database.connect()) as connection:
                assert not connection.info.ssl_in_use
            with closing(application.database.connect(sslmode="verify-full")) as connection:
                assert connection.info.ssl_in_use
        finally:
            server.use_hba(server.default_hba)

    def test_logs_in_by_md5_where_the_server_asks_for_it(self, application: Application) -> None:
        role, server = application.role, application.role.server
        change = sql.SQL("SET password_encryption = md5; ALTER ROLE {} PASSWORD {}")
        server.query(change.format(sql.Identifier(role.name), sql.Literal(role.password)))
        server.use_hba(f"hostssl all {role.name} all md5", server.default_hba)
        try:
            application.log_in()
            with pytest.raises(psycopg2.OperationalError, match="authentication method requirement"):
                application.log_in(require_auth="scram-sha-256")
        finally:
            server.use_hba(server.default_hba)

    def test_opens_the_database_that_is_asked_for(self, application: Application) -> None:
        """As Django's tests need it."""
        with closing(application.database.connect(dbname="template1")) as connection:
            assert connection.info.dbname == "template1"


class TestWaiting:
    def test_waits_for_a_server_that_turns_everybody_away_for_a_while(
        self, application: Application, caplog: pytest.LogCaptureFixture
    ) -> None:
        """So does a paused Aurora cluster."""
        server = application.role.server
        server.use_hba("hostssl all postgres all scram-sha-256")
        with ThreadPoolExecutor(1) as pool:
            try:
                session = pool.submit(application.log_in)
                wait_for(lambda: caplog.text.count("no pg_hba.conf entry") > 1)
                assert not session.done()
            finally:
                server.use_hba(server.default_hba)
            session.result(timeout=PATIENCE_S)
        assert application.reads == ["AWSCURRENT"]
        assert application.role.password not in caplog.text

    def test_asks_again_while_rds_proxy_does_not_know_the_user_yet(self, application: Application) -> None:
        """It reads AWSCURRENT now and then: after alternating users have taken turns, it does not know the old one."""
        proxy = Proxy(psycopg2, known=application.role.password)
        database = Database(application.secret.arn, application.database._provider, proxy)
        application.put({**application.role.document, "password": "another"})
        application.role.alter("PASSWORD 'another'")
        clear_caches()  # type: ignore[no-untyped-call]
        with ThreadPoolExecutor(1) as pool:
            session = pool.submit(database.connect)
            wait_for(lambda: proxy.refused > 1)
            proxy.known = "another"
            session.result(timeout=PATIENCE_S).close()

    @pytest.mark.parametrize("driver", [psycopg2, psycopg])
    @pytest.mark.parametrize("position", [0, 1, 1500])
    @pytest.mark.parametrize("end", [OSError, Cut], ids=["FIN", "RST"])
    def test_waits_for_a_server_that_ends_the_connection_in_the_handshake(
        self,
        application: Application,
        driver: Any,  # noqa: ANN401 - psycopg2 or psycopg
        position: int,
        end: type[Exception],
    ) -> None:
        ended: set[int] = set()

        def rule(passage: Passage) -> None:
            """End the first two connections after so many bytes of the answer."""
            reached = passage.direction == "answer" and passage.position + len(passage.data) > position
            if reached and len(ended | {passage.connection}) <= 2:
                ended.add(passage.connection)
                raise end

        with run_proxy("127.0.0.1", application.role.server.port, rule) as proxy:
            application.put({**application.role.document, "port": proxy.port})
            Database(application.secret.arn, application.database._provider, driver).connect().close()
            assert (len(ended), proxy.connections) == (2, 3)
        assert application.reads == ["AWSCURRENT"]

    @pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_FAIL])
    def test_waits_for_dns(
        self, application: Application, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = answer_dns(monkeypatch, "localhost", code, times=2)
        application.log_in()
        assert len(asked) == 3
        assert caplog.text.count("DNS does not answer for localhost") == 2

    @pytest.mark.parametrize("number", [1, 6, 12, 30])
    def test_waits_no_longer_where_a_host_has_many_addresses(
        self, application: Application, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connect_timeout of libpq is each address's."""
        addresses = [f"192.0.2.{last}" for last in range(number)]
        answer_dns(monkeypatch, "localhost", addresses)
        silent = Silent(FakeClock())
        monkeypatch.setattr(
            example, "time", SimpleNamespace(monotonic=lambda: silent.clock.now, sleep=silent.clock.sleep)
        )
        with pytest.raises(psycopg2.OperationalError, match="timeout expired"):
            Database(application.secret.arn, application.database._provider, silent).connect()
        assert example.WAIT_S <= silent.clock.now <= example.WAIT_S + silent.longest
        assert silent.longest <= 5
        assert set(silent.asked) == set(addresses[:20])  # libpq waits for two seconds at least


@dataclass
class Silent:
    """A driver whose every address is silent, by a clock of its own."""

    clock: FakeClock
    asked: list[str] = field(default_factory=list)
    longest: int = 0
    OperationalError: type[Exception] = psycopg2.OperationalError

    def connect(self, *, host: str, port: int, connect_timeout: int, hostaddr: str = "", **_: object) -> None:
        """Wait for each address, as libpq does, of those that are given or that DNS has."""
        known = vars(example)["socket"].getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for address in hostaddr.split(",") if hostaddr else [str(one[4][0]) for one in known]:
            self.asked.append(address)
            self.longest = max(self.longest, connect_timeout)
            self.clock.sleep(connect_timeout)
        raise self.OperationalError(f'connection to server at "{address}", port {port} failed: timeout expired\n')


def answer_dns(
    monkeypatch: pytest.MonkeyPatch, host: str, answer: int | list[str], times: int | None = None
) -> list[str]:
    """Have DNS answer with an error's code or with addresses, so many times; return whom it is asked for meanwhile."""
    look_up, asked = socket.getaddrinfo, []

    def answers(name: str, port: int, **how: Any) -> Any:  # noqa: ANN401 - socket.getaddrinfo's
        if name != host:
            return look_up(name, port, **how)
        asked.append(name)
        if times is not None and len(asked) > times:
            return look_up(name, port, **how)
        if isinstance(answer, int):
            raise socket.gaierror(answer, "no answer of DNS")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(example, "socket", SimpleNamespace(**{**vars(socket), "getaddrinfo": answers}))
    return asked


@dataclass
class Proxy:
    """psycopg2 by way of RDS Proxy, which knows one password."""

    driver: Any
    known: str
    refused: int = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever psycopg2 has
        return getattr(self.driver, name)

    def connect(self, **login: Any) -> Any:  # noqa: ANN401
        if login["password"] != self.known:
            self.refused += 1
            where = f'connection to server at "{login["host"]}", port {login["port"]} failed: FATAL:  '
            user = f"This RDS proxy has no credentials for the role {login['user']}."
            raise psycopg2.OperationalError(f"{where}{user} Check the credentials for this role and try again.\n")
        return self.driver.connect(**login)


def wait_for(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestPool:
    def test_lives_through_a_rotation(self, application: Application) -> None:
        engine = create_engine_for(application.database, pool_size=2, max_overflow=0, pool_pre_ping=True)
        question = sqlalchemy.text("SELECT 1")
        with engine.connect() as before:
            before.execute(question)
            token = application.begin_rotation()
            before.execute(question)
            with engine.connect() as during:
                during.execute(question)
            application.finish_rotation(token)
            before.execute(question)
        engine.dispose()
        with engine.connect() as after:
            after.execute(question)
        engine.dispose()
        assert application.reads == ["AWSCURRENT", "AWSCURRENT", "AWSPENDING"]

    def test_passes_on_what_connect_args_say(self, application: Application) -> None:
        engine = create_engine_for(application.database, connect_args={"application_name": "shop"})
        with engine.connect() as session:
            assert session.scalar(sqlalchemy.text("SHOW application_name")) == "shop"
        engine.dispose()

    def test_tells_no_secret(self, application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(example, "DEADLINE_S", 0)
        engine = create_engine_for(application.database)
        application.log_in()
        application.role.alter("PASSWORD 'by hand'")
        with pytest.raises(sqlalchemy.exc.OperationalError, match=REFUSAL) as caught:
            engine.connect()
        assert application.role.password not in everything_in(caught.value) + repr(engine)


Ask = Callable[[], str]
"""Opens a session afresh, and returns as whom."""


def by_driver(driver: Any) -> Callable[[str], Iterator[Ask]]:  # noqa: ANN401 - psycopg2 or psycopg
    def opened(secret_id: str) -> Iterator[Ask]:
        database = Database(secret_id, driver=driver)

        def ask() -> str:
            with closing(database.connect()) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT session_user")
                return str(cursor.fetchone()[0])

        yield ask

    return opened


POOL_S = 10.0


def by_pool(secret_id: str) -> Iterator[Ask]:
    with create_pool_for(Database(secret_id, driver=psycopg), min_size=0, max_size=1, timeout=POOL_S) as pool:

        def ask() -> str:
            with pool.connection() as connection:
                [user] = connection.execute("SELECT session_user").fetchone() or [""]
                connection.close()
                return str(user)

        yield ask


def by_engine(driver: Any) -> Callable[[str], Iterator[Ask]]:  # noqa: ANN401 - psycopg2 or psycopg
    def opened(secret_id: str) -> Iterator[Ask]:
        engine = create_engine_for(Database(secret_id, driver=driver), poolclass=sqlalchemy.NullPool)

        def ask() -> str:
            with engine.connect() as session:
                return str(session.scalar(sqlalchemy.text("SELECT session_user")))

        yield ask

    return opened


def by_django(secret_id: str) -> Iterator[Ask]:
    session = of_django("postgres", secret_id)

    def ask() -> str:
        session.close()
        with session.cursor() as cursor:
            cursor.execute("SELECT session_user, current_database(), current_setting('application_name')")
            user, *others = cursor.fetchone()
            assert others == ["postgres", "shop"]
            return str(user)

    try:
        yield ask
    finally:
        session.close()


def of_django(name: str, secret_id: str) -> Any:  # noqa: ANN401 - Django has no types
    """Return what Django would make of an entry of DATABASES."""
    if not django.conf.settings.configured:
        django.conf.settings.configure()
        django.setup()
    options = {"secret_id": secret_id, "application_name": "shop"}
    entry = {"ENGINE": "examples.django_postgresql", "NAME": name, "OPTIONS": options}
    return ConnectionHandler({"default": entry})["default"]


EXAMPLES = {
    "psycopg2": by_driver(psycopg2),
    "psycopg": by_driver(psycopg),
    "psycopg_pool": by_pool,
    "SQLAlchemy, psycopg2": by_engine(psycopg2),
    "SQLAlchemy, psycopg": by_engine(psycopg),
    "Django": by_django,
}


@pytest.mark.parametrize("strategy", ["single-user", "alternating-users", "superuser"])
@pytest.mark.parametrize("kind", EXAMPLES)
def test_lives_through_a_rotation_of_each_strategy(
    kind: str,
    strategy: str,
    role: Role,
    make_secret: Callable[[object], Secret],
    make_superuser: Callable[[Role], dict[str, Any]],
    invoke: rotation.Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sessions are opened before, after each step, and when the next rotation has changed the password again."""
    monkeypatch.setenv("ROTATION_STRATEGY", strategy)
    secret = make_secret({**role.document, **(make_superuser(role) if strategy != "single-user" else {})})
    manager = secret.server
    users = {role.name, *([f"{role.name}_clone"] if strategy == "alternating-users" else [])}
    with contextmanager(EXAMPLES[kind])(secret.arn) as ask:
        seen = {ask()}
        for _ in range(2):
            token = rotation.begin(manager.client(), secret.arn, manager.function_arn)
            for step in rotation.STEPS:
                rotation.invoke_steps(invoke, secret.arn, token, steps=[step])
                seen.add(ask())
        if strategy == "alternating-users":  # the old password is good until the next rotation but one
            token = rotation.begin(manager.client(), secret.arn, manager.function_arn)
            rotation.invoke_steps(invoke, secret.arn, token)
            seen.add(ask())
        assert seen == users


@pytest.mark.parametrize("kind", EXAMPLES)
def test_tells_no_secret_where_the_password_is_refused(
    kind: str, application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Psycopg's own exception has it among its attributes."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(example, "DEADLINE_S", 0)
    monkeypatch.setitem(globals(), "POOL_S", 0.5)
    with contextmanager(EXAMPLES[kind])(application.secret.arn) as ask:
        ask()
        application.role.alter("PASSWORD 'by hand'")
        with pytest.raises(Exception, match=r"password authentication failed|couldn't get a connection") as caught:
            [ask() for _ in range(3)]  # a pool has one in reserve
    assert application.role.password not in everything_in(caught.value) + caplog.text


def test_djangos_own_tests_get_a_database_of_their_own(application: Application) -> None:
    """Not the one that the secret names: they would empty it."""
    application.role.alter("CREATEDB")
    name = f"shop_{application.role.name}"
    session = of_django(name, application.secret.arn)
    with session._nodb_cursor() as cursor:
        cursor.execute(f"CREATE DATABASE test_{name}")
    session.settings_dict["NAME"] = f"test_{name}"
    try:
        with session.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (f"test_{name}",)
    finally:
        session.close()
        with session._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE test_{name}")


@pytest.mark.parametrize("strategy", ["single-user", "alternating-users"])
def test_with_the_fallback_no_rotation_is_noticed_and_without_it_every_one_is(
    strategy: str,
    role: Role,
    make_secret: Callable[[object], Secret],
    make_superuser: Callable[[Role], dict[str, Any]],
    invoke: rotation.Invoke,
) -> None:
    """Each window is held open until every client has had two answers in it; of alternating users there is none."""
    alternating, rotations = strategy == "alternating-users", 3
    secret = make_secret({**role.document, **(make_superuser(role) if alternating else {})})
    manager = secret.server
    with run_clients(2, secret.arn, manager, role.server) as clients:
        clients.wait()
        for _ in range(rotations):
            token = rotation.begin(manager.client(), secret.arn, manager.function_arn)
            for step in rotation.STEPS:
                rotation.invoke_steps(invoke, secret.arn, token, steps=[step])
                clients.wait()
    for client in clients.with_fallback:
        assert client.refused == 0
        assert client.reads.count("AWSPENDING") == (0 if alternating else rotations)
        assert len(client.reads) <= 1 + 2 * rotations
    for client in clients.without:
        assert (client.refused == 0) is alternating
        assert client.windows == (0 if alternating else rotations)
    assert f", AWSPENDING {0 if alternating else 2 * rotations};" in clients.report()


class TestPolicy:
    """What the template lets applications do is what the examples do."""

    @pytest.mark.parametrize(
        ("answers", "allowed"),
        [({}, {"AWSCURRENT"}), ({"ReadersMayReadPending": "true"}, {"AWSCURRENT", "AWSPENDING"})],
    )
    def test_covers_what_a_connect_asks_for(
        self, application: Application, answers: dict[str, str], allowed: set[str]
    ) -> None:
        stack = cloudformation.deploy({**cloudformation.TWO_ANSWERS, **answers})
        [read, *denied] = stack.properties("ReadSecretPolicy")["PolicyDocument"]["Statement"]
        assert read["Resource"] == cloudformation.SECRET
        assert ([one["Effect"] for one in denied] == ["Deny"]) is ("AWSPENDING" not in allowed)
        application.log_in()
        token = application.begin_rotation()
        application.refuse.update(dict.fromkeys({"AWSCURRENT", "AWSPENDING"} - allowed, "AccessDeniedException"))
        calls = application.secret.server.calls
        calls.clear()
        with ThreadPoolExecutor(1) as pool:
            session = pool.submit(application.log_in)
            if "AWSPENDING" in allowed:
                session.result(timeout=PATIENCE_S)
            else:
                time.sleep(0.6)
                assert not session.done()
            assert set(calls) == {"GetSecretValue"}
            application.finish_rotation(token)
            session.result(timeout=PATIENCE_S)
        assert set(application.reads) == {"AWSCURRENT", "AWSPENDING"}

    def test_decrypts_by_way_of_secrets_manager_alone(self) -> None:
        key = f"arn:aws:kms:{cloudformation.REGION}:{cloudformation.ACCOUNT}:key/shop"
        stack = cloudformation.deploy({**cloudformation.TWO_ANSWERS, "KmsKeyArn": key})
        *_, statement = stack.properties("ReadSecretPolicy")["PolicyDocument"]["Statement"]
        assert statement == {
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": key,
            "Condition": {
                "StringEquals": {
                    "kms:ViaService": f"secretsmanager.{cloudformation.REGION}.amazonaws.com",
                    "kms:EncryptionContext:SecretARN": cloudformation.SECRET,
                }
            },
        }


@pytest.mark.parametrize(
    "use",
    [
        "from examples.database import Database; Database({!r}).connect()",
        "from examples.secret import *; read_secret({!r})",
    ],
)
def test_a_logger_at_debug_tells_no_secret(application: Application, use: str) -> None:
    """In a process of its own, since any other module may have set botocore's level in this one."""
    code = f"import logging; logging.basicConfig(level=logging.DEBUG); {use.format(application.secret.arn)}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "urllib3" in done.stderr
    assert application.role.password not in done.stderr


def snippets() -> Iterator[tuple[str, str]]:
    """Yield language and text of the page's snippets, in their order."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[PAGE], re.MULTILINE | re.DOTALL)


class Reader:
    """Does what the page says, snippet by snippet, where there is a server for it."""

    def __init__(self, manager: SecretsManagerServer, postgres: PostgresServer, folder: Path) -> None:
        self.manager, self.postgres, self.folder = manager, postgres, folder
        self.names: dict[str, Any] = {}

    def json(self, text: str) -> None:
        value = json.loads(text)
        if "Statement" in value:
            [statement] = value["Statement"]
            arn = self.manager.client().describe_secret(SecretId="production/shop/postgres")["ARN"]
            assert fnmatchcase(re.sub(r":\d{12}:", ":123456789012:", arn), statement["Resource"])
            assert statement["Action"] == "secretsmanager:GetSecretValue"
            assert "Condition" not in statement
        else:
            here = {"host": self.postgres.host, "port": self.postgres.port}
            (self.folder / "shop.json").write_text(json.dumps({**value, **here}))

    def sh(self, text: str) -> None:
        subprocess.run(["/bin/sh", "-eu", "-c", text], cwd=self.folder, check=True, timeout=60)
        assert not (self.folder / "shop.json").exists()

    def yaml(self, text: str) -> None:
        """Let cfn-lint look at it, and make the secret as CloudFormation would: moto's does not."""
        import cfnlint.api  # noqa: PLC0415 - it takes a second

        assert [match for match in cfnlint.api.lint_all(text) if match.rule.id[0] in "EW"] == []
        properties = yaml_parse(text)["Resources"]["Secret"]["Properties"]
        generated, client = properties["GenerateSecretString"], self.manager.client()
        how = {name: generated[name] for name in ("PasswordLength", "ExcludePunctuation")}
        password = {generated["GenerateStringKey"]: client.get_random_password(**how)["RandomPassword"]}
        value = {**json.loads(generated["SecretStringTemplate"]), **password}
        client.create_secret(Name=properties["Name"], SecretString=json.dumps(value))

    def python(self, text: str) -> None:
        self.manager.calls.clear()
        exec(compile(text, PAGE, "exec"), self.names)  # noqa: S102
        assert set(self.manager.calls) <= {"GetSecretValue"}


def test_every_snippet_of_the_page_runs(
    postgres: PostgresServer, make_role: Callable[..., Role], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_role(postgres, name="shop", password="change me")
    programs = tmp_path / "bin"
    programs.mkdir()
    with run_secrets_manager() as manager, aws_cli(programs, manager.client) as path:
        monkeypatch.setenv("PATH", path)
        for name, value in manager.environment.items():
            monkeypatch.setenv(name, value)
        reader = Reader(manager, postgres, tmp_path)
        for language, text in snippets():
            getattr(reader, language)(text)
    reader.names["engine"].dispose()
    reader.names["pool"].close()
    assert reader.names["DATABASES"]["default"]["ENGINE"] == "examples.django_postgresql"
    payment = reader.names["payment"]
    assert payment == reader.names["payment_now"]
    assert (payment["username"], len(payment["password"])) == ("shop", 32)
