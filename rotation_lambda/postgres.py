"""Where credentials are used: log in to PostgreSQL, tell what the server answered, change a password."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import psycopg2
from psycopg2.extensions import encrypt_password

from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.errors import (
    AuthenticationMethodError,
    ConnectionFailedError,
    DatabaseError,
    DatabaseNotReadyError,
    DatabaseReadOnlyError,
    DatabaseTimeoutError,
    DatabaseUnreachableError,
    HostNotFoundError,
    LoginNotAllowedError,
    LoginRefusedError,
    NoHbaEntryError,
    PasswordChangeError,
    PoolerError,
    TlsError,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 5000
LOCK_TIMEOUT_MS = 3000

_SCRAM, _MD5 = "scram-sha-256", "md5"
_TIMEOUTS = f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"
# The session must outlive the second login. Through a pooler this would be the next client's setting: not done there.
_WITHOUT_IDLE_TIMEOUTS = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE pg_backend_pid() = %(pid)s AND name IN "
    "('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
)
_FAILED = re.compile(r'connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: (.*)')
_MD5_WANTED = "server requested a hashed password"

# libpq gives no SQLSTATE for a failed connect, only a text: this table is the one place that reads it. Each pattern is
# anchored, so that a role or database with a hostile name cannot pose as another answer. What none matches is unknown.
_ANSWERS: tuple[tuple[re.Pattern[str], type[DatabaseError]], ...] = tuple(
    (re.compile(pattern), error)
    for pattern, error in (
        (r'FATAL:  password authentication failed(?: for user ".*")?$', LoginRefusedError),
        (r"FATAL:  SASL authentication failed$", LoginRefusedError),  # PgBouncer
        # The server checks these only after the password (InitPostgres), so they prove it.
        (r'FATAL:  too many connections for (?:role|database) "', LoginNotAllowedError),
        (r"FATAL:  remaining connection slots are reserved", LoginNotAllowedError),
        (r'FATAL:  database ".*" does not exist$', LoginNotAllowedError),
        (r'FATAL:  permission denied for database "', LoginNotAllowedError),
        (r'FATAL:  database ".*" is not currently accepting connections$', LoginNotAllowedError),
        (r'FATAL:  cannot connect to invalid database "', LoginNotAllowedError),
        (r'FATAL:  role ".*" is not permitted to log in$', LoginNotAllowedError),
        (r"FATAL:  no pg_hba\.conf entry for ", NoHbaEntryError),
        (r"FATAL:  pg_hba\.conf rejects connection for ", NoHbaEntryError),
        (r"FATAL:  the database system is ", DatabaseNotReadyError),
        (r"FATAL:  sorry, too many clients already$", DatabaseNotReadyError),
        (r"FATAL:  terminating connection due to ", DatabaseNotReadyError),
        (r"authentication method requirement .* failed: ", AuthenticationMethodError),
        (r"server certificate for ", TlsError),
        (r"server does not support SSL", TlsError),
        (r"SSL error: ", TlsError),
        (r"SSL SYSCALL error: ", TlsError),
        (r"could not .*(?:certificate|SSL)", TlsError),
        (r"timeout expired$", DatabaseTimeoutError),
        (r"Connection timed out$", DatabaseTimeoutError),
        (r"could not translate host name ", HostNotFoundError),
        (r"(?:Connection refused|No route to host|Network is unreachable)$", ConnectionFailedError),
        (r"(?:server closed the connection|could not (?:receive|send) data)", ConnectionFailedError),
    )
)


@dataclass(frozen=True, slots=True)
class Postgres:
    """The door to every database server, with the TLS that a secret gets where it does not ask for its own.

    Of libpq's environment only PGSSLMODE and PGSSLROOTCERT count, and they come by the settings. The other PG variables
    are taken out of this process, as libpq would follow them elsewhere (PGHOSTADDR, PGSERVICE, PGOPTIONS …, PostgreSQL
    32.15): the process is the function's own.
    """

    sslmode: SslMode
    sslrootcert: str

    def __post_init__(self) -> None:
        """Make libpq deaf to the environment."""
        for name in [
            name for name in os.environ if name.startswith("PG") and name not in {"PGSSLMODE", "PGSSLROOTCERT"}
        ]:
            del os.environ[name]

    def log_in(self, credential: Credential) -> Session:
        """Return an open session in which the server itself, and no pooler, knows the credential's user.

        The answer has three forms. *Accepted*: a session, or LoginNotAllowedError where the password is right and the
        door stays shut. *Refused*: LoginRefusedError. *Unknown*: every other DatabaseError; the caller must stop.

        SCRAM is asked for first, with which a server proves that it knows the password and never learns it (RFC 5802).
        Only where it says that it wants an md5 hash is that allowed, in a second connection; a server that asks for
        clear text or for nothing is refused (PostgreSQL 32.1.2, require_auth).
        """
        try:
            return Session.begin(self._connect(credential, _SCRAM), credential, _SCRAM)
        except AuthenticationMethodError as error:
            if _MD5_WANTED not in error.what:
                raise
        return Session.begin(self._connect(credential, _MD5), credential, _MD5)

    def _connect(self, credential: Credential, require_auth: str) -> Connection:
        sslmode = credential.sslmode or self.sslmode
        verified = sslmode in {SslMode.VERIFY_CA, SslMode.VERIFY_FULL}
        host, hostaddr, port = _address(credential)
        try:
            connection = psycopg2.connect(
                host=host,
                hostaddr=hostaddr,
                port=port,
                dbname=credential.dbname,
                user=credential.username,
                password=credential.password,
                require_auth=require_auth,
                sslmode=str(sslmode),
                sslrootcert=self.sslrootcert if verified else "",
                sslcertmode="disable",
                gssencmode="disable",
                connect_timeout=CONNECT_TIMEOUT_S,
                client_encoding="UTF8",
                application_name="rotation_lambda",
            )
        except psycopg2.Error as error:
            failure = _read_answer(str(error), credential)
        else:
            connection.autocommit = True
            return connection
        raise failure


@dataclass(slots=True)
class Session:
    """One login, open until it is closed. `authentication` is the method by which the server let us in."""

    _connection: Connection = field(repr=False)
    credential: Credential
    authentication: str
    in_recovery: bool = False

    @classmethod
    def begin(cls, connection: Connection, credential: Credential, authentication: str) -> Self:
        """Look around before anything is done: is this the server itself, and whose session is it.

        Behind a pooler the backend's process id is not the one that the connection was told, and behind a pooler with a
        server user of its own ALTER ROLE SESSION_USER would change somebody else's password: PoolerError.
        """
        session = cls(connection, credential, authentication)
        try:
            session._look_around()
        except DatabaseError:
            session.close()
            raise
        return session

    @property
    def encryption(self) -> str:
        """The TLS version of the connection, or "no TLS"."""
        return self._connection.info.ssl_attribute("protocol") or "no TLS"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out. What was not committed is rolled back, and locks are released, by the server."""
        self._connection.close()

    def change_password(self, password: str) -> None:
        """Give the session's own user another password, in one transaction.

        Only a verifier leaves this process, so that the password is in no log of the server's: an ordinary role cannot
        switch those off (PostgreSQL 19.8 log_statement, F.32 pg_stat_statements). It is a SCRAM verifier whenever the
        login was by SCRAM, whatever password_encryption says: an md5 verifier would lock the role out where pg_hba.conf
        asks for SCRAM. SESSION_USER needs no quoting of a hostile name, and SET LOCAL ROLE NONE undoes the role that a
        session may have been started under (PostgreSQL, ALTER ROLE … SET role).

        Raises DatabaseReadOnlyError or PasswordChangeError. After either the old password holds, unless the message
        says that the answer to COMMIT was lost.
        """
        if self.in_recovery:
            raise DatabaseReadOnlyError(f"{_login(self.credential)}: the server is in recovery, a standby.")
        algorithm = _SCRAM if self.authentication == _SCRAM else None  # None: the server's password_encryption decides
        committing = False
        try:
            verifier = encrypt_password(password, self.credential.username, self._connection, algorithm)
            with self._connection.cursor() as cursor:
                cursor.execute(f"BEGIN READ WRITE; {_TIMEOUTS}; SET LOCAL ROLE NONE")
                cursor.execute("ALTER ROLE SESSION_USER PASSWORD %s", (verifier,))
                committing = True
                cursor.execute("COMMIT")
        except psycopg2.Error as error:
            failure = _read_change_failure(error, self.credential, committing=committing)
        else:
            return
        raise failure

    def _look_around(self) -> None:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    f"BEGIN READ ONLY; {_TIMEOUTS}; {_WITHOUT_IDLE_TIMEOUTS};"
                    "SELECT session_user, pg_backend_pid(), pg_is_in_recovery()",
                    {"pid": self._connection.info.backend_pid},
                )
                user, backend_pid, self.in_recovery = cursor.fetchone() or ("", 0, False)
                cursor.execute("COMMIT")
        except psycopg2.Error as error:
            failure: DatabaseError = DatabaseUnreachableError(
                f"{_login(self.credential)}: logged in, then {_cause(error)}."
            )
        else:
            if user == self.credential.username and backend_pid == self._connection.info.backend_pid:
                return
            failure = PoolerError(f"{_login(self.credential)}: a pooler answered, whose session is of role {user!a}.")
        raise failure


def _address(credential: Credential) -> tuple[str, str, int]:
    """Return libpq's host (the name in the certificate), hostaddr (where to connect, if not there) and port.

    With a tlsServerName the secret's host is only a way to the server (a CNAME), and is looked up here.
    """
    host, port = credential.address
    if credential.tls_server_name is None:
        return host, "", port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostNotFoundError(f"{_login(credential)}: could not look up the host: {error.strerror}.") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return ",".join([credential.tls_server_name] * len(addresses)), ",".join(addresses), port


def _read_answer(text: str, credential: Credential) -> DatabaseError:
    """Read libpq's text about a failed connect: of several addresses that were tried, the last one's."""
    answers = _FAILED.findall(text)
    answer = answers[-1] if answers else text
    for pattern, error in _ANSWERS:
        if pattern.match(answer):
            return error(f"{_login(credential)}: {_one_line(answer)}.")
    return DatabaseUnreachableError(f"{_login(credential)}: {_one_line(text)}.")


def _read_change_failure(error: psycopg2.Error, credential: Credential, *, committing: bool) -> DatabaseError:
    if error.pgcode == "25006":
        return DatabaseReadOnlyError(f"{_login(credential)}: the server takes no changes ({_cause(error)}).")
    if error.pgcode is None and committing:
        what = "the answer to COMMIT was lost, so the new password may hold or not; the next try finds out"
    else:
        what = "ALTER ROLE was not carried out, the old password holds"
    hint = (
        "The role may not change its own password (rds.restrict_password_commands?)."
        if error.pgcode == "42501"
        else None
    )
    return PasswordChangeError(f"{_login(credential)}: {what} ({_cause(error)}).", sqlstate=error.pgcode, hint=hint)


def _cause(error: psycopg2.Error) -> str:
    """Return the server's primary message and SQLSTATE, never the statement, which holds the verifier."""
    if error.pgcode is None:
        return f"the session broke: {_one_line(str(error))}"
    return f"{_one_line(error.diag.message_primary or '')}, SQLSTATE {error.pgcode}"


def _login(credential: Credential) -> str:
    host, port = credential.address
    return f"Role {credential.username!a} at {host}:{port}/{credential.dbname!a}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
