"""Stand-ins in memory for what is outside, held true by the contracts in test_secrets_manager, _postgres and _rds."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rotation_lambda.credential import SslMode
from rotation_lambda.deadline import Deadline
from rotation_lambda.errors import (
    AccessDeniedError,
    DatabaseError,
    DatabaseReadOnlyError,
    LoginNotAllowedError,
    LoginRefusedError,
    MissingVersionError,
    PasswordChangeError,
    RoleLockedError,
    RoleNotPreparedError,
    RotationError,
    SecretsManagerError,
)
from rotation_lambda.postgres.roles import Identity
from rotation_lambda.secrets_manager import Description
from rotation_lambda.staging import SecretVersions, StagingLabel
from rotation_lambda.trust import TAG

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotation_lambda.credential import Credential
    from rotation_lambda.rds import Server
    from rotation_lambda.settings import PasswordPolicy
    from rotation_lambda.trust import Trust


@dataclass(slots=True)
class FakeSecretsManager:
    """One secret: what each version holds, and which label is on which version.

    `effect` is called by name before each call, so that others can act in between.
    """

    values: dict[str, str] = field(default_factory=dict)
    labels: dict[StagingLabel, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    rotation_tokens: list[str | None] = field(default_factory=list)
    trouble: dict[str, RotationError] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    stale_reads: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    effect: Callable[[str], None] = lambda _: None

    def _call(self, operation: str) -> None:
        self.effect(operation)
        self.calls.append(operation)
        if error := self.trouble.get(operation):
            raise error

    def describe_secret(self) -> SecretVersions:
        self._call("DescribeSecret")
        versions: dict[str, frozenset[str]] = {}
        for label, version in self.labels.items():
            versions[version] = versions.get(version, frozenset()) | {label}
        users = frozenset(self.tags.get(TAG, "").split())
        return SecretVersions(versions, rotation_enabled=True, users=users)

    def describe(self) -> Description:
        """Return the labels and the tags; of the rest this secret has nothing."""
        return Description(
            arn="arn:aws:secretsmanager:eu-west-1:123456789012:secret:app-AbCdEf",
            versions=self.describe_secret(),
            function_arn=None,
            schedule=None,
            last_rotated=None,
            next_rotation=None,
            kms_key=None,
            tags={name.lower(): value for name, value in self.tags.items()},
            clock=None,
        )

    def get_secret_value(self, version: str) -> str:
        self._call("GetSecretValue")
        if version in self.unreadable:
            raise AccessDeniedError("GetSecretValue could not use the secret's KMS key (DecryptionFailure).")
        stale = self.stale_reads > 0 and version == self.labels.get(StagingLabel.PENDING)
        self.stale_reads -= stale
        if stale or version not in self.values:
            raise MissingVersionError(f"Version {version} has no value.")
        return self.values[version]

    def get_random_password(self, policy: PasswordPolicy) -> str:
        self._call("GetRandomPassword")
        return secrets.token_hex(policy.length)[: policy.length]

    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool:
        self._call("PutSecretValue")
        self.rotation_tokens.append(rotation_token)
        if self.values.get(version, value) != value:
            return False
        self.values[version] = value
        self.labels[StagingLabel.PENDING] = version
        return True

    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None:
        self._call("UpdateSecretVersionStage")
        if self.labels[label] != remove_from:
            if self.describe_secret().with_label(label) == move_to:
                return
            raise SecretsManagerError("UpdateSecretVersionStage failed with InvalidParameterException.")
        self.labels[StagingLabel.PREVIOUS] = remove_from
        self.labels[label] = move_to

    def list_secret_version_ids(self) -> list[str]:
        """Return the versions as they were made, in reverse."""
        self._call("ListSecretVersionIds")
        return list(self.values)[::-1]


@dataclass(slots=True)
class FakeRds:
    """Instances and clusters, which are told apart by their ARNs; `calls` has whom it was asked for."""

    servers: list[Server] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    trouble: RotationError | None = None

    def describe_db_instances(self, identifier: str) -> Server | None:
        return self._find(":db:", identifier)

    def describe_db_clusters(self, identifier: str) -> Server | None:
        return self._find(":cluster:", identifier)

    def _find(self, kind: str, identifier: str) -> Server | None:
        self.calls.append(identifier)
        if self.trouble:
            raise self.trouble
        ours = (server for server in self.servers if kind in server.arn)
        return next((server for server in ours if identifier in {server.name, server.arn}), None)


def identity(
    runs_as: str = "app", starts_as: str = "app", *, has_rights: bool = True, clone_owns: list[str] | None = None
) -> Identity:
    """Return as whom a session runs; as it should be, where nothing is said."""
    return Identity(runs_as, starts_as, has_rights, clone_owns or [])


@dataclass(slots=True)
class FakeSuperusers:
    """Knows the superuser of every secret, or the error that stands in the way; `asked` for which credentials."""

    superuser: Credential | None = None
    pinned: bool = True
    trouble: RotationError | None = None
    asked: list[Credential] = field(default_factory=list)

    def of(self, current: Credential) -> Credential:
        self.asked.append(current)
        if self.trouble:
            raise self.trouble
        assert self.superuser is not None, "No superuser is to be asked for here."
        return self.superuser


@dataclass(slots=True)
class FakeDatabase:
    """One server with one role, and `others` by name. `trouble` says, by password, what a login raises.

    Of each login `logins` has the credential, and `reserves` how many seconds it is to leave.
    A superuser's changes are in `plans`: for whom, and whether one of the secret's passwords or its tag spoke for it;
    of users in `doubt` the superuser asks that as well as of AWSCURRENT's. `notes` are what they tell,
    and `identities` as whom sessions run, by user. A host that `lags` refuses so many logins before it has replayed a
    change. `at_login` has what is called at the login of that number, so that others can act in between; `effect` is
    called by name before each login, statement and COMMIT.

    There are `limits`, by user, to the open `sessions`. `rows` are the rows of pg_authid, by role, that a transaction
    has altered: all others wait for its end, in every database, as long as `wait` does for what it is given; in one
    thread nobody would end it. How often a row was `written` tells a waiter that it waited for another version of it.
    """

    role: str
    password: str
    trouble: dict[str, DatabaseError] = field(default_factory=dict)
    change_trouble: list[DatabaseError] = field(default_factory=list)
    logins: list[Credential] = field(default_factory=list)
    reserves: list[float] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    scram_only: set[str] = field(default_factory=set)
    any_method: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)
    doubt: set[str] = field(default_factory=set)
    plans: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    identities: dict[str, Identity] = field(default_factory=dict)
    lags: dict[str, int] = field(default_factory=dict)
    sessions: list[FakeSession] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    locked: int = 0
    locks: list[str] = field(default_factory=list)
    in_recovery: bool = False
    at_login: dict[int, Callable[[], None]] = field(default_factory=dict)
    effect: Callable[[str], None] = lambda _: None
    wait: Callable[[Callable[[], bool]], bool] = lambda freed: freed()
    rows: dict[str, FakeSession] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)

    @property
    def open_sessions(self) -> int:
        return len(self.sessions)

    @property
    def passwords(self) -> dict[str, str]:
        """The password of each role, as it was committed."""
        return {**self.others, self.role: self.password}

    def sslmode_of(self, credential: Credential) -> SslMode:
        return credential.sslmode or SslMode.VERIFY_FULL

    def log_in(self, credential: Credential, *, scram_only: bool = False, reserve: float = 0.0) -> FakeSession:
        self.effect("log in")
        self.logins.append(credential)
        self.reserves.append(reserve)
        (self.scram_only if scram_only else self.any_method).add(credential.password)
        if act := self.at_login.get(len(self.logins)):
            act()
        if error := self.trouble.get(credential.password):
            raise error
        if self.changes and self.lags.get(credential.host):
            self.lags[credential.host] -= 1
            raise LoginRefusedError(f"Role {credential.username}: refused on a replica that lags.")
        if self.passwords.get(credential.username) != credential.password:
            raise LoginRefusedError(f"Role {credential.username}: refused.")
        users = [session.credential.username for session in self.sessions]
        if users.count(credential.username) >= self.limits.get(credential.username, 100):
            raise LoginNotAllowedError(f"Role {credential.username}: too many connections.")
        self.sessions.append(FakeSession(self, credential))
        return self.sessions[-1]

    def alter(self, session: FakeSession, role: str) -> None:
        """Take the role's row for the session's transaction, once that of another is over."""
        self.locks.append(role)
        if self.locked:
            self.locked -= 1
            raise RoleLockedError("another transaction holds the role's row in pg_authid: process 4711.")
        before = self.written.get(role)
        if self.rows.get(role, session) is not session:
            if not self.wait(lambda: role not in self.rows):
                raise RoleLockedError("another transaction holds the role's row in pg_authid: process 4711.")
            if self.written.get(role) != before:
                raise PasswordChangeError("tuple concurrently updated", sqlstate="XX000")
        self.rows[role] = session

    def end(self, session: FakeSession) -> None:
        """End a session: what it has not committed is rolled back, and the rows that it altered are free."""
        self.sessions = [one for one in self.sessions if one is not session]
        self.rows = {role: holder for role, holder in self.rows.items() if holder is not session}

    def commit(self, session: FakeSession, role: str, password: str) -> None:
        """Have the role's new password seen by all others, and the row free."""
        if session not in self.sessions:
            raise PasswordChangeError("COMMIT was not sent: the session broke", sqlstate=None, lost=True)
        del self.rows[role]
        self.written[role] = self.written.get(role, 0) + 1
        self.changes.append(password)
        if role == self.role:
            self.password = password
        else:
            self.others[role] = password


@dataclass(slots=True, eq=False)
class FakeSession:
    """An open session."""

    database: FakeDatabase
    credential: Credential

    @property
    def runs_as(self) -> str:
        """As whom the session runs."""
        return self.database.identities.get(self.credential.username, identity()).runs_as

    @property
    def in_recovery(self) -> bool:
        return self.database.in_recovery

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out: what was not committed is rolled back, and locks are released."""
        self.database.effect("log out")
        self.database.end(self)

    def check_identity(self) -> list[str]:
        """Find the session as it should be, where nothing else is said of its user."""
        self.database.effect("SELECT")
        found = self.database.identities.get(self.credential.username, identity())
        found.check(self.credential)
        return found.clone_owns

    def hold_role(self, login: Credential) -> None:
        """Keep everybody else from changing the user's password until the session is closed."""
        self._alter(login.username)

    def is_alive(self) -> bool:
        self.database.effect("SELECT")
        return self in self.database.sessions

    def change_password(
        self, pending: Credential, confirm: Callable[[], None] = lambda: None, trust: Trust | None = None
    ) -> list[str]:
        """Change the password of the session's own user; or of either user, by trust, where it is the secret's own."""
        if trust:
            asked = [trust.current.username, *self.database.doubt & {pending.username}]
            self.database.plans.append((pending.username, all(map(trust.is_ours, asked))))
            if not self.database.plans[-1][1]:
                raise RoleNotPreparedError(f"User {pending.username} is not shown to be the secret's.")
        self._change(pending.username, pending.password, confirm)
        return self.database.notes if trust else []

    def _change(self, role: str, password: str, confirm: Callable[[], None]) -> None:
        self._alter(role)
        confirm()
        self.database.effect("COMMIT")
        self.database.commit(self, role, password)

    def _alter(self, role: str) -> None:
        if self.database.in_recovery:
            raise DatabaseReadOnlyError("a standby")
        self.database.effect("ALTER ROLE")
        if self.database.change_trouble:
            raise self.database.change_trouble.pop(0)
        if self not in self.database.sessions:
            raise PasswordChangeError("the session broke", sqlstate=None, lost=True)
        self.database.alter(self, role)


@dataclass(slots=True)
class FakeClock:
    """A clock that only sleeping moves; `pauses` are what was slept."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)
    budget: float = 60.0

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def deadline(self, seconds: float | None = None) -> Deadline:
        return Deadline(self.now + (self.budget if seconds is None else seconds), lambda: self.now, self.sleep)
