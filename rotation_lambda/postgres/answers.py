"""What libpq says when a login fails, read once: accepted, refused, or unknown and why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

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

if TYPE_CHECKING:
    from rotation_lambda.credential import Credential


class _Answer(NamedTuple):
    """How a text begins, which error it is, and what to do where the words say more than the error's class.

    `stays` says that waiting does not help, though it does with others of the class.
    """

    pattern: str
    error: type[DatabaseError]
    hint: str | None = None
    stays: bool = False


_TRUST = (
    "Ask for scram-sha-256 in pg_hba.conf: the line for this client and role says trust, so that anybody gets in, and "
    "no login proves a password."
)
_CLEAR_TEXT = (
    "The server asked for the password in clear text, so nothing was sent. On RDS: the role is a member of rds_iam and "
    "logs in by token alone; «REVOKE rds_iam FROM» it, or do not rotate it. Elsewhere pg_hba.conf says password, ldap, "
    "pam or radius: ask for scram-sha-256."
)
_ROLE_LIMIT = "Find the role's sessions in pg_stat_activity, or raise its limit: «ALTER ROLE … CONNECTION LIMIT n»."
_FULL = "Find who holds the connections in pg_stat_activity, or raise max_connections."
_NO_DATABASE = "Correct `dbname` in the secret, or create the database."
_NO_CONNECT = "«GRANT CONNECT ON DATABASE … TO» the role, or give a `dbname` that it may connect to."
_NO_LOGIN = "«ALTER ROLE … LOGIN» if the role is to log in; otherwise its secret needs no rotation."
_STRANGER = "What answers at this host and port is not PostgreSQL: correct them in the secret."
_TLS_WANTED = (
    'The server requires TLS for this client: remove `"ssl": false` (or `sslmode`) from the secret. If it does not: '
    "add a line for the function's network and this user to pg_hba.conf."
)
_OWN_TIMEOUT = "A timeout that is set for this user or database ends its sessions at once: `ALTER ROLE … RESET` it."
_FLOOD = "What answers sends far more than a PostgreSQL server does: check host and port in the secret."
_ANYBODY = "With PGSSLROOTCERT=system anybody's certificate would do: use sslmode verify-full."

# libpq gives no SQLSTATE for a failed connect, only a text: this table is the one place that reads it. Each pattern is
# anchored, so that a role or database with a hostile name cannot pose as another answer. What none matches, is unknown.
_ANSWERS = (
    _Answer(r'FATAL:  password authentication failed(?: for user ".*")?$', LoginRefusedError),
    _Answer(r"FATAL:  SASL authentication failed$", LoginRefusedError),  # PgBouncer
    _Answer(r"FATAL:  The password that was provided for the role .* is wrong\.?$", LoginRefusedError),  # RDS Proxy
    # The server checks these only after the password (InitPostgres), so they prove it.
    _Answer(r'FATAL:  too many connections for role "', LoginNotAllowedError, _ROLE_LIMIT),
    _Answer(r'FATAL:  too many connections for database "', LoginNotAllowedError),
    _Answer(r"FATAL:  remaining connection slots are reserved", LoginNotAllowedError, _FULL),
    _Answer(r'FATAL:  database ".*" does not exist$', LoginNotAllowedError, _NO_DATABASE),
    _Answer(r'FATAL:  permission denied for database "', LoginNotAllowedError, _NO_CONNECT),
    _Answer(r'FATAL:  database ".*" is not currently accepting connections$', LoginNotAllowedError, _NO_DATABASE),
    _Answer(r'FATAL:  cannot connect to invalid database "', LoginNotAllowedError, _NO_DATABASE),
    _Answer(r'FATAL:  role ".*" is not permitted to log in$', LoginNotAllowedError, _NO_LOGIN),
    # All others come before the password is looked at, or instead of it.
    _Answer(
        r"FATAL:  (?:no pg_hba\.conf entry|pg_hba\.conf rejects connection) for .*, no encryption$",
        NoHbaEntryError,
        _TLS_WANTED,
        stays=True,
    ),
    _Answer(r"FATAL:  no pg_hba\.conf entry for ", NoHbaEntryError),
    _Answer(r"FATAL:  pg_hba\.conf rejects connection for ", NoHbaEntryError),
    _Answer(r"FATAL:  connection requires a valid client certificate$", AuthenticationMethodError),
    _Answer(r"FATAL:  client certificates can only be checked if ", AuthenticationMethodError),
    _Answer(r"FATAL:  (?:Ident|Peer|certificate) authentication failed for user ", AuthenticationMethodError),
    _Answer(r"FATAL:  the database system is ", DatabaseNotReadyError),
    _Answer(r"FATAL:  sorry, too many clients already$", DatabaseNotReadyError),
    _Answer(
        r"FATAL:  terminating connection due to (?:idle-.*|transaction) timeout",
        DatabaseNotReadyError,
        _OWN_TIMEOUT,
        stays=True,
    ),
    _Answer(r"FATAL:  terminating connection due to ", DatabaseNotReadyError),
    # A pooler's or proxy's own words (PgBouncer, RDS Proxy).
    _Answer(r"FATAL:  .*\bRDS [Pp]roxy\b", PoolerError),
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
    _Answer(r"SSL error: ", TlsError),
    _Answer(r"could not .*(?:certificate|SSL)", TlsError),
    _Answer(r"weak sslmode ", TlsError, _ANYBODY),
    _Answer(r"SSL SYSCALL error: ", ConnectionFailedError),
    _Answer(r"(?:Connection refused|Connection reset by peer)$", ConnectionFailedError),
    _Answer(r"(?:No route to host|Network is unreachable)$", ConnectionFailedError),
    _Answer(r"(?:server closed the connection|could not (?:receive|send) data)", ConnectionFailedError),
    _Answer(r"received invalid (?:response to SSL negotiation|error message)", ConnectionFailedError, _STRANGER),
    _Answer(r"expected authentication request from server, but received", ConnectionFailedError, _STRANGER),
    _Answer(r"server sent an error response during SSL exchange", ConnectionFailedError, _STRANGER),
    _Answer(r"Connection timed out$", DatabaseTimeoutError),
    _Answer(r"the server sent more than ", DatabaseUnreachableError, _FLOOD, stays=True),  # postgres/wire.py
)
_SOMEBODY_REFUSED = re.compile(r'FATAL:  password authentication failed for user "([ -~]*)"$')


def read_answer(text: str, credential: Credential) -> DatabaseError:
    """Read libpq's text about a failed connect; of several lines the first one counts, a DETAIL may follow.

    Where another role was refused than the one that logged in, a pooler passes on what befell its own login.
    """
    answer = text.strip().partition("\n")[0]
    somebody = _SOMEBODY_REFUSED.match(answer)
    if somebody and somebody[1] != credential.username:
        return PoolerError(f"{name_login(credential)}: a pooler answered, whose own login failed: {one_line(answer)}.")
    for pattern, kind, hint, stays in _ANSWERS:
        if re.match(pattern, answer):
            error = kind(f"{name_login(credential)}: {one_line(answer)}.", hint=hint)
            error.unknown &= not stays
            return error
    return DatabaseUnreachableError(f"{name_login(credential)}: {one_line(text)}.")


def name_login(credential: Credential) -> str:
    """Return who logs in where, for messages."""
    host, port = credential.address
    return f"Role {credential.username!a} at {host}:{port}/{credential.dbname!a}"


def one_line(text: str) -> str:
    """Return the text as a log can take it."""
    return " ".join(text.split())[:300]
