"""What a server's answer to a login means, pinned on every server version: accepted, refused, or unknown and why."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from local.servers.postgres import ServerNotStartedError, run_postgres
from rotation_lambda import errors
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.postgres import answers, login
from rotation_lambda.settings import PLATFORM_ROOTS
from tests import conftest
from tests.postgres.test_session import credential, door, hba
from tests.worlds.clocks import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role

VERSIONS = conftest.versions_here("its answers to logins were not looked at.")
LOGIN = Credential("db.example", 5432, "postgres", "app", "old")


@pytest.fixture(params=VERSIONS)
def role(
    request: pytest.FixtureRequest, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
) -> Role:
    return make_role(postgres_of(request.param))


@pytest.fixture
def one_role(postgres: PostgresServer, make_role: Callable[..., Role]) -> Role:
    """A role where the version does not matter, since PostgreSQL is not reached."""
    return make_role(postgres)


def answer(role: Role, **changes: object) -> errors.DatabaseError:
    """Log in with a changed credential and return the error it ends in."""
    with pytest.raises(errors.DatabaseError) as caught:
        door(role.server).log_in(credential(role, **changes))
    assert role.password not in str(caught.value)
    return caught.value


@contextmanager
def listener(words: bytes | None) -> Iterator[int]:
    """Listen on a port of this machine; answer each connection's first bytes with `words`, or never."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if words is not None:
                    connection.recv(1024)
                    connection.sendall(words)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


class TestAccepted:
    """The password is right and the door stays shut: every one of these comes only with the right password."""

    def check(self, role: Role, hint: str, **changes: object) -> None:
        error = answer(role, **changes)
        assert isinstance(error, errors.LoginNotAllowedError)
        assert hint in error.hint
        assert isinstance(answer(role, **{**changes, "password": "wrong"}), errors.LoginRefusedError)

    def test_at_the_roles_connection_limit(self, role: Role) -> None:
        role.alter("CONNECTION LIMIT 0")
        self.check(role, "CONNECTION LIMIT")

    def test_at_the_databases_connection_limit(self, role: Role) -> None:
        role.server.query("ALTER DATABASE template1 CONNECTION LIMIT 0")
        self.check(role, "ALTER DATABASE … CONNECTION LIMIT", dbname="template1")
        role.server.query("ALTER DATABASE template1 CONNECTION LIMIT -1")

    def test_in_a_database_that_does_not_exist(self, role: Role) -> None:
        self.check(role, "`dbname`", dbname="nowhere")

    def test_in_a_database_that_takes_no_connections(self, role: Role) -> None:
        self.check(role, "ALLOW_CONNECTIONS", dbname="template0")

    def test_in_a_database_whose_removal_was_interrupted(self, role: Role) -> None:
        role.server.query("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'template0'")
        self.check(role, "Drop the database", dbname="template0")
        role.server.query("UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'template0'")

    def test_without_connect(self, role: Role) -> None:
        role.server.query("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC")
        self.check(role, "GRANT CONNECT", dbname="template1")
        role.server.query("GRANT CONNECT ON DATABASE template1 TO PUBLIC")

    def test_without_login(self, role: Role) -> None:
        role.alter("NOLOGIN")
        self.check(role, "LOGIN")


class TestRefused:
    def test_by_the_wrong_password_an_unknown_role_and_one_past_valid_until(self, role: Role) -> None:
        assert isinstance(answer(role, password="wrong"), errors.LoginRefusedError)
        assert isinstance(answer(role, username="nobody"), errors.LoginRefusedError)
        role.alter("VALID UNTIL '2020-01-01'")
        error = answer(role)
        assert isinstance(error, errors.LoginRefusedError)
        for cause in ("VALID UNTIL", "does not exist", "second secret", "snapshot"):
            assert cause in error.hint


class TestUnknown:
    """No answer about the password: the step stops, and says why."""

    def test_when_dns_does_not_know_the_host(self, one_role: Role) -> None:
        assert type(answer(one_role, host="nowhere.invalid")) is errors.HostNotFoundError
        there = {"host": "nowhere.invalid", "tls_server_name": "localhost"}
        assert type(answer(one_role, **there)) is errors.HostNotFoundError

    @pytest.mark.parametrize(
        ("number", "error"),
        [
            (socket.EAI_NONAME, errors.HostNotFoundError),
            (socket.EAI_NODATA, errors.HostNotFoundError),
            (socket.EAI_AGAIN, errors.DatabaseTimeoutError),
            (socket.EAI_FAIL, errors.DatabaseTimeoutError),
        ],
    )
    def test_when_dns_does_not_answer(
        self, number: int, error: type[errors.DatabaseError], one_role: Role, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def look_up(*_: object, **__: object) -> None:
            raise socket.gaierror(number, "the resolver's words")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        seen = answer(one_role)
        assert type(seen) is error
        assert "could not look up the host: the resolver's words" in seen.what
        assert "Correct `host`" in seen.hint or "DNS server of the function's VPC" in seen.hint
        assert ("Correct" in seen.hint) is (error is errors.HostNotFoundError)

    def test_when_nobody_listens(self, one_role: Role) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]
        assert type(answer(one_role, port=port)) is errors.ConnectionFailedError

    def test_when_the_server_is_silent(self, one_role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(login, "CONNECT_TIMEOUT_S", 0.5)
        with listener(None) as port:
            assert type(answer(one_role, port=port)) is errors.DatabaseTimeoutError

    @pytest.mark.parametrize("sslmode", [SslMode.VERIFY_FULL, SslMode.DISABLE])
    @pytest.mark.parametrize(
        "words",
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"garbage", b"-ERR unknown\r\n", b"\0\0\0", b"x" * 9999],
    )
    def test_when_it_is_no_postgresql(self, one_role: Role, words: bytes, sslmode: SslMode) -> None:
        with listener(words) as port:
            error = answer(one_role, port=port, sslmode=sslmode)
        assert type(error) is errors.ConnectionFailedError
        assert "not PostgreSQL" in error.hint

    def test_when_it_answers_with_an_error_before_anything_was_asked(self, one_role: Role) -> None:
        with listener(b"E\0\0\0\x0csorry\n\0") as port:
            error = answer(one_role, port=port)
        assert type(error) is errors.ConnectionFailedError
        assert "not PostgreSQL" in error.hint

    @pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH\r\n"])
    def test_when_it_hangs_up(self, one_role: Role, words: bytes) -> None:
        with listener(words) as port:
            assert type(answer(one_role, port=port)) is errors.ConnectionFailedError

    @pytest.mark.parametrize("rule", ["host all nobody all scram-sha-256", "host all all all reject"])
    def test_when_pg_hba_conf_does_not_let_it_in(self, role: Role, rule: str) -> None:
        with hba(role.server, rule):
            assert type(answer(role)) is errors.NoHbaEntryError

    @pytest.mark.parametrize(("method", "hint"), [("trust", "trust"), ("password", "rds_iam"), ("ident", "rds_iam")])
    def test_when_a_login_would_prove_nothing_or_give_the_password_away(
        self, role: Role, method: str, hint: str
    ) -> None:
        with hba(role.server, f"host all all all {method}"):
            error = answer(role)
        assert type(error) is errors.AuthenticationMethodError
        assert hint in error.hint

    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            ("FATAL:  Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen", "lc_messages"),
            ("FATAL:  authentification par mot de passe échouée pour l'utilisateur « app »", "lc_messages"),
            ('FATAL:  用户 "app" Password 认证失败', "lc_messages"),
            ("FATAL:  something that PostgreSQL 25 will say", "server's words"),
            ("", "server's words"),
        ],
    )
    def test_when_the_words_are_not_known(self, words: str, hint: str) -> None:
        error = answers.read_answer(words, LOGIN)
        assert type(error) is errors.DatabaseUnreachableError
        assert error.unknown
        assert hint in error.hint

    @pytest.mark.parametrize(
        ("words", "error", "hint"),
        [
            ('FATAL:  LDAP authentication failed for user "app"', errors.AuthenticationMethodError, "LDAP"),
            ('FATAL:  PAM authentication failed for user "app"', errors.AuthenticationMethodError, "PAM"),
            ("FATAL:  canceling authentication due to timeout", errors.DatabaseNotReadyError, "authentication_timeout"),
            ("SSL error: unexpected eof while reading", errors.ConnectionFailedError, "server runs"),
            ("could not send SSL negotiation packet: Broken pipe", errors.ConnectionFailedError, "server runs"),
            ("could not get server's SSL certificate", errors.TlsError, "`host`"),
            ("SSL error: unsupported protocol", errors.TlsError, "TLS 1.2"),
            ("SSL error: tlsv1 alert protocol version", errors.TlsError, "TLS 1.2"),
            ("SSL error: certificate verify failed", errors.TlsError, "`host`"),
        ],
    )
    def test_gets_the_hint_that_its_words_call_for(
        self, words: str, error: type[errors.DatabaseError], hint: str
    ) -> None:
        read = answers.read_answer(words, LOGIN)
        assert type(read) is error
        assert hint in read.hint


def test_a_verifier_that_a_server_quotes_is_in_no_message() -> None:
    for verifier in ("SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5", "md5" + "0123456789abcdef" * 2):
        quoted = answers.read_answer(f"FATAL:  ALTER ROLE x PASSWORD '{verifier}'", LOGIN)
        assert verifier not in quoted.what
        assert "PASSWORD '…'" in quoted.what


class TestTls:
    """The name asked for, the certificate's names, issuer and end, the roots, and what to do."""

    @pytest.fixture(params=[version for version in VERSIONS if version in {15, 17}])
    def role(
        self,
        request: pytest.FixtureRequest,
        postgres_of: Callable[[int], PostgresServer],
        make_role: Callable[..., Role],
    ) -> Role:
        """A role of a server that has TLS, which the wheels of 16 and 18 are built without."""
        return make_role(postgres_of(request.param))

    def check(self, error: errors.DatabaseError, *told: str, hint: str) -> None:
        assert type(error) is errors.TlsError
        for one in (*told, "the certificate is for localhost, issued by trustme", "valid until 3"):
            assert one in error.what
        assert hint in error.hint

    def test_of_an_unknown_authority(self, role: Role, tmp_path: Path) -> None:
        trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
        with pytest.raises(errors.TlsError) as caught:
            door(role.server, ca_file=tmp_path / "other.pem").log_in(credential(role))
        self.check(caught.value, "unable to get local issuer", f"{tmp_path}/other.pem", hint="PGSSLROOTCERT")

    def test_for_another_name(self, role: Role) -> None:
        error = answer(role, host="127.0.0.1")
        self.check(error, "Asked for 127.0.0.1", str(role.server.ca_file), hint="Use localhost as `host`")

    def test_for_another_name_than_tls_server_name(self, role: Role) -> None:
        error = answer(role, tls_server_name="other.example")
        self.check(error, "Asked for other.example", hint="`tlsServerName`")

    def test_of_a_public_authority(self, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "")  # put back afterwards, since the door sets it
        database = door(role.server)
        with pytest.raises(errors.TlsError, match="platform's roots") as caught:
            type(database)(SslMode.VERIFY_FULL, PLATFORM_ROOTS, database.deadline).log_in(credential(role))
        self.check(caught.value, "unable to get local issuer", hint="PGSSLROOTCERT")

    def test_of_any_public_authority_under_any_name_is_refused(
        self, role: Role, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "")
        database = door(role.server)
        with pytest.raises(errors.TlsError, match="weak sslmode") as caught:
            type(database)(SslMode.VERIFY_CA, PLATFORM_ROOTS, database.deadline).log_in(credential(role))
        assert "verify-full" in caught.value.hint

    def test_that_is_not_offered(
        self, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
    ) -> None:
        for version in (16, 18):
            error = answer(make_role(postgres_of(version)), sslmode=SslMode.VERIFY_FULL)
            assert type(error) is errors.TlsError
            assert error.what.endswith("server does not support SSL, but SSL was required.")
            assert '"ssl": false' in error.hint

    @pytest.mark.parametrize("version", [version for version in VERSIONS if version in {15, 17}])
    def test_that_has_expired(self, version: int, make_role: Callable[..., Role]) -> None:
        with run_postgres(version=version) as server:
            role, authority = make_role(server), trustme.CA()
            leaf = authority.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=2))
            (server.data.parent / "server.key").write_bytes(leaf.private_key_pem.bytes())
            (server.data.parent / "server.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
            authority.cert_pem.write_to_path(str(server.ca_file))
            server.restart()
            error = answer(role)
            server.stop()
        assert type(error) is errors.TlsError
        assert f"valid until {datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}" in error.what
        assert "it has expired" in error.hint

    def test_that_is_asked_of_the_client(self, role: Role) -> None:
        with hba(role.server, "hostssl all all all cert"):
            assert "clientcert" in self.method(answer(role)).hint
            role.server.configure(ssl_ca_file=str(role.server.ca_file))
            assert "clientcert" in self.method(answer(role)).hint
        with hba(role.server, "hostssl all all all scram-sha-256 clientcert=verify-ca"):
            assert "clientcert" in self.method(answer(role)).hint
        role.server.configure(ssl_ca_file=None)

    def method(self, error: errors.DatabaseError) -> errors.DatabaseError:
        assert type(error) is errors.AuthenticationMethodError
        return error


@contextmanager
def starting(server: PostgresServer) -> Iterator[None]:
    """Start a server that will not be ready; afterwards it is stopped."""

    def start() -> None:
        with suppress(ServerNotStartedError):
            server.start()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    yield
    server.stop("immediate")
    thread.join()


def wait_for(words: str, role: Role) -> errors.DatabaseError:
    """Log in until the server says these words, and return what that is taken for."""
    deadline = time.monotonic() + PATIENCE_S
    error: errors.DatabaseError | None = None
    while time.monotonic() < deadline:
        try:
            door(role.server).log_in(credential(role)).close()
        except errors.DatabaseError as now:
            error = now
            if words in now.what:
                return now
        time.sleep(0.02)
    raise AssertionError(f"The server never said `{words}`: {error}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_is_not_ready_says_why(version: int, make_role: Callable[..., Role]) -> None:
    """In turn: full but for some (one is the tests' own), full, shutting down, a standby for nobody, starting up."""
    with run_postgres(version=version, settings={"max_connections": "6"}) as server:
        role = make_role(server)
        held = [server.connect(role.name, role.password) for _ in range(2)]
        assert type(wait_for("remaining connection slots are reserved", role)) is errors.LoginNotAllowedError
        held += [server.connect("postgres", server.password) for _ in range(3)]
        assert type(wait_for("too many clients", role)) is errors.DatabaseNotReadyError

        for connection in held[1:]:
            connection.close()
        os.kill(server.pid or 0, signal.SIGTERM)
        assert type(wait_for("is shutting down", role)) is errors.DatabaseNotReadyError
        held[0].close()
        server.stop()

        (server.data / "standby.signal").touch()
        configuration = server.data / "postgresql.conf"
        usual = configuration.read_text()
        configuration.write_text(f"{usual}hot_standby = off\n")
        with starting(server):
            assert type(wait_for("is not accepting connections", role)) is errors.DatabaseNotReadyError

        configuration.write_text(f"{usual}restore_command = 'sleep 5'\n")
        with starting(server):
            assert type(wait_for("is starting up", role)) is errors.DatabaseNotReadyError


POOLERS = {
    "FATAL:  SASL authentication failed": errors.LoginRefusedError,
    "FATAL:  password authentication failed": errors.LoginRefusedError,
    "FATAL:  The password that was provided for the role app is wrong.": errors.LoginRefusedError,
    'FATAL:  password authentication failed for user "pgbouncer"': errors.PoolerError,
    "FATAL:  This RDS proxy has no credentials for the role app. Check the credentials.": errors.PoolerError,
    "FATAL:  This RDS Proxy requires TLS connections": errors.PoolerError,
    "FATAL:  RDS supports only IAM, MD5, or SCRAM authentication": errors.PoolerError,
    "FATAL:  IAM authentication failed for user app": errors.PoolerError,
    "FATAL:  The IAM authentication failed for the role app. Check the IAM token for this role.": errors.PoolerError,
    "FATAL:  IAM is allowed only with SSL connections": errors.PoolerError,
    "FATAL:  Timed-out waiting to acquire database connection": errors.PoolerError,
    "FATAL:  no such database: app": errors.PoolerError,
    "FATAL:  no such user: app": errors.PoolerError,
    "FATAL:  query_wait_timeout": errors.PoolerError,
    "FATAL:  client_login_timeout (server down)": errors.PoolerError,
    "FATAL:  no more connections allowed (max_client_conn)": errors.PoolerError,
    "FATAL:  server login has been failing, try again later (server_login_retry)": errors.PoolerError,
    'FATAL:  server login failed: FATAL password authentication failed for user "app"': errors.PoolerError,
    "FATAL:  pgbouncer cannot connect to server": errors.PoolerError,
    "FATAL:  bouncer config error": errors.PoolerError,
    "FATAL:  unsupported startup parameter: options": errors.PoolerError,
}


@pytest.mark.parametrize("words", POOLERS)
def test_a_poolers_words_are_known(words: str) -> None:
    """PgBouncer's sources, and what users of RDS Proxy report: there is no wheel of either."""
    error = answers.read_answer(words, LOGIN)
    assert type(error) is POOLERS[words]
    assert isinstance(error, errors.LoginRefusedError) or "`rotationHost`" in error.hint


@pytest.mark.parametrize(
    "name", ['x" does not exist', "FATAL:  SASL authentication failed", "the database system is ", "%s", 'a"b', "Ü"]
)
def test_a_role_with_a_hostile_name_cannot_pose_as_another_answer(name: str) -> None:
    words = f'FATAL:  password authentication failed for user "{name}"'
    login = Credential("db.example", 5432, "postgres", name, "old")
    assert type(answers.read_answer(words, login)) is errors.LoginRefusedError


def test_the_first_line_counts() -> None:
    words = 'FATAL:  database "x" does not exist\nDETAIL:  FATAL:  SASL authentication failed\n'
    assert type(answers.read_answer(words, LOGIN)) is errors.LoginNotAllowedError
