"""One rotation, whatever its strategy: the version it leads to, the outside world, and what all strategies do alike."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from rotation_lambda.credential import Credential
from rotation_lambda.deadline import RESERVE_S
from rotation_lambda.errors import (
    CredentialMismatchError,
    DatabaseError,
    DatabaseReadOnlyError,
    InvalidSecretError,
    LoginNotAllowedError,
    LoginRefusedError,
    PasswordChangeError,
    RoleLockedError,
    SecretsManagerError,
    VersionNotPendingError,
)
from rotation_lambda.staging import SecretVersions, StagingLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rotation_lambda.deadline import Deadline
    from rotation_lambda.settings import PasswordPolicy, Strategy

logger = logging.getLogger(__name__)

CHANGED_MEANWHILE = "40001"  # serialization_failure, PostgreSQL's word for the like
_TWIN = {CHANGED_MEANWHILE, "XX000", "40P01", "55P03"}  # … tuple concurrently updated, deadlock, lock timeout


class Secrets(Protocol):
    """What a rotation needs of Secrets Manager, for one secret."""

    def describe_secret(self) -> SecretVersions: ...
    def get_secret_value(self, version: str) -> str: ...
    def get_random_password(self, policy: PasswordPolicy) -> str: ...
    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool: ...
    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None: ...
    def list_secret_version_ids(self) -> list[str]: ...


class Session(Protocol):
    """What a rotation needs of a session in the database."""

    @property
    def credential(self) -> Credential: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def close(self) -> None: ...
    def try_lock(self, role: str) -> bool: ...
    def lock_holder(self, role: str) -> str: ...
    def check_identity(self) -> list[str]: ...
    def change_password(self, password: str, confirm: Callable[[], None] = ...) -> None: ...
    def change_password_of(
        self, current: Credential, pending: Credential, confirm: Callable[[], None], *, proved: bool
    ) -> list[str]: ...


class Database(Protocol):
    """What a rotation needs of the database: a session, LoginRefusedError, or an error that stops the step."""

    def log_in(self, credential: Credential, *, scram_only: bool = False) -> Session: ...


class Superusers(Protocol):
    """Finds the credential of the superuser that a secret names, once it is shown to be of the same database."""

    def of(self, current: Credential) -> Credential: ...


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation to the version `token`; `versions` are the labels as the step found them."""

    token: str
    versions: SecretVersions
    secrets: Secrets
    database: Database
    deadline: Deadline
    superusers: Superusers
    choice: Strategy

    old_one_works: ClassVar[bool] = False
    """Whether AWSCURRENT logs in until its label moves, so that nobody needs that to happen."""

    @staticmethod
    def next_user(current: Credential) -> str:
        """Return whose name the next credential bears."""
        return current.username

    def check_pending(self, current: Credential, pending: Credential) -> None:
        """Return when AWSPENDING is what createSecret makes of AWSCURRENT; otherwise raise CredentialMismatchError."""
        user = self.next_user(current)
        if pending.username != user and pending.username in {current.username, *current.pair}:
            raise CredentialMismatchError(
                f"AWSPENDING (version {self.token}) is for {pending.username!a} and was made under another strategy "
                f"(ROTATION_STRATEGY, or `masterarn`) than today's, whose next user is {user!a}."
            )
        pending.check_same_login(current.with_password(pending.password, user), self.token)

    def prove(self, credential: Credential, label: StagingLabel, version: str) -> Session | None:
        """Return an open session, or None where the password is right and the door stays shut; raise LoginRefusedError.

        A shut door, such as a reached connection limit, is no refusal: it is the password that rotates.
        """
        try:
            return self.database.log_in(credential)
        except LoginNotAllowedError as error:
            logger.warning("The password of %s is accepted, but: %s %s", label, error.what, error.hint)
            return None
        except LoginRefusedError as error:
            what = f"{label}, version {version}: {error.what}"
        raise LoginRefusedError(what)

    def promote(self, pending: Credential) -> None:
        """Move AWSCURRENT to AWSPENDING's version, once a login has proved it, under the role's lock.

        No answer is waited for until the reserve. Where the old password has not worked since setSecret, AWSCURRENT
        moves then all the same, with a warning: setSecret and testSecret had the proof, and waiting helps nobody. A
        refusal stops it.
        """
        while True:
            try:
                session = self.prove(pending, StagingLabel.PENDING, self.token)
            except DatabaseError as error:
                if not error.unknown:
                    raise
                if self.deadline.pause(1.0, RESERVE_S):
                    continue
                if self.old_one_works:
                    raise
                logger.warning("AWSCURRENT moves although the last login got no answer: %s", error.what)
                session = None
            if session is None:
                self._move()
                return
            with session:
                if not self._had_to_wait(session, pending.username):
                    self._move()
                    return

    def _move(self) -> None:
        """Move AWSCURRENT; where the old one works, not before the labels have been looked at under the lock.

        A rotation that has replaced this one can have set another password between our login and our lock.
        """
        try:
            if self.old_one_works:
                self._check_labels()
            self.secrets.update_secret_version_stage(
                StagingLabel.CURRENT, move_to=self.token, remove_from=self.versions.current
            )
        except (SecretsManagerError, VersionNotPendingError):
            if not self.secrets.describe_secret().is_current(self.token):  # a twin of this step was faster
                raise

    def _had_to_wait(self, session: Session, role: str) -> bool:
        """Take the role's lock; tell whether somebody else had it, in which case all that is known may be stale."""
        if session.try_lock(role):
            return False
        logger.info("Waiting for another rotation of this role: %s.", session.lock_holder(role))
        while self.deadline.pause(0.5, RESERVE_S):
            if session.try_lock(role):
                return True
        raise RoleLockedError(f"Another rotation of this role is at work: {session.lock_holder(role)}.")

    def _may_try_again(self, error: DatabaseError) -> bool:
        """Pause where fresh logins may find another state: a twin's change, or a new primary after a failover."""
        passes = isinstance(error, DatabaseReadOnlyError) or getattr(error, "sqlstate", None) in _TWIN
        return passes and self.deadline.pause(1.0, RESERVE_S)

    @contextmanager
    def _changed_by(
        self, superuser: Credential, current: Credential, pending: Credential, *, proved: bool
    ) -> Iterator[Session]:
        """Have the superuser change the password of AWSPENDING's user; the session, and its lock, outlive the verdict.

        The labels are looked at right before COMMIT: from ALTER ROLE on PostgreSQL keeps every other change of the role
        waiting, so that a rotation which was replaced meanwhile does not undo the password of the new one.
        """
        while True:
            with self._log_in_superuser(superuser) as session:
                if self._had_to_wait(session, pending.username):
                    self._check_labels()
                    continue
                try:
                    notes = session.change_password_of(current, pending, self._check_labels, proved=proved)
                except (PasswordChangeError, DatabaseReadOnlyError) as error:
                    if not self._may_try_again(error):
                        raise
                    continue
                for note in notes:
                    logger.warning(note)
                yield session
                return

    def _places(self, pending: Credential, superuser: Credential) -> list[Credential]:
        """Return where a changed password has to log in: on the superuser's server first, if that is another."""
        return [pending] if pending.address == superuser.address else [pending.at(superuser), pending]

    def _log_in_superuser(self, superuser: Credential) -> Session:
        try:
            return self.database.log_in(superuser, scram_only=True)
        except LoginRefusedError as error:
            what = f"The superuser of `masterarn`: {error.what}"
        raise LoginRefusedError(
            what,
            hint=f"Its own rotation may be at work: Secrets Manager retries this one. If not: {LoginRefusedError.hint}",
        )

    def _check_labels(self) -> None:
        """Return when the labels are where they were as the step began; raise VersionNotPendingError otherwise."""
        now = self.secrets.describe_secret()
        if now.with_label(StagingLabel.PENDING) != self.token or now.current != self.versions.current:
            raise VersionNotPendingError("The labels have moved since the step began: another rotation is at work.")

    def _disproof(
        self, credential: Credential, label: StagingLabel, version: str, reserve: float = 0.0, *, lags: bool = False
    ) -> DatabaseError | None:
        """Return None once the database accepts the credential, or why it does not: the second refusal, after a pause.

        No answer is waited for until the reserve, and counts as a refusal then; so is a refusal where the host `lags`
        behind the server that has the change already, as a replica does.
        """
        tries = 0
        while True:
            tries += 1
            try:
                session = self.prove(credential, label, version)
            except DatabaseError as error:
                if (error.unknown or lags or tries < 2) and self.deadline.pause(0.5, reserve):  # noqa: PLR2004
                    continue
                return error
            if session is not None:
                session.close()
            return None


def read_credential(secrets: Secrets, version: str, name: str) -> Credential:
    """Return a version's credential; MissingVersionError, or an InvalidSecretError that names it, if it has none."""
    text = secrets.get_secret_value(version)
    try:
        return Credential.parse(text)
    except InvalidSecretError as error:
        raise InvalidSecretError(f"{name}, version {version}: {error.what}", hint=error.hint) from None
