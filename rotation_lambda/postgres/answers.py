"""What libpq says when a login fails, read once: accepted, refused, or unknown and why."""

import re
from typing import NamedTuple

from rotation_lambda import errors
from rotation_lambda.credential import Credential


class _Answer(NamedTuple):
    """How a text begins, which error it is, and what to do where the words say more than the error's class."""

    pattern: str
    error: type[errors.DatabaseError]
    hint: str | None = None


_TRUST = "Ask for scram-sha-256 in pg_hba.conf: the line for this user says trust, so a login verifies nothing."
_AS_SHOWN = "as docs/runbook.md#change-the-secret shows"  # AWSPENDING has the old value already
_CLEAR = (
    "`REVOKE rds_iam FROM` the user on RDS, or do not rotate it: it logs in by token alone. If `host` is an RDS Proxy "
    f"with IAM, set `rotationHost` to the database, {_AS_SHOWN}. Elsewhere, ask for scram-sha-256 in pg_hba.conf in "
    "place of password, ldap, pam or radius. No password was sent."
)
_CERTIFICATE = "Remove clientcert, or the method cert, from this user's line in pg_hba.conf: no certificate is sent."
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
_TIMEOUT = "`ALTER ROLE … RESET` the timeout that is set for this user or database: it ends its sessions at once."
_LIBRARY = "`ALTER ROLE … RESET` (or ALTER DATABASE) the setting that names this library: it ends each session."
_TOO_SLOW = "Find out why the server is so slow: its authentication_timeout ended the login. Secrets Manager retries."
# What postgres/wire.py says, and libpq under its limit.
_FLOOD = f"Correct `host` and `port` {_AS_SHOWN}: what answers there sends far more than a PostgreSQL server does."
_ANY_CERTIFICATE = f"Set PGSSLMODE, or `sslmode` {_AS_SHOWN}, to verify-full: PGSSLROOTCERT=system needs it."
_LANGUAGE = "Set lc_messages to C on the server, so that its answer is understood; read its log of the same second."

# Waiting does not help: the server has no other answer until this is done.
_STAYS = {_TLS_WANTED, _FLOOD}

# libpq gives no SQLSTATE for a failed connect, only a text: these tables are the one place that reads it. Each pattern
# is anchored, so that a user or database with a hostile name cannot pose as another answer. No match means unknown.
_FATAL = "FATAL:  "
_SERVERS = (
    _Answer(r'password authentication failed(?: for user ".*")?$', errors.LoginRefusedError),
    _Answer(r"SASL authentication failed$", errors.LoginRefusedError),  # PgBouncer
    _Answer(r"The password that was provided for the role .* is wrong\.?$", errors.LoginRefusedError),  # RDS Proxy
    # The server checks these only after the password (InitPostgres), so the password is correct.
    _Answer(r'too many connections for role "', errors.LoginNotAllowedError, _ROLE_LIMIT),
    _Answer(r'too many connections for database "', errors.LoginNotAllowedError, _DATABASE_LIMIT),
    _Answer(r"remaining connection slots are reserved", errors.LoginNotAllowedError, _FULL),
    _Answer(r'database ".*" does not exist$', errors.LoginNotAllowedError, _NO_DATABASE),
    _Answer(r'permission denied for database "', errors.LoginNotAllowedError, _NO_CONNECT),
    _Answer(r'database ".*" is not currently accepting connections$', errors.LoginNotAllowedError, _CLOSED),
    _Answer(r'cannot connect to invalid database "', errors.LoginNotAllowedError, _INVALID),
    _Answer(r'role ".*" is not permitted to log in$', errors.LoginNotAllowedError, _NO_LOGIN),
    _Answer(r"terminating connection due to (?:idle-|transaction).*timeout", errors.LoginNotAllowedError, _TIMEOUT),
    _Answer(r'could not (?:access|load) (?:file|library) "', errors.LoginNotAllowedError, _LIBRARY),
    # All others come before the password is checked, or in place of it.
    _Answer(r"(?:no )?pg_hba\.conf .*, no encryption$", errors.NoHbaEntryError, _TLS_WANTED),
    _Answer(r"(?:no )?pg_hba\.conf (?:entry|rejects connection) for ", errors.NoHbaEntryError),
    _Answer(r"connection requires a valid client certificate$", errors.AuthenticationMethodError, _CERTIFICATE),
    _Answer(r"client certificates can only be checked if ", errors.AuthenticationMethodError, _CERTIFICATE),
    _Answer(r"certificate authentication failed for user ", errors.AuthenticationMethodError, _CERTIFICATE),
    _Answer(r"(?:Ident|Peer|LDAP|PAM|RADIUS|GSSAPI|SSPI|BSD) authentication failed ", errors.AuthenticationMethodError),
    _Answer(r"the database system is ", errors.DatabaseNotReadyError),
    _Answer(r"sorry, too many clients already$", errors.DatabaseNotReadyError),
    _Answer(r"terminating connection due to ", errors.DatabaseNotReadyError),
    _Answer(r"canceling authentication due to timeout$", errors.DatabaseNotReadyError, _TOO_SLOW),
    # A pooler's or proxy's own words (PgBouncer, RDS Proxy).
    _Answer(r".*\bRDS [Pp]roxy\b", errors.PoolerError),
    _Answer(r"(?:The )?IAM (?:authentication failed|is allowed)", errors.PoolerError),
    _Answer(r"(?:RDS supports only IAM|Timed-out waiting to acquire database connection)", errors.PoolerError),
    _Answer(r"(?:Rate of connection to proxy|The maximum number of client connections)", errors.PoolerError),
    _Answer(r"no such (?:database|user)\b", errors.PoolerError),
    _Answer(r"(?:server login |server_login_retry|server DNS lookup failed|pgbouncer |bouncer )", errors.PoolerError),
    _Answer(r"(?:query_wait_timeout|client_login_timeout|no more connections allowed)", errors.PoolerError),
    _Answer(r"unsupported startup parameter", errors.PoolerError),
)
# … and where libpq speaks for itself.
_LIBPQS = (
    _Answer(r"authentication method .* failed: server did not complete ", errors.AuthenticationMethodError, _TRUST),
    _Answer(r"authentication method .* failed: server requested a clear", errors.AuthenticationMethodError, _CLEAR),
    _Answer(r"authentication method requirement .* failed: ", errors.AuthenticationMethodError),
    _Answer(r"SSL (?:SYSCALL error: |error: unexpected eof )", errors.ConnectionFailedError),
    _Answer(r"(?:server closed the connection|could not (?:receive|send) (?:data|SSL ))", errors.ConnectionFailedError),
    _Answer(r"server certificate for ", errors.TlsError),
    _Answer(r"server does not support SSL", errors.TlsError),
    _Answer(r"SSL error: .*(?:unsupported protocol|protocol version|no protocols)", errors.TlsError, _TLS_VERSION),
    _Answer(r"SSL error: ", errors.TlsError),
    _Answer(r"could not .*(?:certificate|SSL)", errors.TlsError),
    _Answer(r"weak sslmode ", errors.TlsError, _ANY_CERTIFICATE),
    _Answer(r"(?:Connection (?:refused|reset by peer)|No route to host|Network is un)", errors.ConnectionFailedError),
    _Answer(r"received invalid (?:response to SSL negotiation|error message)", errors.ConnectionFailedError, _STRANGER),
    _Answer(r"expected authentication request from server, but received", errors.ConnectionFailedError, _STRANGER),
    _Answer(r"server sent an error response during SSL exchange", errors.ConnectionFailedError, _STRANGER),
    _Answer(r"(?:the server's answer is not |can't execute )", errors.ConnectionFailedError, _STRANGER),
    _Answer(r"Connection timed out$", errors.DatabaseTimeoutError),
    _Answer(r"(?:the server sent more |cannot allocate memory|out of memory)", errors.DatabaseUnreachableError, _FLOOD),
)
_REFUSED = re.compile(r'FATAL:  password authentication failed for user "([ -~]*)"$')


def read_answer(text: str, credential: Credential) -> errors.DatabaseError:
    """Read libpq's text about a failed connect; of several lines the first one counts, a DETAIL may follow.

    Where another user was refused than the one that logged in, a pooler reports its own login.
    """
    answer = text.strip().partition("\n")[0]
    refused = _REFUSED.match(answer)
    if refused and refused[1] != credential.username:
        what = f"{name_login(credential)}: a pooler answered, and its own login failed: {one_line(answer)}."
        return errors.PoolerError(what)
    for pattern, kind, hint in _SERVERS if answer.startswith(_FATAL) else _LIBPQS:
        if re.match(pattern, answer.removeprefix(_FATAL)):
            error = kind(f"{name_login(credential)}: {one_line(answer)}.", hint=hint)
            error.unknown &= hint not in _STAYS
            return error
    hint = None if answer.isascii() else _LANGUAGE
    return errors.DatabaseUnreachableError(f"{name_login(credential)}: {one_line(text)}.", hint=hint)


def name_login(credential: Credential) -> str:
    """Return the user, the server and the database, for messages."""
    host, port = credential.address
    return f"Role {credential.username!a} at {host}:{port}/{credential.dbname!a}"


def one_line(text: str) -> str:
    """Return the text in one line of at most 300 characters; a verifier is masked whole, before it could be cut."""
    return errors.mask(" ".join(text.split()))[:300]
