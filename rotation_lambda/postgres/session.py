"""One login that stands: what a session sees of its role and its server, and how it changes a password."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from select import select
from typing import TYPE_CHECKING, Any, Self

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, encrypt_password

from rotation_lambda.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnreachableError,
    PasswordChangeError,
    PoolerError,
    RoleNotPreparedError,
)
from rotation_lambda.postgres import roles, survey
from rotation_lambda.postgres.answers import name_login, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

    from rotation_lambda.credential import Credential
    from rotation_lambda.deadline import Deadline

STATEMENT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 3.0
_GRACE_S = 1.0  # for the server to tell us that its own timeout has struck

SCRAM, MD5 = "scram-sha-256", "md5"
# A database's owner can set a search_path for everybody who logs in, and have a superuser run functions of his own.
_PRECAUTIONS = (
    f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S:.0f}s'; SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S:.0f}s'; "
    "SET LOCAL search_path = pg_catalog, pg_temp"
)
_BEGIN = f"BEGIN READ WRITE; {_PRECAUTIONS}; SET LOCAL ROLE NONE"
# The session must outlive the second login, but not for long an invocation that was killed (AWS: 15 minutes at most),
# since it has the lock. Through a pooler this would become the next client's setting: not done there.
_SESSION_SETTINGS = (
    "SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES ('search_path', 'pg_catalog, pg_temp'), "
    "('idle_session_timeout', '15min'), "
    "('idle_in_transaction_session_timeout', '1min'), ('transaction_timeout', '1min'), ('tcp_keepalives_idle', '10'), "
    "('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3')) AS ours (name, value) USING (name) "
    "WHERE pg_backend_pid() = %(pid)s"
)
_READ_ONLY = {"25006", "0A000"}
_NOT_HERE = {"42", "22"}  # the classes of what is forbidden, missing or not a value: somebody else may do it
_CHANGE_HINTS = {
    "42501": "The role may not change its password; where rds.restrict_password_commands is on, grant rds_password.",
    "55P03": "Another transaction holds pg_authid's row: look for it in pg_locks. Secrets Manager retries.",
    "57014": "The statement took longer than 5 seconds: is the server overloaded? Secrets Manager retries.",
    "22023": "A password-checking extension of the server said no; its settings decide what it takes.",
}
# Of extensions that look at new passwords some refuse a verifier, since they cannot look into it (credcheck: 28000).
_PLAIN_TEXT_WANTED = (
    "A password-checking extension wants to see passwords in plain text, which would leave them in the server's log. "
    "Let it take verifiers: credcheck.encrypted_password_allowed = on."
)
_LOCK_CLASS = 0x526F74  # "Rot": keeps our advisory locks apart from the applications'


@dataclass(slots=True)
class Session:
    """One login, open until it is closed. `authentication` is the method by which the server let us in.

    The connection is asynchronous in psycopg2's sense («Asynchronous support»): libpq's own waiting has no end, so that
    a stalled network would hold the step until Lambda kills it (connect_timeout covers the login alone).
    """

    _connection: Connection = field(repr=False)
    credential: Credential
    authentication: str
    _deadline: Deadline = field(repr=False)
    in_recovery: bool = False

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

    def look_around(self) -> None:
        """See before anything is done whose session this is, and that it is the server's own.

        Behind a pooler the backend's process id is not the one that the connection was told, and behind a pooler with a
        server user of its own ALTER ROLE SESSION_USER would change somebody else's password: PoolerError.
        """
        pid = self._connection.info.backend_pid
        self._ask(f"BEGIN READ ONLY; {_PRECAUTIONS}; {_SESSION_SETTINGS}", {"pid": pid})
        [(user, backend_pid, self.in_recovery)] = self._ask(
            "SELECT session_user, pg_backend_pid(), pg_is_in_recovery()"
        )
        self._ask("COMMIT")
        if user != self.credential.username or backend_pid != pid:
            raise PoolerError(f"{name_login(self.credential)}: a pooler answered, whose session is of role {user!a}.")

    def try_lock(self, role: str) -> bool:
        """Take the lock that keeps two rotations of one role apart, until this session ends; False where it is taken.

        It is an advisory lock of this database's (PostgreSQL 13.3.5): workers in another database do not see it.
        """
        [(taken,)] = self._ask("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (_LOCK_CLASS, role))
        return bool(taken)

    def lock_holder(self, role: str) -> str:
        """Tell who holds the lock."""
        holders = self._ask(
            "SELECT pid, application_name, client_addr, backend_start::timestamp(0) FROM pg_locks "
            "JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted AND classid = %s "
            "AND objid = (hashtext(%s)::bigint & 4294967295)::oid",
            (_LOCK_CLASS, role),
        )
        if not holders:
            return "nobody any more"
        pid, name, address, since = holders[0]
        return f"process {pid} ({name or 'no application_name'}, from {address or 'the server itself'}, since {since})"

    def survey(self) -> survey.Survey:
        """Return what this session can see of its role and its server; nothing is changed."""
        [row] = self._ask(survey.QUERY, survey.PARAMETERS)
        return survey.Survey(*row)

    def check_identity(self) -> list[str]:
        """Return when the session of one of two alternating users runs as it should: what their clone owns here.

        Raises RoleNotPreparedError otherwise.
        """
        clone = None if self.credential.usernames else self.credential.pair[1]
        [row] = self._ask(roles.IDENTITY_QUERY, {"original": self.credential.original, "clone": clone})
        identity = roles.Identity(*row)
        identity.check(self.credential)
        return identity.clone_owns

    def plan(self, current: Credential, pending: Credential, *, proved: bool) -> roles.Plan:
        """Return what change_password_of() would do beside changing the password; nothing is changed."""
        rows = self._ask(roles.QUERY, {"current": current.username, "other": pending.username})
        found = roles.Roles(roles.read_roles(rows), self.credential.username, self._connection.info.server_version)
        return roles.make_plan(found, current, pending, proved=proved)

    def rehearse(self, current: Credential, pending: Credential, *, proved: bool) -> roles.Plan:
        """Do what change_password_of() does before it changes the password, roll it back, and return what that was.

        The errors are the same.
        """
        try:
            self._execute(_BEGIN)
            plan = self.plan(current, pending, proved=proved)
            self._carry_out(plan.changes)
            self._execute("ROLLBACK")
        except (psycopg2.Error, TimeoutError) as error:
            failure = _read_change_failure(error, self.credential, committing=False)
        else:
            return plan
        raise failure

    def change_password(self, password: str, confirm: Callable[[], None] = lambda: None) -> None:
        """Give the session's own user another password, in one transaction.

        `confirm` is asked right before COMMIT, when PostgreSQL keeps every other change of the role waiting: what it
        raises is raised, and no password was changed once this session is closed.

        Only a verifier leaves this process, so that the password is in no log of the server's: an ordinary role cannot
        switch those off (PostgreSQL 19.8 log_statement, F.32 pg_stat_statements). It is a SCRAM verifier whenever the
        login was by SCRAM, whatever password_encryption says: an md5 verifier would lock the role out where pg_hba.conf
        asks for SCRAM. SESSION_USER needs no quoting of a hostile name, and SET LOCAL ROLE NONE undoes the role that a
        session may have been started under (PostgreSQL, ALTER ROLE … SET role).

        Raises DatabaseReadOnlyError or PasswordChangeError. After either the old password holds, unless the message
        says that COMMIT was not confirmed.
        """
        algorithm = SCRAM
        if self.authentication == MD5:
            [(algorithm,)] = self._ask("SHOW password_encryption")
        verifier = encrypt_password(password, self.credential.username, self._connection, algorithm)
        self._change("SESSION_USER", verifier, confirm)

    def change_password_of(
        self, current: Credential, pending: Credential, confirm: Callable[[], None], *, proved: bool
    ) -> list[str]:
        """Give AWSPENDING's user its password, as a superuser, in one transaction with what roles.make_plan() says.

        The verifier is always SCRAM's, which pg_hba.conf's md5 takes as well. Returns what an administrator should
        know. `confirm` and the errors are those of change_password(), and RoleNotPreparedError: nothing was changed.
        """
        notes = []

        def prepare() -> None:
            plan = self.plan(current, pending, proved=proved)
            self._carry_out(plan.changes)
            notes.extend(plan.notes)

        verifier = encrypt_password(pending.password, pending.username, self._connection, SCRAM)
        self._change(roles.quote_name(pending.username), verifier, confirm, prepare)
        return notes

    def _change(
        self, role: str, verifier: str, confirm: Callable[[], None], prepare: Callable[[], None] = lambda: None
    ) -> None:
        if self.in_recovery:
            raise DatabaseReadOnlyError(f"{name_login(self.credential)}: the server is in recovery, a standby.")
        committing = False
        try:
            self._execute(_BEGIN)
            prepare()
            self._execute(f"ALTER ROLE {role.replace('%', '%%')} PASSWORD %s", (verifier,))
            confirm()
            committing = True
            self._execute("COMMIT")
        except (psycopg2.Error, TimeoutError) as error:
            failure = _read_change_failure(error, self.credential, committing=committing)
        else:
            return
        raise failure

    def _carry_out(self, changes: list[roles.Change]) -> None:
        """Do all that can be done; raise RoleNotPreparedError with all the statements that somebody else has to run."""
        denied, reasons = [], []
        for change in changes:
            try:
                self._execute(f"SAVEPOINT change; {change.statement}; RELEASE SAVEPOINT change")
            except psycopg2.Error as error:
                if (error.pgcode or "")[:2] not in _NOT_HERE:
                    raise
                denied.append(change)
                reasons.append(_cause(error))
                self._execute("ROLLBACK TO SAVEPOINT change")
        if denied:
            wanted = [change.first or str(change) for change in changes if change.first or change in denied]
            raise RoleNotPreparedError(
                f"{name_login(self.credential)}: the superuser may not do all that the strategy needs ({reasons[0]}).",
                hint=f"Run as a role that may: {' '.join(wanted)}",
            )

    def _ask(self, query: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """Run a query whose failure says nothing about a password."""
        try:
            return self._execute(query, parameters)
        except (psycopg2.Error, TimeoutError) as error:
            failure = DatabaseUnreachableError(f"{name_login(self.credential)}: {_cause(error)}.")
        raise failure

    def _execute(self, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:  # noqa: ANN401 - psycopg2's own
        cursor = self._connection.cursor()
        cursor.execute(query, parameters)
        wait(self._connection, min(STATEMENT_TIMEOUT_S + _GRACE_S, self._deadline.left()))
        return cursor.fetchall() if cursor.description else []


def wait(connection: Connection, seconds: float) -> None:
    """Wait until the connection has done what it was asked; TimeoutError, with the seconds, if that takes longer."""
    end = time.monotonic() + seconds
    while (state := connection.poll()) != POLL_OK:
        descriptor, left = [connection.fileno()], end - time.monotonic()
        wanted = (descriptor, []) if state == POLL_READ else ([], descriptor)
        if left <= 0 or not any(select(*wanted, [], left)):
            raise TimeoutError(f"{seconds:.1f}")


def _read_change_failure(
    error: psycopg2.Error | TimeoutError, credential: Credential, *, committing: bool
) -> DatabaseError:
    sqlstate = getattr(error, "pgcode", None)
    if sqlstate in _READ_ONLY:
        return DatabaseReadOnlyError(f"{name_login(credential)}: the server takes no changes ({_cause(error)}).")
    if committing:
        what = "COMMIT was not confirmed, so the new password may be in force or not; the next try finds out"
    else:
        what = "ALTER ROLE was not carried out, the old password holds"
    hint = _PLAIN_TEXT_WANTED if "not a plain text" in _cause(error) else _CHANGE_HINTS.get(sqlstate or "")
    return PasswordChangeError(f"{name_login(credential)}: {what} ({_cause(error)}).", sqlstate=sqlstate, hint=hint)


def _cause(error: psycopg2.Error | TimeoutError) -> str:
    """Return the server's primary message and SQLSTATE, never the statement, which holds the verifier."""
    if isinstance(error, TimeoutError):
        return f"no answer to a statement within {error} seconds"
    if error.pgcode is None:
        return f"the session broke: {one_line(str(error))}"
    return f"{one_line(error.diag.message_primary or '')}, SQLSTATE {error.pgcode}"
