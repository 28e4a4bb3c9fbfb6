"""What a database answers and does, on a real server; the fake has to pass the same contract."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.errors
import pytest
from psycopg2 import sql

from local.servers.postgres import run_postgres
from rotation_lambda import errors
from rotation_lambda import postgres as adapter
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import HOLD_S, Deadline
from rotation_lambda.postgres import login as entrance
from rotation_lambda.postgres import session as room
from rotation_lambda.postgres import wire
from rotation_lambda.postgres.answers import read_answer
from rotation_lambda.postgres.session import _read_change_failure
from rotation_lambda.settings import SHIPPED_BUNDLE
from rotation_lambda.trust import Trust
from tests.worlds.clocks import PATIENCE_S, Clock
from tests.worlds.fakes import FakeDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from local.servers.postgres import PostgresServer
    from rotation_lambda import rotation
    from tests.conftest import Role


def credential(role: Role, **changes: object) -> Credential:
    values = {
        "host": role.server.host,
        "port": role.server.port,
        "dbname": "postgres",
        "username": role.name,
        "password": role.password,
        **changes,
    }
    return Credential(**values)  # type: ignore[arg-type]


ROLES = ['"; DROP ROLE x; --', "%s", "%(x)s", "a b", "Ünïcode", "it's", "\\", "ü" * 31 + "x", "x" * 63, "FATAL:  "]
PASSWORDS = ["".join(map(chr, range(32, 127))), "'\"\\'\\\"", "four", "x" * 4096, " ", "%s%(x)s{}$1"]
FAKE_CREDENTIAL = Credential("db.example", 5432, "postgres", "app", "old")


def door(server: PostgresServer, ca_file: Path | None = None) -> adapter.Postgres:
    if server.ca_file is None:
        return adapter.Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, Deadline.after(60_000))
    return adapter.Postgres(SslMode.VERIFY_FULL, str(ca_file or server.ca_file), Deadline.after(60_000))


@dataclass(frozen=True, slots=True)
class Subject:
    """A database, fake or real, and the credentials of a user and a superuser; whether somebody waits there for a lock.

    An administrator can limit the user to so many sessions, and end them.
    """

    database: rotation.Database
    credential: Credential
    superuser: Credential
    is_waited_for: Callable[[], bool]
    limit: Callable[[int], object]
    end_sessions: Callable[[], None]


@pytest.fixture(params=["fake", 16, 17, 18])
def subject(
    request: pytest.FixtureRequest, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
) -> Subject:
    if request.param == "fake":
        waits = threading.Event()

        def wait(freed: Callable[[], bool]) -> bool:
            waits.set()
            return poll(freed, room.LOCK_TIMEOUT_S)

        fake = FakeDatabase("app", "old", wait=wait, others={"master": "super"})

        def end_sessions() -> None:
            for session in fake.sessions:
                fake.end(session)

        return Subject(
            fake,
            FAKE_CREDENTIAL,
            FAKE_CREDENTIAL.with_password("super", "master"),
            waits.is_set,
            lambda most: fake.limits.update({"app": most}),
            end_sessions,
        )
    server = postgres_of(request.param)
    role = make_role(server)
    limit = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}")
    return Subject(
        door(server),
        credential(role),
        credential(role, username=server.superuser, password=server.password),
        lambda: bool(server.query("SELECT 1 FROM pg_locks WHERE NOT granted")),
        lambda most: server.query(limit.format(sql.Identifier(role.name), sql.Literal(most))),
        lambda: end_sessions_of(role),
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a row for a moment only."""
    monkeypatch.setattr(room, "LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(entrance, "OPTIONS", room.OPTIONS.replace("lock_timeout=3s", "lock_timeout=100ms"))


def poll(what: Callable[[], bool], seconds: float) -> bool:
    """Wait for so long until something is true; tell whether it is."""
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


class TestContract:
    """Held by the fake and by PostgreSQL 16, 17 and 18."""

    def test_lets_the_right_password_in(self, subject: Subject) -> None:
        with subject.database.log_in(subject.credential):
            pass

    def test_refuses_a_wrong_password(self, subject: Subject) -> None:
        with pytest.raises(errors.LoginRefusedError):
            subject.database.log_in(subject.credential.with_password("wrong"))

    def test_changes_the_password(self, subject: Subject) -> None:
        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"))
        with subject.database.log_in(subject.credential.with_password("new")):
            pass
        with pytest.raises(errors.LoginRefusedError):
            subject.database.log_in(subject.credential)

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("by_superuser", [False, True])
    def test_holds_a_role_that_nobody_else_can_change_meanwhile(self, subject: Subject, *, by_superuser: bool) -> None:
        """In no database, and the holder changes nothing: what it wrote is rolled back."""
        with subject.database.log_in(subject.superuser if by_superuser else subject.credential) as session:
            session.hold_role(subject.credential)
            with (
                subject.database.log_in(replace(subject.credential, dbname="template1")) as other,
                pytest.raises(errors.RoleLockedError),
            ):
                other.change_password(other.credential.with_password("the other's"))
        subject.database.log_in(subject.credential).close()
        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"))

    def test_lets_a_user_in_as_often_as_it_may_be(self, subject: Subject) -> None:
        """After that the password still tells a refusal from a shut door."""
        subject.limit(1)
        with subject.database.log_in(subject.credential):
            with pytest.raises(errors.LoginNotAllowedError):
                subject.database.log_in(subject.credential)
            with pytest.raises(errors.LoginRefusedError):
                subject.database.log_in(subject.credential.with_password("wrong"))

    def test_changes_nothing_once_its_session_has_ended(self, subject: Subject) -> None:
        with subject.database.log_in(subject.credential) as session:
            with pytest.raises(errors.PasswordChangeError) as caught:
                session.change_password(session.credential.with_password("new"), subject.end_sessions)
            assert (caught.value.lost, caught.value.in_doubt) == (True, False)
            with pytest.raises(errors.PasswordChangeError) as caught:
                session.change_password(session.credential.with_password("new"))
            assert (caught.value.lost, caught.value.in_doubt) == (True, False)
        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"))

    def test_changes_it_back_in_the_same_session(self, subject: Subject) -> None:
        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"))
            session.change_password(session.credential.with_password(subject.credential.password))
        with subject.database.log_in(subject.credential):
            pass

    def test_shows_a_change_to_nobody_before_its_commit(self, subject: Subject) -> None:
        def look() -> None:
            subject.database.log_in(subject.credential).close()
            with pytest.raises(errors.LoginRefusedError):
                subject.database.log_in(subject.credential.with_password("new"))

        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"), look)

    def test_rolls_a_change_back_that_was_not_confirmed(self, subject: Subject) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"), fail)
        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("newer"))

    @pytest.mark.usefixtures("impatient")
    def test_keeps_every_other_change_of_the_role_waiting_in_every_database(self, subject: Subject) -> None:
        """lock_timeout ends the wait."""

        def change_too() -> None:
            with (
                subject.database.log_in(replace(subject.credential, dbname="template1")) as other,
                pytest.raises(errors.RoleLockedError),
            ):
                other.change_password(other.credential.with_password("the other's"))

        with subject.database.log_in(subject.credential) as session:
            session.change_password(session.credential.with_password("new"), change_too)
        subject.database.log_in(subject.credential.with_password("new")).close()

    @pytest.mark.parametrize("commits", [True, False])
    def test_tells_who_has_waited_for_a_change(self, subject: Subject, *, commits: bool) -> None:
        """After a COMMIT it is another row, of which the waiter knows nothing; after a ROLLBACK it goes on."""
        outcome: list[str | None] = []

        def change_too() -> None:
            try:
                other.change_password(other.credential.with_password("the other's"))
            except errors.PasswordChangeError as error:
                outcome.append(error.sqlstate)

        def be_waited_for() -> None:
            waiter.start()
            assert poll(subject.is_waited_for, PATIENCE_S)
            if not commits:
                raise ZeroDivisionError

        waiter = threading.Thread(target=change_too)
        with subject.database.log_in(subject.credential) as other:
            with suppress(ZeroDivisionError), subject.database.log_in(subject.credential) as session:
                session.change_password(session.credential.with_password("new"), be_waited_for)
            waiter.join()
        assert outcome == (["XX000"] if commits else [])
        in_force = "new" if commits else "the other's"
        subject.database.log_in(subject.credential.with_password(in_force)).close()


@pytest.fixture
def role(postgres: PostgresServer, make_role: Callable[..., Role]) -> Role:
    return make_role(postgres)


@pytest.fixture(params=[16, 17, 18])
def any_role(
    request: pytest.FixtureRequest, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
) -> Role:
    return make_role(postgres_of(request.param))


def refusal(role: Role, **changes: object) -> errors.DatabaseError:
    """Log in with a changed credential and return the error it ends in."""
    with pytest.raises(errors.DatabaseError) as caught:
        door(role.server).log_in(credential(role, **changes))
    return caught.value


@contextmanager
def hba(server: PostgresServer, *lines: str) -> Iterator[None]:
    server.use_hba(*lines)
    try:
        yield
    finally:
        server.use_hba(server.default_hba)


class TestChangePassword:
    """A verifier is made here and stored; which kind is decided by how the server let us in."""

    def test_is_not_committed_by_a_session_that_the_server_has_ended_by_then(self, role: Role) -> None:
        clock = Clock()
        database = replace(door(role.server), deadline=clock.deadline())
        with database.log_in(credential(role)) as session, pytest.raises(errors.PasswordChangeError) as caught:
            session.change_password(credential(role, password="new"), lambda: clock.sleep(HOLD_S + 2))
        assert "no COMMIT 12.0 s after ALTER ROLE; the old password holds." in caught.value.what
        assert caught.value.lost
        assert role.lets_in(role.password)

    @pytest.mark.parametrize("where", ["the default", "md5 on the role", "md5 on the server"])
    @pytest.mark.parametrize("stored", ["scram-sha-256", "md5"])
    @pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
    @pytest.mark.parametrize("version", [16, 17, 18])
    def test_leaves_a_verifier_that_the_server_accepts(
        self,
        version: int,
        method: str,
        stored: str,
        where: str,
        postgres_of: Callable[[int], PostgresServer],
        make_role: Callable[..., Role],
    ) -> None:
        server = postgres_of(version)
        server.configure(password_encryption=stored)
        role = make_role(server)
        server.configure(password_encryption="md5" if where == "md5 on the server" else None)
        if where == "md5 on the role":
            role.alter("SET password_encryption = md5")
        encrypted = "hostssl" if server.ca_file else "host"
        try:
            with hba(server, f"{encrypted} all all all {method}"):
                if (stored, method) == ("md5", "scram-sha-256"):
                    assert isinstance(refusal(role), errors.LoginRefusedError)
                    return
                with door(server).log_in(credential(role)) as session:
                    assert session.authentication == stored
                    session.change_password(session.credential.with_password("new"))
                door(server).log_in(credential(role, password="new")).close()
                assert isinstance(refusal(role), errors.LoginRefusedError)
        finally:
            server.configure(password_encryption=None)
        kind = "md5" if stored == "md5" and where != "the default" else "SCRAM-SHA-256"
        assert verifier(role).startswith(kind)

    def test_changes_the_sessions_own_role_when_it_starts_under_another(
        self, any_role: Role, make_role: Callable[..., Role]
    ) -> None:
        other = make_role(any_role.server)
        before = verifier(other)
        any_role.server.query(
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(other.name), sql.Identifier(any_role.name))
        )
        any_role.alter(f"SET role = {other.name}")
        change(any_role)
        assert verifier(other) == before
        assert any_role.lets_in("new")

    @pytest.mark.parametrize("setting", ["default_transaction_read_only = on", "idle_session_timeout = 1000"])
    def test_is_not_stopped_by_the_roles_settings(self, any_role: Role, setting: str) -> None:
        any_role.alter(f"SET {setting}")
        with door(any_role.server).log_in(credential(any_role)) as session:
            time.sleep(1.2 if "idle" in setting else 0)
            session.change_password(session.credential.with_password("new"))
        assert any_role.lets_in("new")

    @pytest.mark.parametrize("name", ROLES)
    def test_takes_a_hostile_role_name_as_a_name(
        self, name: str, postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        role = make_role(postgres, name=name)
        change(role)
        assert role.lets_in("new")
        assert not role.lets_in(role.password)
        superuser = credential(role, username=postgres.superuser, password=postgres.password)
        with door(postgres).log_in(superuser) as session:
            session.hold_role(credential(role))

    @pytest.mark.parametrize("password", PASSWORDS, ids=range(len(PASSWORDS)))
    def test_takes_every_printable_password_from_the_old_to_the_new(
        self, password: str, postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        role = make_role(postgres, password=password)
        change(role)
        with door(postgres).log_in(credential(role, password="new")) as session:
            session.change_password(session.credential.with_password(password))
        door(postgres).log_in(credential(role)).close()

    @pytest.mark.parametrize("dbname", ["host=elsewhere", "postgresql://elsewhere/x", "a b", "'", '"', "ü"])
    def test_takes_a_hostile_database_name_as_a_name(self, dbname: str, role: Role) -> None:
        role.server.query(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
        try:
            door(role.server).log_in(credential(role, dbname=dbname)).close()
        finally:
            role.server.query(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(dbname)))

    @pytest.mark.usefixtures("impatient")
    def test_says_that_another_transaction_stands_in_the_way(self, role: Role) -> None:
        session = door(role.server).log_in(credential(role))
        with session, lock_of(role), pytest.raises(errors.RoleLockedError):
            session.change_password(session.credential.with_password("new"))
        assert role.lets_in(role.password)

    def test_is_taken_by_passwordcheck_but_for_the_roles_own_name(self, make_role: Callable[..., Role]) -> None:
        with run_postgres(settings={"shared_preload_libraries": "passwordcheck"}) as server:
            role = make_role(server)
            with door(server).log_in(credential(role)) as session, pytest.raises(errors.PasswordChangeError) as caught:
                session.change_password(session.credential.with_password(role.name))
            change(role)
            assert role.lets_in("new")
        assert (caught.value.sqlstate, caught.value.lost) == ("22023", False)
        assert "password-checking extension" in caught.value.hint

    @pytest.mark.parametrize("sqlstate", ["28000", "XX000"])
    def test_names_an_extension_that_wants_plain_text(self, sqlstate: str, role: Role) -> None:
        """Credcheck's words, by both codes that it has had: there is no wheel of it."""
        refuse = f"DO $$ BEGIN RAISE 'password type is not a plain text' USING ERRCODE = '{sqlstate}'; END $$"
        with door(role.server).log_in(credential(role)) as session, pytest.raises(psycopg2.Error) as caught:
            session._execute(refuse)
        error = _read_change_failure(caught.value, credential(role), committing=False)
        assert "credcheck.encrypted_password_allowed" in error.hint

    def test_takes_nothing_on_a_standby(self, role: Role) -> None:
        with door(role.server).log_in(credential(role)) as session:
            session.in_recovery = True
            with pytest.raises(errors.DatabaseReadOnlyError):
                session.change_password(session.credential.with_password("new"))
        assert role.lets_in(role.password)

    def test_reads_a_server_that_takes_no_changes_as_read_only(self, role: Role) -> None:
        """After a failover the primary that was found may be one no more."""
        session = role.server.connect(role.name, role.password)
        with closing(session), session.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on; COMMIT")
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction) as caught:
                cursor.execute("ALTER ROLE SESSION_USER PASSWORD 'new'")
        failure = _read_change_failure(caught.value, credential(role), committing=False)
        assert type(failure) is errors.DatabaseReadOnlyError
        assert role.lets_in(role.password)

    def test_says_that_the_old_password_holds_when_the_session_breaks_before_the_commit(self, role: Role) -> None:
        with door(role.server).log_in(credential(role)) as session:
            end_sessions_of(role)
            with pytest.raises(errors.PasswordChangeError, match="the old password holds"):
                session.change_password(session.credential.with_password("new"))
        assert role.lets_in(role.password)


class TestHeldRow:
    """The role's row in pg_authid, which is one for all databases of a server."""

    @pytest.mark.usefixtures("impatient")
    def test_names_who_has_changed_a_role(self, any_role: Role, make_role: Callable[..., Role]) -> None:
        database = door(any_role.server)
        with database.log_in(credential(any_role)) as first, database.log_in(credential(any_role)) as second:
            first.hold_role(credential(any_role))
            with pytest.raises(errors.RoleLockedError) as caught:
                second.change_password(second.credential.with_password("new"))
        assert re.search(rf"process \d+ of user '{any_role.name}'", caught.value.what)
        assert any_role.lets_in(any_role.password)

    @pytest.mark.usefixtures("impatient")
    def test_names_a_prepared_transaction(self, make_role: Callable[..., Role]) -> None:
        with run_postgres(settings={"max_prepared_transactions": "2"}) as server:
            role = make_role(server)
            server.query(f"BEGIN; ALTER ROLE {role.name} CONNECTION LIMIT 9; PREPARE TRANSACTION 'left behind'")
            with (
                door(server).log_in(credential(role)) as session,
                pytest.raises(errors.RoleLockedError, match="prepared transaction 'left behind' of user 'postgres'"),
            ):
                session.change_password(session.credential.with_password("new"))
            server.query("ROLLBACK PREPARED 'left behind'")
            with door(server).log_in(credential(role)) as session:
                session.change_password(session.credential.with_password("new"))

    @pytest.mark.usefixtures("impatient")
    def test_can_be_changed_by_the_same_session_that_had_to_wait(self, role: Role) -> None:
        """A put-back tries again in the session that made the change."""
        database = door(role.server)
        with database.log_in(credential(role)) as session:
            with database.log_in(credential(role)) as other:
                other.hold_role(credential(role))
                with pytest.raises(errors.RoleLockedError):
                    session.change_password(session.credential.with_password("new"))
            session.change_password(session.credential.with_password("new"))
        assert role.lets_in("new")

    def test_is_held_no_more_where_the_session_was_ended(self, role: Role) -> None:
        with door(role.server).log_in(credential(role)) as session:
            session.hold_role(credential(role))
            assert session.is_alive()
            end_sessions_of(role)
            assert not session.is_alive()

    def test_is_not_had_on_a_standby(self, role: Role) -> None:
        with door(role.server).log_in(credential(role)) as session:
            session.in_recovery = True
            with pytest.raises(errors.DatabaseReadOnlyError):
                session.hold_role(credential(role))

    def test_is_freed_by_the_server_when_a_change_takes_too_long(
        self, role: Role, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(room, "_CHANGE", room._CHANGE.replace(f"{HOLD_S:.0f}s", "50ms"))
        with door(role.server).log_in(credential(role)) as session:

            def wait_until_ended() -> None:
                sessions = "SELECT 1 FROM pg_stat_activity WHERE usename = %s"
                assert poll(lambda: not role.server.query(sessions, (role.name,)), PATIENCE_S)

            with pytest.raises(errors.PasswordChangeError, match="idle-in-transaction") as caught:
                session.change_password(session.credential.with_password("new"), wait_until_ended)
        assert (caught.value.lost, caught.value.in_doubt) == (True, False)
        assert role.lets_in(role.password)


class TestSessionSettings:
    """What is set for a role or a database changes no query of ours."""

    @pytest.mark.parametrize(
        "clause",
        [
            "SET statement_timeout = '1ms'",
            "SET lock_timeout = '1ms'",
            "SET idle_in_transaction_session_timeout = '1ms'",
            "SET DateStyle = 'SQL, DMY'",
            "SET TimeZone = 'Europe/Berlin'",
            "SET search_path = 'elsewhere'",
            "SET default_transaction_read_only = on",
            "SET exit_on_error = on",
            "SET standard_conforming_strings = off",
        ],
    )
    def test_rotates_with(self, clause: str, any_role: Role) -> None:
        any_role.alter(clause)
        with door(any_role.server).log_in(credential(any_role)) as session:
            session.survey()
            time.sleep(0.02)
            session.change_password(session.credential.with_password("new"))
        assert any_role.lets_in("new")

    def test_waits_for_no_open_writer(self, role: Role) -> None:
        """A serializable, deferrable, read-only transaction waits until no other serializable one is at work."""
        for name, value in (("isolation", "serializable"), ("deferrable", "on"), ("read_only", "on")):
            role.alter(f"SET default_transaction_{name} = '{value}'")
        writer = role.server.connect(role.server.superuser, role.server.password)
        with closing(writer), writer.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; CREATE TEMP TABLE open (x int)")
            with door(role.server).log_in(credential(role)) as session:
                session.change_password(session.credential.with_password("new"))
        assert role.lets_in("new")

    @pytest.mark.parametrize("name", ["idle_session_timeout", "transaction_timeout"])
    def test_names_a_timeout_that_ends_every_session(self, name: str, role: Role) -> None:
        """Both count before we can set them: the login is over within a millisecond, or it rotates."""
        role.alter(f"SET {name} = '1ms'")
        error = None
        try:
            door(role.server).log_in(credential(role)).close()
        except errors.DatabaseError as failure:
            error = failure
        assert error is None or (name.partition("_")[0] in error.what and "RESET" in error.hint)
        assert isinstance(error, errors.LoginNotAllowedError | None)  # for the password was right

    def test_names_a_library_that_ends_every_session(self, role: Role) -> None:
        role.alter("SET local_preload_libraries = 'nope'")
        with pytest.raises(errors.LoginNotAllowedError, match="could not access file") as caught:
            door(role.server).log_in(credential(role))
        assert "RESET" in caught.value.hint

    def test_runs_no_query_of_ours_through_a_compiler(self, role: Role) -> None:
        """An owner of the database can have it compile each query for seconds."""
        role.alter("SET jit_above_cost = 0")
        with door(role.server).log_in(credential(role)) as session:
            assert session._ask(str, "SELECT current_setting('jit')") == "off"

    @pytest.mark.parametrize(("iterations", "made"), [(1, 4096), (4096, 4096), (5000, 5000)])
    def test_makes_no_weaker_verifier_than_the_default(self, iterations: int, made: int, any_role: Role) -> None:
        any_role.alter(f"SET scram_iterations = {iterations}")
        with door(any_role.server).log_in(credential(any_role)) as session:
            session.change_password(session.credential.with_password("new"))
        [(verifier,)] = any_role.server.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (any_role.name,))
        assert verifier.startswith(f"SCRAM-SHA-256${made}:")

    def test_makes_no_verifier_that_takes_longer_than_a_step(self, role: Role) -> None:
        role.alter("SET scram_iterations = 80000000")
        with door(role.server).log_in(credential(role)) as session:
            assert session._connection.get_parameter_status("scram_iterations") == "1000000"

    def test_commits_without_a_standby(self, make_role: Callable[..., Role]) -> None:
        """COMMIT waits for one without end, and a step that gave it up would see its change come true later."""
        with run_postgres(settings={"synchronous_commit": "on"}) as server:
            role = make_role(server)
            server.configure(synchronous_standby_names="away")
            try:
                with door(server).log_in(credential(role)) as session:
                    session.change_password(session.credential.with_password("new"))
                assert role.lets_in("new")
            finally:
                server.configure(synchronous_standby_names=None)


class TestTrust:
    def test_is_asked_for_before_a_row_is_held(self, role: Role, make_role: Callable[..., Role]) -> None:
        """What it takes to find out, logins with retained passwords, may last longer than a transaction may."""
        other = make_role(role.server)
        states = []

        def is_ours(user: str) -> bool:
            query = "SELECT state FROM pg_stat_activity WHERE application_name = 'rotation_lambda' AND usename = %s"
            states.append((user, *role.server.query(query, (role.server.superuser,))[0]))
            return True

        master = credential(role, username=role.server.superuser, password=role.server.password)
        current = credential(role, usernames=(role.name, other.name))
        role.server.query(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(other.name)))
        with door(role.server).log_in(master) as session:
            pending = replace(current, username=other.name, password="new")
            session.change_password(pending, trust=Trust(current, cache(is_ours)))
        assert states == [(role.name, "idle"), (other.name, "idle")]
        assert other.lets_in("new")


class TestAStrangersAnswer:
    """What a server answers that is not PostgreSQL's own; tests/attacks has it from one."""

    def test_of_other_columns_is_named(self, role: Role) -> None:
        with (
            door(role.server).log_in(credential(role)) as session,
            pytest.raises(errors.ConnectionFailedError, match="is not to what was asked"),
        ):
            session._ask(lambda one: one, "SELECT 1, 2")

    def test_of_another_type_is_not_read(self, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
        with door(role.server).log_in(credential(role)) as session:
            monkeypatch.setattr(room, "_TEXT", 1007)
            with pytest.raises(errors.ConnectionFailedError, match="is not to what was asked"):
                session.survey()
            with pytest.raises(errors.PasswordChangeError, match="is not to what was asked"):
                session.rehearse(session.credential, Trust(session.credential, lambda _: True))

    def test_of_more_iterations_than_it_was_told_makes_no_verifier(
        self, role: Role, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with door(role.server).log_in(credential(role)) as session:
            monkeypatch.setattr(room, "MOST_ITERATIONS", 10)
            with pytest.raises(errors.ConnectionFailedError, match="is not to what was asked"):
                session.change_password(session.credential.with_password("new"))
        assert role.lets_in(role.password)


class TestFlood:
    """A hostile server's answer is given up before it costs more than a few megabytes."""

    def test_ends_the_session(self, role: Role) -> None:
        with door(role.server).log_in(credential(role)) as session:
            session._ask(str, "SELECT repeat('x', 300000)")
            with pytest.raises(errors.DatabaseUnreachableError, match="sent more than"):
                session._ask(str, "SELECT repeat('x', 5000000)")

    def test_gives_room_to_no_message_that_is_too_long(self, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is not made into JSON, for which a busy server would take as long as it has."""
        monkeypatch.setattr(wire, "MOST_BYTES", sys.maxsize)  # or much may have come before it is looked at
        with (
            door(role.server).log_in(credential(role)) as session,
            pytest.raises(psycopg2.Error, match=r"cannot allocate memory|out of memory") as caught,
        ):
            session._execute("SELECT repeat('x', 40000000)")
        error = read_answer(str(caught.value), credential(role))
        assert type(error) is errors.DatabaseUnreachableError
        assert not error.unknown
        assert "far more than a PostgreSQL server" in error.hint

    def test_leaves_the_limit_of_memory_as_it_was(self, role: Role) -> None:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        lower = 8 << 30, before[1]
        resource.setrlimit(resource.RLIMIT_DATA, lower)
        try:
            door(role.server).log_in(credential(role)).close()
            assert resource.getrlimit(resource.RLIMIT_DATA) == lower
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)

    def test_is_counted_on_linux_alone(self, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "_TCP_INFO", None)
        monkeypatch.setattr(wire, "MOST_BYTES", 1)
        door(role.server).log_in(credential(role)).close()

    def test_is_no_answer_to_a_login_and_not_waited_for(self, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "MOST_BYTES", 100)
        error = refusal(role)
        assert "sent more than" in error.what
        assert not error.unknown


class TestEnvironment:
    def test_nothing_in_libpqs_environment_has_an_effect(
        self, role: Role, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "service.conf").write_text("[rogue]\nhost=rogue.invalid\nhostaddr=192.0.2.1\n")
        hostile = {
            "PGHOSTADDR": "192.0.2.1",
            "PGHOST": "rogue.invalid",
            "PGPORT": "1",
            "PGOPTIONS": "-c role=none -c nonsense=1",
            "PGSERVICE": "rogue",
            "PGSERVICEFILE": str(tmp_path / "service.conf"),
            "PGPASSFILE": str(tmp_path / "none"),
            "PGREQUIREAUTH": "none",
            "PGSSLMODE": "disable",
            "PGSSLROOTCERT": str(tmp_path / "none"),
            "PGSSLCERT": str(tmp_path / "none"),
            "PGTARGETSESSIONATTRS": "standby",
            "PGCHANNELBINDING": "disable",
            "PGCLIENTENCODING": "nonsense",
            "PGTZ": "nonsense",
            "PGCONNECT_TIMEOUT": "-1",
            "PGSSLNEGOTIATION": "direct",
        }
        for name, value in hostile.items():
            monkeypatch.setenv(name, value)
        with door(role.server).log_in(credential(role)) as session:
            assert session.encryption.startswith("TLSv1.")


class TestAddresses:
    def test_are_tried_one_after_the_other_until_one_answers(self, role: Role) -> None:
        database = replace(door(role.server), look_up=lambda _: ["127.0.0.2", "127.0.0.1"])
        database.log_in(credential(role)).close()

    def test_are_addresses(self, role: Role) -> None:
        with pytest.raises(errors.DatabaseUnreachableError, match="could not parse network address"):
            replace(door(role.server), look_up=lambda _: ["no address"]).log_in(credential(role))

    def test_end_with_the_last_ones_answer(self, role: Role) -> None:
        database = replace(door(role.server), look_up=lambda _: ["127.0.0.2", "127.0.0.1", "127.0.0.3"])
        with pytest.raises(errors.LoginRefusedError):
            database.log_in(credential(role, password="wrong"))
        with pytest.raises(errors.ConnectionFailedError):
            replace(database, look_up=lambda _: ["127.0.0.2", "127.0.0.3"]).log_in(credential(role))


class TestStalledServer:
    """A backend that no longer answers: every wait ends with the deadline, and says what was waited for."""

    @contextmanager
    def stalled(self, role: Role) -> Iterator[adapter.Session]:
        database = replace(door(role.server), deadline=Deadline(time.monotonic() + 1))
        with database.log_in(credential(role)) as session:
            [(pid,)] = role.server.query("SELECT pid FROM pg_stat_activity WHERE usename = %s", (role.name,))
            os.kill(pid, signal.SIGSTOP)
            try:
                yield session
            finally:
                os.kill(pid, signal.SIGCONT)

    def test_leaves_the_old_password_in_force(self, role: Role) -> None:
        with self.stalled(role) as session:
            with pytest.raises(errors.PasswordChangeError, match=r"the old password holds.*no answer") as caught:
                session.change_password(session.credential.with_password("new"))
            assert (caught.value.sqlstate, caught.value.lost) == (None, True)
            assert "SQLSTATE" not in caught.value.hint
        assert role.lets_in(role.password)

    def test_is_waited_for_a_second_to_tell_whether_it_is_alive(
        self, role: Role, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The label may have to move back in the time that is left."""
        waited: list[float] = []

        def no_answer(_: object, seconds: float) -> None:
            waited.append(seconds)
            raise TimeoutError

        with door(role.server).log_in(credential(role)) as session:
            monkeypatch.setattr(room, "wait", no_answer)
            assert not session.is_alive()
        assert waited == [1.0]

    def test_is_not_waited_for_when_time_is_up(self, role: Role) -> None:
        database = replace(door(role.server), deadline=Deadline(time.monotonic()))
        with pytest.raises(errors.DatabaseTimeoutError, match="no time is left for a login"):
            database.log_in(credential(role))


class TestPooler:
    """Whoever is in between tells the client another process id than the server's own."""

    def test_is_told_by_the_process_id(self, role: Role) -> None:
        without_tls = credential(role, sslmode=SslMode.DISABLE)
        with hba(role.server, "host all all all scram-sha-256"), pooler(role.server.port) as port:
            door(role.server).log_in(without_tls).close()
            with pytest.raises(errors.PoolerError) as caught:
                door(role.server).log_in(replace(without_tls, port=port))
            assert "rotationHost" in caught.value.hint
            door(role.server).log_in(replace(without_tls, port=port, rotation_port=role.server.port)).close()


class TestTlsServerName:
    def test_verifies_that_name_at_another_address(self, role: Role) -> None:
        door(role.server).log_in(credential(role, host="127.0.0.1", tls_server_name="localhost")).close()

    def test_verifies_it_strictly(self, role: Role) -> None:
        assert type(refusal(role, tls_server_name="other.example")) is errors.TlsError


@contextmanager
def pooler(server_port: int) -> Iterator[int]:
    """Stand between one client and the server, and hand out a process id of our own (BackendKeyData, protocol 53.7)."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client, socket.create_connection(("127.0.0.1", server_port)) as server:
                while ready := select.select([client, server], [], [])[0]:
                    for end in ready:
                        data = re.sub(
                            rb"(?s)K\x00\x00\x00\x0c....", b"K\x00\x00\x00\x0c\x00\x00\x00\x01", end.recv(65536)
                        )
                        if not data:
                            return
                        (server if end is client else client).sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE_S)


def end_sessions_of(role: Role) -> None:
    role.server.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", (role.name,))


def change(role: Role) -> None:
    with door(role.server).log_in(credential(role)) as session:
        session.change_password(session.credential.with_password("new"))


def verifier(role: Role) -> str:
    [(text,)] = role.server.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role.name,))
    return str(text)


@contextmanager
def lock_of(role: Role) -> Iterator[None]:
    """Keep every ALTER ROLE waiting."""
    with closing(role.server.connect("postgres", role.server.password)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE pg_authid IN SHARE MODE")
        yield
