"""What libpq says when a login fails, read once: accepted, refused, or unknown and why."""

import re
from typing import NamedTuple

from rotation_lambda.credential import Credential
from rotation_lambda.errors import (
    AuthenticationMethodError,
    ConnectionFailedError,
    DatabaseError,
    DatabaseNotReadyError,
    DatabaseTimeoutError,
    DatabaseUnreachableError,
    LoginNotAllowedError,
    LoginRefusedError,
    NoHbaEntryError,
    PoolerError,
    TlsError,
)


class _Answer(NamedTuple):
    """How a text begins, which error it is, and what to do where the words say more than the error's class.

    `stays` says that waiting does not help, though it does with others of the class.
    """

    pattern: str
    error: type[DatabaseError]
    hint: str | None = None
    stays: bool = False


_TRUST = (
    "Ask for scram-sha-256 in pg_hba.conf: the line for this client and user says trust, so a login verifies nothing."
)
_AS_SHOWN = "as docs/runbook.md#change-the-secret shows"  # AWSPENDING has the old value already
_CLEAR_TEXT = (
    "`REVOKE rds_iam FROM` the user on RDS, or do not rotate it: it logs in by token alone. If `host` is an RDS Proxy "
    f"with IAM, set `rotationHost` to the database, {_AS_SHOWN}. Elsewhere, ask for scram-sha-256 in pg_hba.conf in "
    "place of password, ldap, pam or radius. No password was sent."
)
_CERTIFICATE = (
    "Remove clientcert, or the method cert, from this user's line in pg_hba.conf: the function has no certificate."
)
_ROLE_LIMIT = (
    "Raise the user's limit, `ALTER ROLE … CONNECTION LIMIT n`, or end those of its sessions in pg_stat_activity that "
    "are not needed."
)
_DATABASE_LIMIT = (
    "Raise the database's limit, `ALTER DATABASE … CONNECTION LIMIT n`, or end those of its sessions in "
    "pg_stat_activity that are not needed."
)
_FULL = "Raise max_connections, or end those sessions in pg_stat_activity that are not needed."
_NO_DATABASE = f"Correct `dbname` {_AS_SHOWN}, or create the database."
_CLOSED = f"`ALTER DATABASE … ALLOW_CONNECTIONS true`, or correct `dbname` {_AS_SHOWN}."
_INVALID = (
    "Drop the database, whose removal was interrupted, and create it again. If another one is meant, correct `dbname` "
    f"{_AS_SHOWN}."
)
_NO_CONNECT = f"`GRANT CONNECT ON DATABASE … TO` the user, or set `dbname` to another database {_AS_SHOWN}."
_NO_LOGIN = "`ALTER ROLE … LOGIN` if the user is to log in; otherwise do not rotate its secret."
_STRANGER = f"Correct `host` and `port` {_AS_SHOWN}: what answers there is not PostgreSQL."
_TLS_WANTED = (
    f'Remove `"ssl": false` (or `sslmode`) from the secret {_AS_SHOWN}, if the server requires TLS for this client. '
    "Otherwise add a line for the function's network and this user to pg_hba.conf."
)
_TLS_VERSION = "Enable TLS 1.2 or newer on the server (ssl_max_protocol_version); older versions are not accepted."
_OWN_TIMEOUT = "`ALTER ROLE … RESET` the timeout that is set for this user or database: it ends its sessions at once."
_TOO_SLOW = "Find out why the server is so slow: its authentication_timeout ended the login. Secrets Manager retries."
# What postgres/wire.py says, and libpq under its limit.
_FLOOD = f"Correct `host` and `port` {_AS_SHOWN}: what answers there sends far more than a PostgreSQL server does."
_ANY_CERTIFICATE = (
    f"Set PGSSLMODE, or `sslmode` {_AS_SHOWN}, to verify-full: with PGSSLROOTCERT=system any certificate would be "
    "accepted."
)
_LANGUAGE = "Set lc_messages to C on the server, so that its answer is understood; read its log of the same second."

# libpq gives no SQLSTATE for a failed connect, only a text: this table is the one place that reads it. Each pattern is
# anchored, so that a user or database with a hostile name cannot pose as another answer. No match means unknown.
_ANSWERS = (
    _Answer(r'FATAL:  password authentication failed(?: for user ".*")?$', LoginRefusedError),
    _Answer(r"FATAL:  SASL authentication failed$", LoginRefusedError),  # PgBouncer
    _Answer(r"FATAL:  The password that was provided for the role .* is wrong\.?$", LoginRefusedError),  # RDS Proxy
    # The server checks these only after the password (InitPostgres), so the password is correct.
    _Answer(r'FATAL:  too many connections for role "', LoginNotAllowedError, _ROLE_LIMIT),
    _Answer(r'FATAL:  too many connections for database "', LoginNotAllowedError, _DATABASE_LIMIT),
    _Answer(r"FATAL:  remaining connection slots are reserved", LoginNotAllowedError, _FULL),
    _Answer(r'FATAL:  database ".*" does not exist$', LoginNotAllowedError, _NO_DATABASE),
    _Answer(r'FATAL:  permission denied for database "', LoginNotAllowedError, _NO_CONNECT),
    _Answer(r'FATAL:  database ".*" is not currently accepting connections$', LoginNotAllowedError, _CLOSED),
    _Answer(r'FATAL:  cannot connect to invalid database "', LoginNotAllowedError, _INVALID),
    _Answer(r'FATAL:  role ".*" is not permitted to log in$', LoginNotAllowedError, _NO_LOGIN),
    # All others come before the password is checked, or in place of it.
    _Answer(
        r"FATAL:  (?:no pg_hba\.conf entry|pg_hba\.conf rejects connection) for .*, no encryption$",
        NoHbaEntryError,
        _TLS_WANTED,
        stays=True,
    ),
    _Answer(r"FATAL:  (?:no pg_hba\.conf entry|pg_hba\.conf rejects connection) for ", NoHbaEntryError),
    _Answer(r"FATAL:  connection requires a valid client certificate$", AuthenticationMethodError, _CERTIFICATE),
    _Answer(r"FATAL:  client certificates can only be checked if ", AuthenticationMethodError, _CERTIFICATE),
    _Answer(r"FATAL:  certificate authentication failed for user ", AuthenticationMethodError, _CERTIFICATE),
    _Answer(
        r"FATAL:  (?:Ident|Peer|LDAP|PAM|RADIUS|GSSAPI|SSPI|BSD) authentication failed for user ",
        AuthenticationMethodError,
    ),
    _Answer(r"FATAL:  the database system is ", DatabaseNotReadyError),
    _Answer(r"FATAL:  sorry, too many clients already$", DatabaseNotReadyError),
    _Answer(
        r"FATAL:  terminating connection due to (?:idle-.*|transaction) timeout",
        DatabaseNotReadyError,
        _OWN_TIMEOUT,
        stays=True,
    ),
    _Answer(r"FATAL:  terminating connection due to ", DatabaseNotReadyError),
    _Answer(r"FATAL:  canceling authentication due to timeout$", DatabaseNotReadyError, _TOO_SLOW),
    # A pooler's or proxy's own words (PgBouncer, RDS Proxy).
    _Answer(r"FATAL:  .*\bRDS [Pp]roxy\b", PoolerError),
    _Answer(r"FATAL:  (?:The )?IAM (?:authentication failed|is allowed)", PoolerError),
    _Answer(r"FATAL:  (?:RDS supports only IAM|Timed-out waiting to acquire database connection)", PoolerError),
    _Answer(r"FATAL:  (?:Rate of connection to proxy|The maximum number of client connections)", PoolerError),
    _Answer(r"FATAL:  no such (?:database|user)\b", PoolerError),
    _Answer(r"FATAL:  (?:server login |server_login_retry|server DNS lookup failed|pgbouncer |bouncer )", PoolerError),
    _Answer(r"FATAL:  (?:query_wait_timeout|client_login_timeout|no more connections allowed)", PoolerError),
    _Answer(r"FATAL:  unsupported startup parameter", PoolerError),
    # From here on libpq speaks for itself.
    _Answer(r"authentication method .* failed: server did not complete ", AuthenticationMethodError, _TRUST),
    _Answer(r"authentication method .* failed: server requested a cleartext ", AuthenticationMethodError, _CLEAR_TEXT),
    _Answer(r"authentication method requirement .* failed: ", AuthenticationMethodError),
    _Answer(r"server certificate for ", TlsError),
    _Answer(r"server does not support SSL", TlsError),
    _Answer(r"SSL error: .*(?:unsupported protocol|protocol version|no protocols)", TlsError, _TLS_VERSION),
    _Answer(r"SSL error: ", TlsError),
    _Answer(r"could not .*(?:certificate|SSL)", TlsError),
    _Answer(r"weak sslmode ", TlsError, _ANY_CERTIFICATE),
    _Answer(r"SSL SYSCALL error: ", ConnectionFailedError),
    _Answer(r"(?:Connection refused|Connection reset by peer)$", ConnectionFailedError),
    _Answer(r"(?:No route to host|Network is unreachable)$", ConnectionFailedError),
    _Answer(r"(?:server closed the connection|could not (?:receive|send) data)", ConnectionFailedError),
    _Answer(r"received invalid (?:response to SSL negotiation|error message)", ConnectionFailedError, _STRANGER),
    _Answer(r"expected authentication request from server, but received", ConnectionFailedError, _STRANGER),
    _Answer(r"server sent an error response during SSL exchange", ConnectionFailedError, _STRANGER),
    _Answer(r"Connection timed out$", DatabaseTimeoutError),
    _Answer(r"(?:the server sent more than |cannot allocate memory for)", DatabaseUnreachableError, _FLOOD, stays=True),
)
_REFUSED = re.compile(r'FATAL:  password authentication failed for user "([ -~]*)"$')


def read_answer(text: str, credential: Credential) -> DatabaseError:
    """Read libpq's text about a failed connect; of several lines the first one counts, a DETAIL may follow.

    Where another user was refused than the one that logged in, a pooler reports its own login.
    """
    answer = text.strip().partition("\n")[0]
    refused = _REFUSED.match(answer)
    if refused and refused[1] != credential.username:
        return PoolerError(
            f"{name_login(credential)}: a pooler answered, and its own login failed: {one_line(answer)}."
        )
    for pattern, kind, hint, stays in _ANSWERS:
        if re.match(pattern, answer):
            error = kind(f"{name_login(credential)}: {one_line(answer)}.", hint=hint)
            error.unknown &= not stays
            return error
    hint = None if answer.isascii() else _LANGUAGE
    return DatabaseUnreachableError(f"{name_login(credential)}: {one_line(text)}.", hint=hint)


def name_login(credential: Credential) -> str:
    """Return the user, the server and the database, for messages."""
    host, port = credential.address
    return f"Role {credential.username!a} at {host}:{port}/{credential.dbname!a}"


def one_line(text: str) -> str:
    """Return the text in one line of at most 300 characters."""
    return " ".join(text.split())[:300]
