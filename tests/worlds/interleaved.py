"""One secret and its server, for invocations and people who act at the same time; what must hold after every effect.

Both are the fakes that the contracts hold to what Secrets Manager and PostgreSQL do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING

from rotation_lambda import steps
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import HOLD_S, REPORT_S
from rotation_lambda.errors import DatabaseTimeoutError, PasswordChangeError, RotationError
from rotation_lambda.event import Step
from rotation_lambda.postgres.session import LOCK_TIMEOUT_S
from rotation_lambda.rotation import Rotation
from rotation_lambda.settings import Settings, Strategy
from rotation_lambda.staging import StagingLabel
from tests.worlds.explorer import KilledError
from tests.worlds.fakes import FakeClock, FakeDatabase, FakeSecretsManager, FakeSession, FakeSuperusers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from rotation_lambda.rotation import Proof
    from rotation_lambda.settings import PasswordPolicy
    from tests.worlds.explorer import Run

POLICY = Settings.from_environment({}).password_policy
CURRENT, PENDING, PREVIOUS = StagingLabel.CURRENT, StagingLabel.PENDING, StagingLabel.PREVIOUS
STEPS = CREATE, SET, TEST, FINISH = Step.CREATE_SECRET, Step.SET_SECRET, Step.TEST_SECRET, Step.FINISH_SECRET
STEP_S, SILENCE_S = 40.0, 10.0
SECRETS_MANAGER, DATABASE = 0, 1
MASTER = Credential("db.example", 5432, "postgres", "master", "the master's")
BY_HAND = "by hand"

loads = cache(json.loads)


class Mishap(Enum):
    """What befalls an invocation."""

    NONE = auto()
    DEAF = auto()
    """It hears no answer to a login."""
    DEAF_AFTER_ITS_CHANGE = auto()
    """… once it has changed a password."""
    COMMIT_GETS_LOST = auto()
    """Its session breaks before the server has its first COMMIT, …"""
    ANSWER_GETS_LOST = auto()
    """… or after."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A strategy, and how the world is otherwise."""

    strategy: Strategy
    dbname: str = "postgres"
    most_sessions: int | None = None
    """How many sessions a user may have."""
    may_change_itself: bool = True
    """Whether a user may change its own password."""
    clears_pending: bool = False
    """Whether Secrets Manager removes AWSPENDING when AWSCURRENT moves to its version."""
    notices_death: bool = True
    """Whether the server ends a session at once whose client is dead, or by its own timeouts."""


@dataclass(slots=True)
class Clock(FakeClock):
    """A clock by which others act while one sleeps."""

    run: Run = field(kw_only=True)

    def sleep(self, seconds: float) -> None:
        self.run.sleep(seconds)


@dataclass(slots=True)
class Secret(FakeSecretsManager):
    """The fake with the same passwords in each run; the world is told where AWSCURRENT has moved."""

    world: World = field(kw_only=True)

    def get_random_password(self, policy: PasswordPolicy) -> str:
        return f"the {len(self.calls)}. call's"

    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None:
        FakeSecretsManager.update_secret_version_stage(self, label, move_to=move_to, remove_from=remove_from)
        self.world.see_move(remove_from, move_to)


@dataclass(slots=True)
class Server(FakeDatabase):
    """The fake with timeouts and mishaps; the world is told of rows that were taken, and of changes."""

    world: World = field(kw_only=True)
    ends: dict[FakeSession, float] = field(default_factory=dict)
    """When the server ends a session that idles in a transaction."""

    def alter(self, session: FakeSession, role: str) -> None:
        if session.credential.username == role and not self.world.setting.may_change_itself:
            raise PasswordChangeError("permission denied", sqlstate="42501")
        FakeDatabase.alter(self, session, role)
        self.world.see_lock(session)

    def commit(self, session: FakeSession, role: str, password: str) -> None:
        mishap = self.world.mishap()
        if self.ends[session] <= self.world.clock.now:
            raise PasswordChangeError("terminating connection due to idle-in-transaction", sqlstate=None, lost=True)
        if mishap is Mishap.COMMIT_GETS_LOST:
            self.end(session)
            raise PasswordChangeError("COMMIT: the session broke", sqlstate=None, in_doubt=True)
        self.world.see_change(password)
        FakeDatabase.commit(self, session, role, password)
        if mishap is Mishap.ANSWER_GETS_LOST:
            self.end(session)
            raise PasswordChangeError("COMMIT: the session broke", sqlstate=None, in_doubt=True)

    def end(self, session: FakeSession) -> None:
        if self.world.setting.notices_death or not self.world.is_dead:
            FakeDatabase.end(self, session)

    def end_idle(self, now: float) -> None:
        for session in [*self.rows.values()]:
            if self.ends[session] <= now:
                FakeDatabase.end(self, session)


@dataclass(slots=True)
class Invocation:
    """A step at work; what it has seen and done is what its end is held against."""

    actor: str
    step: Step
    token: str
    end: float
    mishap: Mishap
    committed: bool = False
    labels: dict[StagingLabel, str] = field(default_factory=dict)
    """… where they were when it altered the role."""
    moved: bool = False
    logs_in: bool = False
    """Whether AWSCURRENT has logged in since it moved."""

    def state(self) -> Hashable:
        return self.step, self.token, self.end, self.committed, tuple(self.labels.items()), self.moved, self.logs_in


@dataclass(frozen=True, slots=True)
class Way:
    """An invocation's way to the database, on which answers can get lost."""

    world: World
    me: Invocation

    def sslmode_of(self, credential: Credential) -> SslMode:
        return self.world.server.sslmode_of(credential)

    def log_in(self, credential: Credential, *, scram_only: bool = False, reserve: float = 0.0) -> FakeSession:
        world, me = self.world, self.me
        deaf = me.mishap is Mishap.DEAF or (me.mishap is Mishap.DEAF_AFTER_ITS_CHANGE and me.committed)
        if deaf or world.silent:
            world.act("log in, no answer")
            world.clock.sleep(min(SILENCE_S, max(0.0, me.end - reserve - world.clock.now)))
            raise DatabaseTimeoutError("no answer")
        return world.own(world.server.log_in(credential, scram_only=scram_only, reserve=reserve))


@dataclass(slots=True)
class World:
    """What the function, Secrets Manager and people do; `abandoned`, `wrong` and `trouble` excuse what comes of it."""

    run: Run
    setting: Setting
    kind: type[Server] = Server
    clock: Clock = field(init=False)
    secret: Secret = field(init=False)
    server: Server = field(init=False)
    owners: dict[FakeSession, str] = field(default_factory=dict)
    at_work: dict[str, Invocation] = field(default_factory=dict)
    memory: dict[str, dict[str, Proof]] = field(default_factory=dict)
    silent: bool = False
    abandoned: bool = False
    """A rotation was cancelled or overruled, so that a version without a label may be the one that logs in."""
    wrong: set[str] = field(default_factory=set)
    """Versions that do not log in by people's doing."""
    trouble: bool = False
    """A step has failed, or was killed."""

    def __post_init__(self) -> None:
        self.clock = Clock(run=self.run)
        self.secret = Secret(effect=self.ask, world=self)
        self.server = self.kind("app", "the current one's", effect=self.act, wait=self.wait, world=self)
        login = {"engine": "postgres", "host": "db.example", "dbname": self.setting.dbname, "username": "app"}
        self.server.others[MASTER.username] = MASTER.password
        if self.setting.strategy is not Strategy.SINGLE_USER:
            login["masterarn"] = "arn:aws:secretsmanager:…:master"
        if self.alternates:
            self.server.others["app_clone"] = "the previous one's"
        if self.setting.most_sessions:
            self.server.limits["app"] = self.setting.most_sessions
        for version, label in ("previous", PREVIOUS), ("current", CURRENT):
            self.secret.values[version] = json.dumps({**login, "password": f"the {version} one's"})
            self.secret.labels[label] = version

    @property
    def alternates(self) -> bool:
        return self.setting.strategy is Strategy.ALTERNATING_USERS

    @property
    def labels(self) -> dict[StagingLabel, str]:
        return self.secret.labels

    def logs_in(self) -> set[str]:
        """Return the versions whose password is in force."""
        passwords, values = self.server.passwords, self.secret.values
        logins = {version: loads(value) for version, value in values.items()}
        return {version for version, login in logins.items() if passwords.get(login["username"]) == login["password"]}

    # What the explorer asks.

    def places(self) -> tuple[Hashable, Hashable]:
        secret, server = self.secret, self.server
        rows = tuple((role, self.owners[session], server.ends[session]) for role, session in server.rows.items())
        sessions = tuple(self.owners[session] for session in server.sessions if server.limits)
        return (
            (tuple(secret.values.items()), tuple(secret.labels.items())),
            (self.silent, tuple(server.passwords.items()), tuple(server.written.items()), rows, sessions),
        )

    def notes(self) -> Hashable:
        at_work = tuple((name, one.state()) for name, one in self.at_work.items())
        return at_work, repr(self.memory), self.abandoned, frozenset(self.wrong), self.trouble

    # What the explorer is told of.

    @property
    def actor(self) -> str:
        return self.run.current.name if self.run.current else ""

    @property
    def is_dead(self) -> bool:
        return bool(self.run.current and self.run.current.dead)

    @property
    def me(self) -> Invocation | None:
        return self.at_work.get(self.actor)

    def ask(self, call: str) -> None:
        """Be about to call Secrets Manager. What a version holds never changes: it is as well read at another time."""
        if call != "GetSecretValue":
            self._come_to(call, SECRETS_MANAGER)

    def act(self, what: str) -> None:
        """Be about to do something in the database. A session that holds nothing ends as well at another time."""
        holds = self.actor in map(self.owners.get, self.server.rows.values())
        if holds or self.server.limits or what not in {"SELECT", "log out"}:
            self._come_to(what, DATABASE)
        self.server.end_idle(self.clock.now)

    def _come_to(self, effect: str, place: int) -> None:
        self.run.effect(effect, place)
        if self.me and self.clock.now > self.me.end + REPORT_S:
            self.run.story.append(f"{self.actor}: Task timed out")
            raise KilledError

    def wait(self, freed: Callable[[], bool]) -> bool:
        self.run.wait(freed, LOCK_TIMEOUT_S)
        self.server.end_idle(self.clock.now)
        return freed()

    def own(self, session: FakeSession) -> FakeSession:
        self.owners[session] = self.actor
        return session

    def mishap(self) -> Mishap:
        """Return what befalls a COMMIT; the first one, once."""
        return self.me.mishap if self.me and not self.me.committed else Mishap.NONE

    # What must hold.

    def look(self) -> None:
        """See that somebody can log in, and under alternating users that AWSCURRENT can."""
        logs_in, current = self.logs_in(), self.labels[CURRENT]
        assert logs_in, "nobody can log in"
        assert self.abandoned or logs_in & set(self.labels.values()), "only a version without a label logs in"
        if self.alternates:
            assert current in logs_in | self.wrong, "AWSCURRENT does not log in"
        for one in self.at_work.values():
            one.logs_in |= one.moved and current == one.token and current in logs_in

    def see_lock(self, session: FakeSession) -> None:
        """Note where the labels are, and when the server ends the transaction if nothing more comes."""
        self.server.ends[session] = float("inf")
        if self.me:
            self.me.labels = dict(self.labels)
            self.server.ends[session] = self.me.end if self.me.step is FINISH else self.clock.now + HOLD_S

    def see_change(self, password: str) -> None:
        """See that it is AWSPENDING's or AWSCURRENT's password that comes into force.

        Where the labels have moved since ALTER ROLE, nobody could know it.
        """
        if self.me:
            self.me.committed = True
            values = [self.secret.values.get(self.labels.get(label, "")) for label in (CURRENT, PENDING)]
            passwords = {loads(value)["password"] for value in values if value}
            assert password in passwords or self.me.labels != self.labels, "another version comes into force"

    def see_move(self, remove_from: str, move_to: str) -> None:
        """See that AWSCURRENT logs in where it did, and note that it has moved."""
        before, after = (loads(self.secret.values[version]) for version in (remove_from, move_to))
        same = {"host", "dbname", "masterarn"}
        assert {key: before.get(key) for key in same} == {key: after.get(key) for key in same}, "a login gets lost"
        if self.setting.clears_pending and self.labels.get(PENDING) == move_to:
            del self.labels[PENDING]
        if self.me:
            self.me.moved, self.me.logs_in = True, False

    def see_end(self, me: Invocation, failure: RotationError | None) -> None:
        """See that a step which has ended leaves nothing behind, and that success is one."""
        self.look()
        assert me.actor not in map(self.owners.get, self.server.sessions), "a session stays open"
        if failure is None and me.moved:
            newer = self.labels.get(PENDING, me.token) != me.token
            blind = newer and me.mishap is Mishap.DEAF  # nobody could know of the new rotation, which will mend it
            assert me.logs_in or blind, "finishSecret succeeds, and AWSCURRENT has not logged in since"

    def settle(self) -> None:
        """See that what was said at the end is so, and that the next tries complete the rotation, or a new one."""
        self.silent = False
        done = self.labels.get(PENDING) in {None, self.labels[CURRENT]}
        if done and not self.trouble:
            assert self.labels[CURRENT] in self.logs_in() | self.wrong, "AWSCURRENT does not log in at the end"
        if self.alternates and self.labels[CURRENT] in self.wrong:
            self._move_by_hand(min(self.logs_in()))
        for _ in range(2):
            self.clock.now += STEP_S  # the dead are gone by then
            token = self.labels.get(PENDING)
            if token in {None, self.labels[CURRENT]}:
                token = f"{len(self.secret.calls)}th call's"
                self.begin(token)
            if all(self.take(step, token) for step in STEPS):
                assert self.labels[CURRENT] in self.logs_in(), "AWSCURRENT does not log in after another rotation"
                return
            self.cancel()
        raise AssertionError("no further rotation succeeds")

    # What the function does.

    def take(self, step: Step, token: str, mishap: Mishap = Mishap.NONE) -> bool:
        """Take a step; tell whether it succeeded."""
        me = Invocation(self.actor, step, token, self.clock.now + STEP_S, mishap)
        self.at_work[me.actor] = me
        failure = None
        try:
            self._take(me)
        except RotationError as error:
            failure, self.trouble = error, True
        except KilledError:
            self.trouble = True
            del self.at_work[me.actor]
            self._end_sessions()
            raise
        outcome = f"{type(failure).__name__}: {failure}" if failure else "succeeds"
        self.run.story.append(f"{me.actor}: {step} of {token}: {outcome}")
        self.see_end(me, failure)
        del self.at_work[me.actor]
        return failure is None

    def _take(self, me: Invocation) -> None:
        """Do as the handler does."""
        versions = self.secret.describe_secret()
        versions.check(me.token, me.step)
        memory = self.memory.setdefault(me.actor, {})
        if me.token not in memory:
            memory.clear()
        deadline = self.clock.deadline(me.end - self.clock.now)
        way, superusers = Way(self, me), FakeSuperusers(MASTER)
        now = Rotation(me.token, versions, self.secret, way, deadline, superusers, self.setting.strategy, memory)
        match me.step:
            case Step.CREATE_SECRET:
                steps.create_secret(now, POLICY)
            case Step.SET_SECRET:
                steps.set_secret(now)
            case Step.TEST_SECRET:
                steps.test_secret(now)
            case Step.FINISH_SECRET:
                steps.finish_secret(now)
            case Step.PREFLIGHT:
                raise ValueError("A preflight is no step of a rotation.")

    def _end_sessions(self) -> None:
        for session in [one for one in self.server.sessions if self.owners[one] == self.actor]:
            self.server.end(session)

    # What Secrets Manager does.

    def begin(self, token: str) -> bool:
        self.ask("RotateSecret")
        self.abandoned |= self.labels.get(PENDING) not in {None, self.labels[CURRENT]}
        self.labels[PENDING] = token
        return True

    def cancel(self) -> bool:
        self.ask("CancelRotateSecret")
        self.abandoned = True
        self.labels.pop(PENDING, None)
        return True

    # What people do.

    def store_another_login(self) -> bool:
        """Store what logs in with another database's name; the rotation goes on."""
        self.ask("PutSecretValue by hand")
        current, logs_in = self.labels[CURRENT], self.logs_in()
        like = current if current in logs_in else min(logs_in)
        self.secret.values[BY_HAND] = json.dumps({**loads(self.secret.values[like]), "dbname": "another"})
        return self._move_by_hand(BY_HAND)

    def change_by_hand(self) -> bool:
        """Change the password of AWSCURRENT's user, which has been stored under a label of one's own."""
        self.ask("PutSecretValue by hand")
        current = loads(self.secret.values[self.labels[CURRENT]])
        self.secret.values[BY_HAND] = json.dumps({**current, "password": BY_HAND})
        self.secret.labels["BY-HAND"] = BY_HAND  # type: ignore[index]
        self.wrong.add(self.labels[CURRENT])
        return self._alter_by_hand(current["username"], BY_HAND)

    def store_the_change(self) -> bool:
        """Make it AWSCURRENT, by which the rotation is abandoned."""
        self.ask("UpdateSecretVersionStage by hand")
        for label in [label for label in self.labels if label in {PENDING, "BY-HAND"}]:
            del self.labels[label]
        return self._move_by_hand(BY_HAND)

    def move_back(self) -> bool:
        self.ask("UpdateSecretVersionStage by hand")
        return self._move_by_hand(self.labels[PREVIOUS])

    def _move_by_hand(self, version: str) -> bool:
        self.abandoned = True
        self.labels[PREVIOUS], self.labels[CURRENT] = self.labels[CURRENT], version
        if version not in self.logs_in():
            self.wrong.add(version)
        return True

    def hold_the_row(self) -> bool:
        """Hold the row of the next user, as any user with CONNECT can from PostgreSQL 16 on."""
        return self._alter_by_hand("app_clone" if self.alternates else "app", None)

    def _alter_by_hand(self, role: str, password: str | None) -> bool:
        session = self.own(FakeSession(self.server, MASTER))
        self.server.sessions.append(session)
        self.act("ALTER ROLE by hand")
        try:
            self.server.alter(session, role)
        except RotationError:
            return False
        if password:
            self.server.commit(session, role, password)
            self.server.end(session)
        return True

    def release_the_row(self) -> bool:
        self.act("ROLLBACK by hand")
        self._end_sessions()
        return True

    def fall_silent(self) -> bool:
        self.act("the database falls silent")
        self.silent = True
        return True

    def answer(self) -> bool:
        self.act("the database answers")
        self.silent = False
        return True
