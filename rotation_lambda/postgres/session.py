"""One login that stands: what a session sees of its role and its server, and how it changes a password."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from select import select
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg2
from psycopg2.extensions import encrypt_password

from rotation_lambda import errors
from rotation_lambda.deadline import HOLD_S, MOST_WAIT_S, RESERVE_S
from rotation_lambda.postgres import roles, survey
from rotation_lambda.postgres.answers import name_login, one_line, read_answer
from rotation_lambda.postgres.wire import wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it
    from psycopg2.extensions import cursor as Cursor  # noqa: N812

    from rotation_lambda.credential import Credential
    from rotation_lambda.deadline import Deadline
    from rotation_lambda.trust import Trust

_Result = TypeVar("_Result")

STATEMENT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = STATEMENT_TIMEOUT_S + 1.0
"""A second more, for the server to tell us that its own timeout has struck."""

SCRAM, MD5 = "scram-sha-256", "md5"
LEAST_ITERATIONS, MOST_ITERATIONS = 4096, 1_000_000

# What a session starts with, whatever is set for its role or its database (PostgreSQL 53.7 StartupMessage, options): no
# query of ours runs under a timeout of 1 ms, waits for other transactions, finds an owner's functions by their name, or
# is answered with megabytes of its own parse tree; and an error says what it was before the session ends.
OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "statement_timeout": f"{STATEMENT_TIMEOUT_S:.0f}s",
        "lock_timeout": f"{LOCK_TIMEOUT_S:.0f}s",
        "search_path": "pg_catalog,pg_temp",
        "client_min_messages": "error",
        "exit_on_error": "off",
        "jit": "off",
        "datestyle": "ISO",
        "timezone": "UTC",
        "default_transaction_isolation": r"read\ committed",
        "default_transaction_deferrable": "off",
        "default_transaction_read_only": "off",
    }.items()
)
# What is set after the login, for an older server would refuse it before: the session outlives the logins that prove a
# password, but not for long a function that was killed. A database's owner decides neither how long a verifier takes
# to make nor how weak it is. Through a pooler all this would become the next client's: not done there.
_SETTINGS = {
    "idle_session_timeout": (140000, "'15min'"),
    "idle_in_transaction_session_timeout": (0, "%(end)s"),
    "transaction_timeout": (170000, "%(end)s"),
    "client_connection_check_interval": (150000, "'2s'"),
    "tcp_keepalives_idle": (0, "'10'"),
    "tcp_keepalives_interval": (0, "'5'"),
    "tcp_keepalives_count": (0, "'3'"),
    "scram_iterations": (
        160000,
        f"least({MOST_ITERATIONS}, greatest({LEAST_ITERATIONS}, current_setting('scram_iterations')::int))::text",
    ),
}
_BEGIN = "BEGIN READ WRITE; SET LOCAL ROLE NONE"
# COMMIT waits for no standby: a wait that is given up leaves a change that comes into force later, behind a step that
# has reported its failure (PostgreSQL 19.5 synchronous_commit).
_CHANGE = (
    f"{_BEGIN}; SET LOCAL synchronous_commit = local; SET LOCAL idle_in_transaction_session_timeout = '{HOLD_S:.0f}s'"
)
_EMPTY_ALTER = 160000  # since when ALTER ROLE without an option is open to the role itself
_READ_ONLY = {"25006", "0A000"}
_MISFITS = TypeError, ValueError, OverflowError, RecursionError  # what psycopg2 and we make of a stranger's rows
_TEXT = 25  # the oid of its type
_MISFIT = "the server's answer is not to what was asked"
_LOCKED = "55P03"  # lock_not_available: lock_timeout has struck
_IN_DOUBT = (
    "Let the next try find out, which Secrets Manager makes by itself. If none follows, as after a cancel, run "
    "the preflight: it shows which version logs in. A new rotation goes on from either password."
)
_ROLLED_BACK = "terminating connection due to idle-in-transaction timeout"  # … had come before our COMMIT
# SQLSTATEs, or how they begin, of what ends a session: broken connections, timeouts, shutdowns.
_ENDED = ("08", "25P03", "25P04", "57P")
_NOT_HERE = {"42", "22"}  # the classes of what is forbidden, missing or not a value: another user may do it
_CHANGE_HINTS = {
    "": "Wait: Secrets Manager retries. If it happens again, find in the server's log why it ended this session.",
    "42501": "Grant rds_password to the user: where rds.restrict_password_commands is on, only its members may do it.",
    "57014": "Wait: Secrets Manager retries. If it fails again, find out why the server takes more than 5 seconds.",
    "2BP01": roles.ANEW,
    "22023": "Change the settings of the server's password-checking extension: it refused the new password.",
}
# Of extensions that look at new passwords some refuse a verifier, since they cannot look into it (credcheck: 28000).
_PLAIN_TEXT_WANTED = (
    "Let the password-checking extension take verifiers: credcheck.encrypted_password_allowed = on. A password in "
    "plain text would be left in the server's log."
)
# Who keeps others from changing a role: a session that has changed one, in any database, and has not ended the
# transaction. Of others' sessions every user sees who and which process (PostgreSQL 27.2.3); a prepared transaction has
# no process.
HOLDERS = """
SELECT CASE WHEN it.pid IS NULL
    THEN format('prepared transaction %L of user %L, since %s', gid, owner, prepared::timestamp(0))
    ELSE format('process %s of user %L', it.pid, usename) END
FROM pg_locks AS it LEFT JOIN pg_stat_activity USING (pid)
    LEFT JOIN pg_locks AS own ON it.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
        AND own.virtualtransaction = it.virtualtransaction
    LEFT JOIN pg_prepared_xacts ON pg_prepared_xacts.transaction = own.transactionid
WHERE it.locktype = 'relation' AND it.relation = 'pg_authid'::regclass AND it.granted
    AND it.mode NOT IN ('AccessShareLock', 'RowShareLock') AND it.pid IS DISTINCT FROM pg_backend_pid()
LIMIT 3
"""


@dataclass(slots=True)
class Session:
    """One login, open until it is closed. `authentication` is the method by which the server let us in."""

    _connection: Connection = field(repr=False)
    credential: Credential
    authentication: str
    _deadline: Deadline = field(repr=False)
    in_recovery: bool = False
    runs_as: str = ""

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

    def look_around(self, seconds: float) -> None:
        """See within so many seconds, before anything is done, whose session this is, and that it is the server's own.

        Behind a pooler the backend's process id is not the one that the connection was told, and behind a pooler with a
        server user of its own ALTER ROLE SESSION_USER would change another user's password: PoolerError.
        """
        info = self._connection.info
        version = info.server_version
        ours = [f"set_config('{name}', {to}, false)" for name, (since, to) in _SETTINGS.items() if version >= since]
        user, self.runs_as, backend_pid, self.in_recovery = self._ask(
            lambda user, runs_as, backend_pid, in_recovery, _: (user + "", runs_as + "", backend_pid, in_recovery),
            "SELECT session_user::text, current_user::text, pg_backend_pid(), pg_is_in_recovery(), "
            f"CASE WHEN pg_backend_pid() = %(pid)s THEN ({', '.join(ours)}) END IS NULL",
            {"pid": info.backend_pid, "end": f"{max(1, round(self._deadline.left()))}s"},
            seconds,
        )
        if user != self.credential.username or backend_pid != info.backend_pid:
            what = f"{name_login(self.credential)}: a pooler answered, whose session is of role {one_line(user)!a}."
            raise errors.PoolerError(what)

    def survey(self) -> survey.Survey:
        """Return what this session can see of its role and its server; nothing is changed."""
        return self._ask(survey.Survey, survey.QUERY, survey.PARAMETERS)

    def check_identity(self) -> list[str]:
        """Return when the session of one of two alternating users runs as it should: what their clone owns here.

        Raises RoleNotPreparedError otherwise.
        """
        clone = None if self.credential.usernames else self.credential.pair[1]
        parameters = {"original": self.credential.original, "clone": clone}
        identity = self._ask(roles.Identity, roles.IDENTITY_QUERY, parameters)
        identity.check(self.credential)
        return identity.clone_owns

    def plan(self, pending: Credential, trust: Trust) -> roles.Plan:
        """Return what a superuser's change_password() would do beside changing the password; nothing is changed."""
        version, names = self._connection.info.server_version, f"{trust.current.username} or {pending.username}"
        encoding = str(self._connection.get_parameter_status("server_encoding"))
        if not names.isascii() and encoding not in {"UTF8", "SQL_ASCII"}:  # the same bytes are another name there
            what = f"{name_login(self.credential)}: it is in {one_line(encoding)}, where {names!a} may be other users."
            raise errors.RoleNotPreparedError(what, hint="Have `dbname` of the superuser's secret name one in UTF8.")
        rows = self._rows(roles.QUERY, roles.parameters(trust.current, pending, version))
        return roles.make_plan(roles.Roles(roles.read_roles(rows), self.credential.username, version), pending, trust)

    def rehearse(self, pending: Credential, trust: Trust) -> roles.Plan:
        """Do what a superuser's change_password() does before it changes the password; roll it back, and return it.

        The errors are the same.
        """

        def try_out() -> roles.Plan:
            self._execute(_BEGIN)
            plan = self._prepare(pending, trust)
            self._execute("ROLLBACK")
            return plan

        return self._attempt(try_out)

    def change_password(
        self, pending: Credential, confirm: Callable[[], None] = lambda: None, trust: Trust | None = None
    ) -> list[str]:
        """Give AWSPENDING's user its password, in one transaction; return what a DBA should know.

        The user is the session's own; or a superuser's session does it, by `trust`, with what roles.make_plan() says.
        `confirm` is asked right before COMMIT, when PostgreSQL keeps every other change of the role waiting: what it
        raises is raised, and no password was changed once this session is closed.

        Only a verifier leaves this process, so that the password is in no log of the server's: an ordinary role cannot
        switch those off (PostgreSQL 19.8 log_statement, F.32 pg_stat_statements). It is a SCRAM verifier whenever the
        login was by SCRAM, whatever password_encryption says: an md5 verifier would lock the role out where pg_hba.conf
        asks for SCRAM. SESSION_USER needs no quoting of a hostile name, and SET LOCAL ROLE NONE undoes the role that a
        session may have been started under (PostgreSQL, ALTER ROLE … SET role).

        Raises DatabaseReadOnlyError, RoleLockedError, RoleNotPreparedError or PasswordChangeError. After each the old
        password holds, unless the message says that COMMIT was not confirmed.
        """
        notes = self._attempt(lambda: self._alter(_CHANGE, pending, trust))
        altered = self._deadline.clock()
        confirm()
        if (took := self._deadline.clock() - altered) > HOLD_S:
            what = f"{name_login(self.credential)}: no COMMIT {took:.1f} s after ALTER ROLE; the old password holds."
            hint = "Find out what is slow: the login to the database, DNS, or Secrets Manager."
            raise errors.PasswordChangeError(what, sqlstate=None, hint=hint, lost=True)
        if any(select([self._connection.fileno()], [], [], 0)):  # unasked the server has spoken, perhaps its last word
            self._attempt(lambda: self._execute("SELECT 1"))
        # What is given up now may come true later. A login tells, after as long as anything is waited for.
        seconds = max(ANSWER_TIMEOUT_S, min(MOST_WAIT_S, self._deadline.left(RESERVE_S + ANSWER_TIMEOUT_S)))
        self._attempt(lambda: self._execute("COMMIT", seconds=seconds), committing=True)
        return notes

    def hold_role(self, login: Credential) -> None:
        """Keep all others from changing the user's password, in any database, until this session is closed.

        The role's row in pg_authid is the lock: this changes nothing of the role, or before PostgreSQL 16 sets the
        password that it has, in a transaction that is never committed, of the user's own or of a superuser's. Raises
        what change_password() raises where the row cannot be had; nothing is held then.
        """
        if self._connection.info.server_version >= _EMPTY_ALTER:
            self._attempt(lambda: self._execute(f"{_BEGIN}; ALTER ROLE {self._name_role(login)}"))
        else:
            self._attempt(lambda: self._alter(_BEGIN, login))

    def is_alive(self) -> bool:
        """Tell whether the server still answers, within a second, and so still holds what the session holds."""
        with suppress(psycopg2.Error, TimeoutError):
            return bool(self._execute("SELECT 1", seconds=1.0))
        return False

    def _alter(self, begin: str, pending: Credential, trust: Trust | None = None) -> list[str]:
        if trust:
            self.plan(pending, trust)  # the logins that it may ask for hold no row meanwhile
        by_md5 = self.authentication == MD5 and self._ask(str, "SELECT current_setting('password_encryption')") == MD5
        algorithm = MD5 if by_md5 else SCRAM
        # libpq goes by what the server says of it, and computes them all in one call.
        iterations = self._connection.get_parameter_status("scram_iterations")
        if iterations is not None and not LEAST_ITERATIONS <= int(iterations) <= MOST_ITERATIONS:
            raise read_answer(_MISFIT, self.credential)
        verifier = str(encrypt_password(pending.password, pending.username, self._connection, algorithm))
        self._execute(begin)
        notes = self._prepare(pending, trust).notes if trust else []
        self._execute(f"ALTER ROLE {self._name_role(pending).replace('%', '%%')} PASSWORD %s", (verifier,))
        return notes

    def _name_role(self, login: Credential) -> str:
        return "SESSION_USER" if login.username == self.credential.username else roles.quote_name(login.username)

    def _attempt(self, change: Callable[[], _Result], *, committing: bool = False) -> _Result:
        """Do what changes a role, and turn psycopg2's exceptions into this project's."""
        if self.in_recovery:
            raise errors.DatabaseReadOnlyError(f"{name_login(self.credential)}: the server is in recovery, a standby.")
        try:
            return change()
        except (psycopg2.Error, TimeoutError, *_MISFITS) as error:
            failure = _read_change_failure(error, self.credential, committing=committing)
            with suppress(psycopg2.Error, TimeoutError, *_MISFITS):
                self._execute("ROLLBACK")
                if getattr(error, "pgcode", None) == _LOCKED:
                    holders = ", ".join(ascii(one_line(str(one))) for (one,) in self._rows(HOLDERS)) or "none any more"
                    what = f"{name_login(self.credential)}: another transaction holds the role's row in pg_authid"
                    failure = errors.RoleLockedError(f"{what}. Transactions that have changed a role: {holders}.")
        raise failure

    def _prepare(self, pending: Credential, trust: Trust) -> roles.Plan:
        """Do what is planned, all that can be done; raise RoleNotPreparedError with what a DBA has to run."""
        plan = self.plan(pending, trust)
        denied, reasons = [], []
        for change in plan.changes:
            try:
                self._execute(f"SAVEPOINT change; {change.statement}; RELEASE SAVEPOINT change")
            except psycopg2.Error as error:
                if (error.pgcode or "")[:2] not in _NOT_HERE or error.pgcode == "42710":  # made meanwhile
                    raise
                denied.append(change)
                reasons.append(_cause(error))
                self._execute("ROLLBACK TO SAVEPOINT change")
        if denied:
            wanted = [change.first or str(change) for change in plan.changes if change.first or change in denied]
            raise errors.RoleNotPreparedError(
                f"{name_login(self.credential)}: the superuser may not do all that the strategy needs ({reasons[0]}).",
                hint=f"Run as a role that may: {' '.join(wanted)}",
            )
        return plan

    def _ask(
        self, read: Callable[..., _Result], query: str, parameters: object = None, seconds: float = ANSWER_TIMEOUT_S
    ) -> _Result:
        """Return what is read of the one row of a query whose failure says nothing about a password."""
        try:
            [row] = self._rows(query, parameters, seconds)
            return read(*row)
        except _MISFITS:
            failure = read_answer(_MISFIT, self.credential)
        except (psycopg2.Error, TimeoutError) as error:
            if isinstance(error, TimeoutError) or error.pgcode:
                late = errors.DatabaseTimeoutError, _CHANGE_HINTS["57014"]
                kind, hint = late if isinstance(error, TimeoutError) else (errors.DatabaseUnreachableError, None)
                failure = kind(f"{name_login(self.credential)}: {_cause(error)}.", hint=hint)
            else:
                failure = read_answer(str(error), self.credential)
        raise failure

    def _rows(self, query: str, parameters: object = None, seconds: float = ANSWER_TIMEOUT_S) -> list[list[Any]]:
        """Return the rows, each as a line of JSON: of a stranger's types psycopg2 reads some that end the process."""
        row = "(SELECT json_agg(value) FROM json_each(row_to_json(it)))::text"
        cursor = self._execute(f"SELECT {row} FROM ({query}) AS it", parameters, seconds)
        if [column.type_code for column in cursor.description or ()] != [_TEXT]:
            raise ValueError
        return [json.loads(text) for (text,) in cursor.fetchall()]

    def _execute(self, query: str, parameters: Any = None, seconds: float = ANSWER_TIMEOUT_S) -> Cursor:  # noqa: ANN401
        cursor = self._connection.cursor()
        cursor.execute(query, parameters)
        wait(self._connection, min(seconds, self._deadline.left()))
        return cursor


def _read_change_failure(error: Exception, credential: Credential, *, committing: bool) -> errors.DatabaseError:
    sqlstate, cause = getattr(error, "pgcode", None), _cause(error)
    if sqlstate in _READ_ONLY:
        return errors.DatabaseReadOnlyError(f"{name_login(credential)}: the server takes no changes ({cause}).")
    what, hint = "ALTER ROLE was not carried out, the old password holds", _CHANGE_HINTS.get(sqlstate or "")
    if in_doubt := committing and _ROLLED_BACK not in str(error):
        what, hint = "COMMIT was not confirmed, so the new password is in force, or will be, or not", _IN_DOUBT
    if "not a plain text" in cause:
        hint = _PLAIN_TEXT_WANTED
    lost = not in_doubt and (sqlstate is None or sqlstate.startswith(_ENDED))
    what = f"{name_login(credential)}: {what} ({cause})."
    return errors.PasswordChangeError(what, sqlstate=sqlstate, hint=hint, in_doubt=in_doubt, lost=lost)


def _cause(error: Exception) -> str:
    """Return the server's primary message and SQLSTATE, never the statement, which holds the verifier."""
    if isinstance(error, TimeoutError):
        return f"no answer to a statement within {error} seconds"
    if not isinstance(error, psycopg2.Error):
        return _MISFIT
    if error.pgcode is None:
        return f"the session broke: {one_line(str(error))}"
    return f"{one_line(error.diag.message_primary or '')}, SQLSTATE {error.pgcode[:5]}"
