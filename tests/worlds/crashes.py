"""A world in which the function can be killed at every effect it has outside, and what its surroundings do next."""

from __future__ import annotations

import hmac
import json
import math
import os
import random
import re
import secrets
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from hashlib import md5, pbkdf2_hmac, sha256
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

import psycopg2.errors
import pytest
from moto.secretsmanager.models import secretsmanager_backends
from psycopg2 import sql
from psycopg2.extensions import TRANSACTION_STATUS_INTRANS

from local.servers import rotation
from local.servers.secrets_manager import REGION
from rotation_lambda import steps
from rotation_lambda.credential import CLONE, Credential, SslMode
from rotation_lambda.errors import LoginRefusedError, RotationError
from rotation_lambda.event import RotationEvent, Step
from rotation_lambda.postgres import Postgres, Session
from rotation_lambda.rotation import Rotation
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import SHIPPED_BUNDLE, Settings, Strategy
from rotation_lambda.superuser import Superusers
from tests.worlds import shapes
from tests.worlds.clients import make_client
from tests.worlds.clocks import Clock, wait_until
from tests.worlds.sample import MODE

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 - a class, whatever psycopg2 calls it

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from rotation_lambda.deadline import Deadline

_Answer = TypeVar("_Answer")
Act = Callable[[], None]
Snapshot = tuple[Any, ...]
Rows = list[tuple[str, str]]
"""What the catalogs hold of the world's roles: which catalog, and the row as JSON."""
Acts = Mapping[tuple[str, int], Act]
"""What happens right "before" or "after" the effect of that number: the process is killed, or somebody else acts."""

NO_ACTS: Acts = {}

SETTINGS = Settings.from_environment({"PGSSLMODE": SslMode.DISABLE})
FASTEST = {"scram_iterations": "1", "ssl": "off"}
READING = ("DescribeSecret", "GetSecretValue", "ListSecretVersionIds", "GetRandomPassword", "SELECT", "log ", "BEGIN")
COPIES = ("url", "keys", "json")  # a step writes them all at once, whichever they are
ELSEWHERE = "template1"  # where the world tries passwords, whatever door the rotation's own database has

CATALOGS = {
    "pg_shdepend": "refclassid = 'pg_authid'::regclass AND refobjid IN (TABLE ours)",
    "pg_db_role_setting": "setrole IN (TABLE ours)",
    "pg_auth_members": "roleid IN (TABLE ours) OR member IN (TABLE ours)",
    "pg_authid": "oid IN (TABLE ours)",
}
"""Where PostgreSQL keeps what there is to know of a role, and which rows are about the world's."""

OURS = "WITH ours AS (SELECT oid FROM pg_authid WHERE rolname = ANY ({}))"
ATTRIBUTES = """
SELECT rolname, left(rolpassword, 5), coalesce(rolvaliduntil, 'infinity')::text,
    to_jsonb(it) - '{oid,rolname,rolpassword,rolvaliduntil}'::text[],
    ARRAY(SELECT setdatabase || entry FROM pg_db_role_setting, unnest(setconfig) AS entry
        WHERE setrole = it.oid ORDER BY 1),
    ARRAY(SELECT roleid::regrole || (to_jsonb(had) - '{oid,roleid,member}'::text[])::text
        FROM pg_auth_members AS had WHERE member = it.oid ORDER BY 1)
FROM pg_authid AS it WHERE rolname = ANY (%s) ORDER BY rolname
"""


class KilledError(BaseException):
    """The function's process is gone: no handler of the house may catch this, and the server sees its sockets close."""


class KnownFutureError(Exception):
    """What is to be done from here has been done before, from a world that was the same."""


def kill() -> None:
    raise KilledError


@dataclass(slots=True)
class Effects:
    """What one invocation does outside, in order: each API call, login, statement and logout."""

    world: World
    acts: Acts = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    sessions: list[WatchedSession] = field(default_factory=list)
    backends: list[int] = field(default_factory=list)

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        number = len(self.names)
        self.names.append(name)
        self._act("before", number)
        try:
            yield
        finally:
            if not name.startswith(READING):
                self.world.look()
            self._act("after", number)

    def _act(self, when: str, number: int) -> None:
        if act := self.acts.get((when, number)):
            self.world.at = self.names[number]
            self.world.story.append(
                f"  {when} its {number + 1}. effect, {self.world.at}: {getattr(act, '__name__', act)}"
            )
            try:
                act()
            except KilledError:
                self.acts = NO_ACTS  # all that the dead still do is to lose their sockets
                raise


@dataclass(frozen=True)
class WatchedSecretsManager(SecretsManager):
    """The house's adapter, each of whose calls is an effect."""

    effects: Effects
    world: World

    def _ask(self, operation: str, version: str | None, call: Callable[[], _Answer], **patience: bool) -> _Answer:
        if operation == "PutSecretValue":
            return super()._ask(operation, version, call, **patience)
        with self.effects.one(operation):
            return super()._ask(operation, version, call, **patience)

    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool:
        """Refuse a second value, as AWS does: moto overwrites that of a version with AWSPENDING."""
        with self.effects.one("PutSecretValue"):
            if self.world.values.get(version, value) != value:
                return False
            return super().put_secret_value(version, value, rotation_token)


@dataclass
class WatchedSession(Session):
    """The house's session, each of whose statements is an effect."""

    effects: Effects = field(kw_only=True)

    def _execute(self, query: str, *how: Any, **named: Any) -> Cursor:  # noqa: ANN401 - as in the house
        with self.effects.one(" ".join(re.split(r"[;(]", query)[0].split()[:2])):
            return super()._execute(query, *how, **named)

    def close(self) -> None:
        with self.effects.one("log out"):
            super().close()


@dataclass(frozen=True)
class WatchedPostgres(Postgres):
    """The house's adapter, each of whose logins is an effect (what a session looks at first changes nothing)."""

    effects: Effects = field(kw_only=True)

    def _connect_to(self, address: str, credential: Credential, require_auth: str, seconds: float) -> Session:
        watched: WatchedSession | None = None
        try:
            with self.effects.one("log in"):
                session = super()._connect_to(address, credential, require_auth, seconds)
                self.effects.backends.append(session._connection.info.backend_pid)
                watched = WatchedSession(*(getattr(session, one.name) for one in fields(session)), effects=self.effects)
                self.effects.sessions.append(watched)
        except RotationError:  # the answer got lost
            if watched:
                Session.close(watched)
            raise
        return watched


@dataclass(slots=True)
class World:
    """One role, its secret, and Secrets Manager's part; after every step it is proved that nobody is locked out.

    `abandoned` is true from a cancelled, superseded or overruled rotation until the next one is done: as long, the
    password in force may be one of a version without a label. Under alternating users there is no such time: AWSCURRENT
    logs in, after every single effect, unless it is one of the versions that are `wrong` by somebody's hand.
    """

    server: PostgresServer
    keeper: SecretsManagerServer
    role: str
    arn: str
    client: Any = field(repr=False)
    strategy: Strategy = Strategy.SINGLE_USER
    encryption: str = "scram-sha-256"
    abandoned: bool = False
    wrong: set[str] = field(default_factory=set)
    known: dict[tuple[object, ...], bool] = field(default_factory=dict, repr=False)
    door: Literal["open", "expired", "shut"] = "open"
    barred: str = ""
    story: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    last: int = 0
    at: str = ""
    knows: Callable[[tuple[str, ...], str], bool] = field(default=lambda *_: False, repr=False)
    deadline: Callable[[], Deadline] = field(default=lambda: Clock().deadline(), repr=False)
    afterwards: Callable[[], None] = field(default=lambda: None, repr=False)
    _watched: Effects = field(init=False, repr=False)
    _admin: Connection = field(init=False, repr=False)
    _secret: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._secret = secretsmanager_backends[self.arn.split(":")[4]][REGION].secrets[self.arn]
        self._log_in_as_administrator()

    # What there is.

    @property
    def alternates(self) -> bool:
        return self.strategy is Strategy.ALTERNATING_USERS

    @property
    def users(self) -> list[str]:
        return [self.role, self.role + CLONE] if self.alternates else [self.role]

    @property
    def superuser(self) -> str:
        return self.role.replace("app", "master")

    @property
    def roles(self) -> list[str]:
        return [*self.users, self.superuser]

    @property
    def next_user(self) -> str:
        """Whose password a rotation changes: under alternating users, of who is not in use."""
        current = self.credential("AWSCURRENT")
        return current.other_user if self.alternates else current.username

    @property
    def labels(self) -> dict[str, str]:
        return {label: one["version_id"] for one in self._secret.versions.values() for label in one["version_stages"]}

    @property
    def values(self) -> dict[str, str]:
        """What each retained version holds, the newest last."""
        versions = self._secret.versions.items()
        return {version: one["secret_string"] for version, one in versions if "secret_string" in one}

    def credential(self, label: str) -> Credential:
        return Credential.parse(self.values[self.labels[label]])

    def lets_in(self, version: str, rows: Rows | None = None) -> bool:
        """Log in with the version's password, in a database that no rule of the rotation's is about.

        Every copy in the version has that login: whoever reads any key of it gets the same answer. The same password at
        the same state of the roles gets the same answer, and is tried once. One that does not belong to the role's
        verifier is not tried at all: were that a mistake, nobody could log in.
        """
        value, rows = json.loads(self.values[version]), self._rows() if rows is None else rows
        tried = self.values[version], *rows
        if MODE == "every" or tried not in self.known:
            for name, copy in shapes.read(value).items():
                login = copy["user"], copy["password"]
                assert login == (value["username"], value["password"]), self.tell(f"copy_{name} is for another login")
            users = [json.loads(row) for catalog, row in rows if catalog == "pg_authid"]
            verifiers = {user["rolname"]: user["rolpassword"] or "" for user in users}
            fits = belongs(value["password"], value["username"], verifiers.get(value["username"], ""))
            self.known[tried] = (fits or MODE == "every") and self._lets_in(value)
        return self.known[tried]

    def _lets_in(self, value: Mapping[str, str]) -> bool:
        """Log in; whoever is let in runs as the role, and so has what is the role's."""
        expired = self.door == "expired" and self.barred == value["username"]
        if expired:
            self.alter("VALID UNTIL 'infinity'", self.barred)
        try:
            connection = self.server.connect(value["username"], value["password"], dbname=ELSEWHERE)
        except psycopg2.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            return False
        finally:
            if expired:
                self.alter("VALID UNTIL '-infinity'", self.barred)
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchall() == [(self.role,)], self.tell("a user is let in who does not run as the role")
        return True

    def prove(self, rows: Rows | None = None) -> dict[str, str | None]:
        """Return the version whose password each user's is, and prove that nobody is locked out."""
        labels, values, rows = self.labels, self.values, self._rows() if rows is None else rows
        self.look(rows)
        likeliest = [labels.get(name) for name in ("AWSPENDING", "AWSCURRENT", "AWSPREVIOUS")]
        versions = [name for name in dict.fromkeys((*likeliest, *reversed(values))) if name in values]
        names = {name: json.loads(values[name])["username"] for name in versions}
        found = {
            user: next((name for name in versions if names[name] == user and self.lets_in(name, rows)), None)
            for user in self.users
        }
        in_force = set(found.values()) - {None}
        assert in_force, self.tell("nobody can log in")
        assert self.abandoned or in_force & set(labels.values()), self.tell("only an unlabelled version logs in")
        return found

    def in_force(self) -> str | None:
        """Return the version whose password the role's is, and prove that nobody is locked out."""
        return self.prove()[self.role]

    def look(self, rows: Rows | None = None) -> None:
        """See that AWSCURRENT is not refused where it never may be, not even while the function is at work."""
        if self.alternates and self.labels["AWSCURRENT"] not in self.wrong:
            assert self.current_logs_in(rows), self.tell("AWSCURRENT does not log in")

    def current_logs_in(self, rows: Rows | None = None) -> bool:
        return self.lets_in(self.labels["AWSCURRENT"], rows)

    def tell(self, what: str) -> str:
        return "\n  ".join((f"{what}; labels {self.labels}", *self.story))

    # Another time.

    def snapshot(self) -> Snapshot:
        return deepcopy(vars(self._secret)), self._rows(), self.abandoned, list(self.story)

    def restore(self, snapshot: Snapshot) -> None:
        self._await_logouts("usename", self.roles)
        self.readmit()
        secret, rows, self.abandoned, story = snapshot
        self.story = list(story)
        vars(self._secret).update(deepcopy(secret))
        statements = [f"{OURS.format('%s')} DELETE FROM {catalog} WHERE {rows}" for catalog, rows in CATALOGS.items()]
        there = [f"INSERT INTO {catalog} SELECT (jsonb_populate_record(NULL::{catalog}, %s)).*" for catalog, _ in rows]
        self.query("; ".join(statements + there), *[self.roles] * len(statements), *[row for _, row in rows])

    def _rows(self) -> Rows:
        """Return all that the server's catalogs know of the world's roles, whether the function made them or not."""
        return self.query("EXECUTE rows (%s)", self.roles)

    def fingerprint(self, *, labelled: bool = False) -> str:
        """Tell all that a later invocation can find, whatever versions and passwords are called; or what has labels."""
        values = {name: json.loads(value) for name, value in self.values.items()}
        alike = list(dict.fromkeys(value["password"] for value in values.values()))
        in_force = self.prove().values()
        versions = [
            (
                sorted(one["version_stages"]),
                name in values and (values[name]["username"], alike.index(values[name]["password"])),
                name in in_force,
            )
            for name, one in self._secret.versions.items()
            if one["version_stages"] or not labelled
        ]
        told = repr((versions, self._secret.rotation_enabled, self.query(ATTRIBUTES, self.users), self.abandoned))
        return told.replace(self.role.removeprefix("app"), "")

    # What the function does.

    def take(self, step: str, token: str, acts: Acts = NO_ACTS) -> RotationError | KilledError | None:
        """Have the function take the step, be it to its end or to its death, and look after the invariants.

        What happens `afterwards` changes nothing that a step which says that it failed has left.
        """
        random.seed(0)  # for the jitter of the pauses: there are as many of them each time
        self._watched = watched = Effects(self, acts)
        failure: RotationError | KilledError | None = None
        try:
            self._invoke(RotationEvent(Step(step), self.arn, token), watched)
        except RotationError as error:
            failure = error
        except KilledError:
            failure = KilledError()
            for session in watched.sessions:
                Session.close(session)
        left = self._rows()
        self.afterwards()
        self._await_logouts("pid", watched.backends)
        rows = self._rows()
        told = rows == left or not isinstance(failure, RotationError)
        assert told, self.tell(f"{step} has failed, and then the database changes: {failure}")
        self.effects += watched.names
        self.last = len(watched.names)
        self.story.append(f"{step} of {token[:4]}: {failure!r:.500}" if failure else f"{step} of {token[:4]}")
        self.prove(rows)
        return failure

    def _invoke(self, event: RotationEvent, effects: Effects) -> None:
        """Do as the handler does, with adapters that are watched."""
        deadline = self.deadline()
        ample = replace(deadline, end=math.inf)  # no call to Secrets Manager is slow here
        keeper = WatchedSecretsManager(self.client, event.secret_id, ample, effects, self)
        versions = keeper.describe_secret()
        versions.check(event.client_request_token, event.step)
        database = WatchedPostgres(SslMode.DISABLE, SHIPPED_BUNDLE, deadline, effects=effects)
        superusers = Superusers(
            lambda arn: WatchedSecretsManager(self.client, arn, ample, effects, self),
            lambda: pytest.fail("No call to RDS is due here."),
            SETTINGS,
        )
        now = Rotation(event.client_request_token, versions, keeper, database, deadline, superusers, self.strategy)
        match event.step:
            case Step.CREATE_SECRET:
                steps.create_secret(now, SETTINGS.password_policy)
            case Step.SET_SECRET:
                steps.set_secret(now)
            case Step.TEST_SECRET:
                steps.test_secret(now)
            case Step.FINISH_SECRET:
                steps.finish_secret(now)
            case Step.PREFLIGHT:
                raise ValueError("A preflight is no step of a rotation.")

    def _await_logouts(self, column: str, those: Sequence[object]) -> None:
        """Wait until the server has seen that sockets are closed, and let go of locks, which takes it a moment."""
        left = f"SELECT pid FROM pg_stat_activity WHERE {column} = ANY (%s)"
        wait_until(lambda: not self.query(left, those), "the server ends its sessions")

    def cut_off(self, *, committed: bool = False) -> None:
        """Lose the connections that the function has; if `committed`, when the server has got its COMMIT."""
        for session in self._watched.sessions:
            connection = session._connection
            if connection.closed:
                continue
            if committed and connection.info.transaction_status == TRANSACTION_STATUS_INTRANS:
                connection.cursor().execute("COMMIT")
            with socket(fileno=os.dup(connection.fileno())) as tcp:
                tcp.shutdown(SHUT_RDWR)
        at_work = "SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s) AND wait_event IS DISTINCT FROM 'SyncRep'"
        wait_until(lambda: not self.query(at_work, self._watched.backends), "the server sees that they are gone")

    def confirm(self) -> None:
        """Do as a standby that is back: whatever waits for it is committed."""
        waiting = "pg_stat_activity WHERE usename = ANY (%s) AND wait_event = 'SyncRep'"
        self.query(f"SELECT pg_cancel_backend(pid) FROM {waiting}", self.roles)

    # What Secrets Manager does.

    def begin(self) -> str:
        self.abandoned |= "AWSPENDING" in self.labels and self.labels["AWSPENDING"] != self.labels["AWSCURRENT"]
        token = rotation.begin(self.client, self.arn, self.keeper.function_arn)
        self.story.append(f"RotateSecret begins {token[:4]}")
        return token

    def go_on(
        self, token: str, steps: Sequence[str] = rotation.STEPS, acts: Mapping[str, Acts] = {}, *, rest: str = ""
    ) -> RotationError | KilledError | None:
        """Invoke the steps in order until one fails, and return its failure.

        `rest` says what comes after, where that is all: raises KnownFutureError where all this has been seen already.
        """
        for number, step in enumerate(steps):
            if rest and self.knows((rest, *steps[number:]), token):
                raise KnownFutureError
            failure = self.take(step, token, acts.get(step, {}))
            if failure:
                return failure
        if steps[-1] == "finishSecret":
            self.abandoned = False
        return None

    def rotate(self, *, rest: str = "") -> RotationError | KilledError | None:
        return self.go_on(self.begin(), rest=rest)

    def heal(self, *, rest: str = "") -> RotationError | KilledError | None:
        """Rotate; under alternating users what somebody stored wrongly by hand has to be put right by hand, too."""
        if self.alternates and not self.current_logs_in():
            before = self._rows()
            assert isinstance(self.rotate(), LoginRefusedError), self.tell("a rotation is not stopped")
            assert self._rows() == before, self.tell("a rotation was stopped after a change")
            self.put_by_hand(works=True)
        return self.rotate(rest=rest)

    def cancel(self) -> None:
        rotation.cancel(self.client, self.arn)
        self.abandoned = True
        self.story.append("CancelRotateSecret, AWSPENDING removed")

    def put_by_hand(self, *, works: bool, abandon: bool = True) -> None:
        """PutSecretValue of a new AWSCURRENT, of which the database knows or not; AWS abandons the rotation by it."""
        version, before = str(uuid4()), self.labels["AWSCURRENT"]
        value = {**json.loads(self.values[before]), "password": secrets.token_hex(8)}
        value |= shapes.copies(value["username"], value["password"], COPIES)
        new = sql.SQL("PASSWORD {}").format(sql.Literal(value["password"]))
        if works and not self.alter(new, value["username"]):
            return
        if not works:
            self.wrong.add(version)
        which = {"SecretId": self.arn}
        text = json.dumps(value)
        self.client.put_secret_value(**which, ClientRequestToken=version, SecretString=text, VersionStages=["BY-HAND"])
        move = {"VersionStage": "AWSCURRENT", "MoveToVersionId": version, "RemoveFromVersionId": before}
        self.client.update_secret_version_stage(**which, **move)
        self.client.update_secret_version_stage(**which, VersionStage="BY-HAND", RemoveFromVersionId=version)
        if abandon:
            self._detach_pending()
        self.abandoned = True
        self.story.append(f"PutSecretValue by hand, of what {'works' if works else 'does not work'}")

    def amend(self, changes: Mapping[str, object]) -> None:
        """Change keys of AWSCURRENT where it is."""
        version = self._secret.versions[self.labels["AWSCURRENT"]]
        version["secret_string"] = json.dumps({**json.loads(version["secret_string"]), **changes})

    def _detach_pending(self) -> None:
        if version := self.labels.get("AWSPENDING"):
            stage = {"VersionStage": "AWSPENDING", "RemoveFromVersionId": version}
            self.client.update_secret_version_stage(SecretId=self.arn, **stage)

    # What the administrator does.

    def _log_in_as_administrator(self) -> None:
        self._admin = self.server.connect(self.server.superuser, self.server.password)
        self._admin.autocommit = True
        self.query("SET lock_timeout = '100ms'")
        self.query("SELECT set_config('password_encryption', %s, false)", self.encryption)
        rows = [
            f"SELECT '{catalog}', to_jsonb(it)::text FROM {catalog} AS it WHERE {rows}"
            for catalog, rows in CATALOGS.items()
        ]
        self.query(f"PREPARE rows (name[]) AS {OURS.format('$1')} {' UNION ALL '.join(rows)}")

    def restart(self) -> None:
        self._admin.close()
        self.server.restart()
        self._log_in_as_administrator()

    def end_sessions(self) -> None:
        """End every session of the world's roles."""
        ends = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = ANY (%s)"
        self.query(ends, self.roles)

    def query(self, query: str | sql.Composed, *parameters: object) -> list[tuple[Any, ...]]:
        with self._admin.cursor() as cursor:
            cursor.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def alter(self, clause: str | sql.Composed, user: str = "") -> bool:
        """ALTER ROLE …; False where the function is between its own and COMMIT, or has not made the role yet."""
        composed = sql.SQL(clause) if isinstance(clause, str) else clause
        try:
            self.query(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(user or self.role), composed))
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.UndefinedObject):
            return False
        return True

    def hold(self, role: str) -> Connection:
        """Return a session that holds the role's row, as an unfinished change would, until it is closed."""
        holder = self.server.connect(self.server.superuser, self.server.password)
        with holder.cursor() as cursor:
            cursor.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(sql.Identifier(role)))
        return holder

    def expire(self) -> None:
        """Have every password refused of the user whose password changes."""
        self.barred = self.next_user
        if self.alter("VALID UNTIL '-infinity'", self.barred):
            self.door = "expired"

    def shut(self) -> None:
        """Have that user sent away from the rotation's database before it is asked for a password."""
        self.barred = self.next_user
        self.server.use_hba(f"host postgres {self.barred} all reject", self.server.default_hba)
        self.door = "shut"

    def readmit(self) -> None:
        """Undo either."""
        if self.door == "shut":
            self.server.use_hba(self.server.default_hba)
        if self.door != "expired" or self.alter("VALID UNTIL 'infinity'", self.barred):
            self.door = "open"

    @contextmanager
    def readmitted(self) -> Iterator[bool]:
        """Undo either for anybody but who is interrupted, and tell whether that was possible."""
        again = {"open": self.readmit, "expired": self.expire, "shut": self.shut}[self.door]
        self.readmit()
        yield self.door == "open"
        again()

    def drop(self) -> None:
        """Remove the roles, and log out."""
        self._await_logouts("usename", self.roles)
        self.query(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.SQL(", ").join(map(sql.Identifier, self.roles))))
        self._admin.close()


def belongs(password: str, user: str, verifier: str) -> bool:
    """Tell whether the verifier was made of the password, which is ASCII (RFC 5802, and PostgreSQL's md5)."""
    if not verifier.startswith("SCRAM-SHA-256$"):
        return verifier == f"md5{md5((password + user).encode(), usedforsecurity=False).hexdigest()}"
    iterations, salt, stored = re.split("[$:]", verifier)[1:4]
    salted = pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(iterations))
    return sha256(hmac.digest(salted, b"Client Key", "sha256")).digest() == b64decode(stored)


def make_world(
    server: PostgresServer,
    keeper: SecretsManagerServer,
    *,
    strategy: Strategy = Strategy.SINGLE_USER,
    port: int | None = None,
    encryption: str = "scram-sha-256",
    options: str = "",
) -> World:
    """Make a role and its secret, and a superuser where the strategy needs one; who calls drops it."""
    role = f"app_{uuid4().hex[:8]}"
    where = {"host": "127.0.0.1", "port": port or server.port, "dbname": "postgres", "sslmode": "disable"}
    secret = {"engine": "postgres", **where, "username": role, "password": secrets.token_hex(8)}
    master = {
        **secret,
        "username": role.replace("app", "master"),
        "password": secrets.token_hex(8),
        "dbname": ELSEWHERE,
    }
    if strategy is not Strategy.SINGLE_USER:
        secret["masterarn"] = keeper.create_secret(f"test/crash/{master['username']}", master)
    copies = shapes.copies(str(secret["username"]), str(secret["password"]), COPIES)
    arn = keeper.create_secret(f"test/crash/{role}", {**secret, **copies})
    client = make_client(keeper, arn, over_http=MODE == "every")
    world = World(server, keeper, role, arn, client, strategy, encryption)
    for login, rights in (secret, options), (master, "CREATEROLE"):
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        world.query(create.format(sql.Identifier(str(login["username"])), sql.Literal(login["password"])))
        if rights:
            world.alter(rights, str(login["username"]))
    if server.version >= 16:
        world.query(f"GRANT {role} TO {world.superuser} WITH ADMIN OPTION")
    return world


@contextmanager
def world_of(*servers: Any, **options: Any) -> Iterator[World]:  # noqa: ANN401 - make_world's own
    """Make a world, and drop it afterwards."""
    world = make_world(*servers, **options)
    try:
        yield world
    finally:
        world.drop()
