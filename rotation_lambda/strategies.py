"""Whose password changes, and who changes it: today a single user, who changes its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from rotation_lambda.credential import Credential
from rotation_lambda.deadline import RESERVE_S
from rotation_lambda.errors import (
    AuthenticationMethodError,
    DatabaseError,
    DatabaseReadOnlyError,
    InvalidSecretError,
    LoginNotAllowedError,
    LoginRefusedError,
    PasswordChangeError,
    RoleLockedError,
    RotationError,
    SecretsManagerError,
    UnprovenPasswordError,
    VerificationFailedError,
    VersionNotPendingError,
)
from rotation_lambda.staging import SecretVersions, StagingLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rotation_lambda.deadline import Deadline
    from rotation_lambda.settings import PasswordPolicy

logger = logging.getLogger(__name__)

MOST_ORPHANS = 5
"""How many retained versions are tried: few enough for a server that locks a role out after some refusals."""

_CHANGED_MEANWHILE = "40001"  # serialization_failure, PostgreSQL's word for the like
_TWIN = {_CHANGED_MEANWHILE, "XX000", "40P01", "55P03"}  # … tuple concurrently updated, deadlock, lock timeout


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

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def close(self) -> None: ...
    def try_lock(self) -> bool: ...
    def lock_holder(self) -> str: ...
    def change_password(self, password: str, confirm: Callable[[], None] = ...) -> None: ...


class Database(Protocol):
    """What a rotation needs of the database: a session, LoginRefusedError, or an error that stops the step."""

    def log_in(self, credential: Credential, *, scram_only: bool = False) -> Session: ...


@dataclass(frozen=True, slots=True)
class SingleUser:
    """One user, who changes its own password: between setSecret and finishSecret new logins with the old one fail.

    `versions` are the labels as the step found them, `token` is the version that the rotation leads to.
    """

    token: str
    versions: SecretVersions
    secrets: Secrets
    database: Database
    deadline: Deadline

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, and prove it; or leave AWSCURRENT in force.

        From before the change to the verdict the role is locked against other rotations. Whoever has to wait for the
        lock, or meets another's change all the same, starts over with fresh logins: what let it in may be refused now.
        So does who meets a standby: after a failover the same name leads to the new primary before long.
        """
        while True:
            way, credential, session = self._get_in(current, pending)
            if session is None:
                return
            with session:
                if self._had_to_wait(session):
                    self._check_labels()
                    continue
                if way != StagingLabel.CURRENT:
                    self._check_labels()
                if way == StagingLabel.PENDING:
                    logger.info("The database accepts AWSPENDING already; nothing to do.")
                    return
                try:
                    session.change_password(pending.password, lambda: self._check_unchanged(way, credential))  # noqa: B023
                except (PasswordChangeError, DatabaseReadOnlyError) as error:
                    if not (_may_pass(error) and self.deadline.pause(1.0, RESERVE_S)):
                        raise
                    continue
                self._verify(session, current, pending)
                logger.info("Changed the password, let in by %s; a second login proved AWSPENDING.", way)
                return

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

        No answer is waited for until the reserve, and then AWSCURRENT moves all the same, with a warning: setSecret and
        testSecret had the proof, the old password has not worked since, and waiting helps nobody. A refusal stops it.
        """
        while True:
            try:
                session = self.prove(pending, StagingLabel.PENDING, self.token)
            except DatabaseError as error:
                if not error.unknown:
                    raise
                if self.deadline.pause(1.0, RESERVE_S):
                    continue
                logger.warning("AWSCURRENT moves although the last login got no answer: %s", error.what)
                session = None
            if session is None:
                self._move()
                return
            with session:
                if not self._had_to_wait(session):
                    self._move()
                    return

    def _move(self) -> None:
        try:
            self.secrets.update_secret_version_stage(
                StagingLabel.CURRENT, move_to=self.token, remove_from=self.versions.current
            )
        except SecretsManagerError:
            if not self.secrets.describe_secret().is_current(self.token):  # a twin of this step was faster
                raise

    def _had_to_wait(self, session: Session) -> bool:
        """Take the role's lock; tell whether somebody else had it, in which case all that is known may be stale."""
        if session.try_lock():
            return False
        logger.info("Waiting for another rotation of this role: %s.", session.lock_holder())
        while self.deadline.pause(0.5, RESERVE_S):
            if session.try_lock():
                return True
        raise RoleLockedError(f"Another rotation of this role is at work: {session.lock_holder()}.")

    def _log_in(self, way: str, credential: Credential) -> Session:
        """Log in; the password of a version without a label is never offered by md5."""
        return self.database.log_in(credential, scram_only=way not in set(StagingLabel))

    def _check_unchanged(self, way: str, credential: Credential) -> None:
        """Return while the password that let us in is still in force, in the moment before the change is committed.

        The session may be older than another rotation, whose proven password must not be undone. From our ALTER ROLE to
        our COMMIT PostgreSQL keeps every other change of the role waiting. Raises PasswordChangeError, as for a twin.
        """
        try:
            self._log_in(way, credential).close()
        except LoginNotAllowedError:
            return
        except LoginRefusedError as error:
            what = f"{error.what} It let us in a moment ago: somebody else has changed it. Nothing was changed here."
        else:
            return
        raise PasswordChangeError(what, sqlstate=_CHANGED_MEANWHILE)

    def _get_in(self, current: Credential, pending: Credential) -> tuple[str, Credential, Session | None]:
        """Return whose password the database accepts, and a session; None for a session before AWSPENDING's shut door.

        Only a refused password leads to the next one. Whatever else comes is raised, and nothing was changed.
        """
        refused, skipped = [], 0
        for way, credential in self._ways_in(current, pending):
            if credential is None:
                skipped += 1
                continue
            orphan = way not in set(StagingLabel)
            try:
                session = self._log_in(way, credential)
            except LoginRefusedError:
                refused.append(way)
            except LoginNotAllowedError as error:
                if way != StagingLabel.PENDING:
                    raise
                logger.warning("The password of AWSPENDING is accepted, but: %s %s", error.what, error.hint)
                return way, credential, None
            except AuthenticationMethodError:
                if not orphan:
                    raise
                skipped += 1
            else:
                if orphan:
                    logger.warning("%s, which has no staging label, had the password that is in force.", way)
                return way, credential, session
        unread = f" {skipped} retained versions could not be tried." if skipped else ""
        raise LoginRefusedError(
            f"Role {current.username!a}: the database refused the password of each of {', '.join(refused)}.{unread}",
            hint=f"{LoginRefusedError.hint} If nobody knows the password: README.md, «When a rotation is stuck».",
        )

    def _ways_in(self, current: Credential, pending: Credential) -> Iterator[tuple[str, Credential | None]]:
        """Yield what may let us in, likeliest first; None for a version that cannot be read.

        A crashed or cancelled rotation can leave the password that is in force in a version without a label; Secrets
        Manager keeps those for a while. Of an older version only the password is borrowed, and only of the same user's:
        where to connect, and as whom, is AWSCURRENT's to say.
        """
        yield StagingLabel.CURRENT, current
        yield StagingLabel.PENDING, pending
        known = {current.password, pending.password}
        previous = self.versions.with_label(StagingLabel.PREVIOUS)
        tried = 0
        for version in self._older_versions(previous):
            way = StagingLabel.PREVIOUS if version == previous else f"Version {version}"
            try:
                older = read_credential(self.secrets, version, way)
            except RotationError as error:
                logger.warning("%s is passed over: %s", way, error.what)
                yield way, None
                continue
            if older.username == current.username and older.password not in known:
                known.add(older.password)
                yield way, current.with_password(older.password)
                tried += version != previous
                if tried == MOST_ORPHANS:
                    return

    def _older_versions(self, previous: str | None) -> Iterator[str]:
        if previous is not None:
            yield previous
        try:
            retained = self.secrets.list_secret_version_ids()
        except RotationError as error:
            logger.warning("Versions without a label are passed over: %s", error)
            return
        labelled = {self.versions.current, self.token, previous}
        yield from (version for version in retained if version not in labelled)

    def _verify(self, session: Session, current: Credential, pending: Credential) -> None:
        """Return when a second login proves AWSPENDING; otherwise put AWSCURRENT's password back, and raise.

        It is put back by the session that changed it, and only if nobody else can have touched labels or password
        since: a put-back over another rotation's proven password would lock everybody out.
        """
        reason = self._disproof(pending, StagingLabel.PENDING, self.token, RESERVE_S)
        if reason is None:
            return
        found = f"The password was changed, and AWSPENDING (version {self.token}) did not log in: {reason.what}"
        now = StagingLabel.CURRENT, self.versions.current
        try:
            self._check_labels()
            doubt: RotationError | None = self._disproof(current, *now, RESERVE_S)
            if doubt is not None:
                session.change_password(current.password, self._check_labels)
                doubt = self._disproof(current, *now)
        except RotationError as error:
            doubt = error
        if doubt is None:
            raise VerificationFailedError(f"{found} AWSCURRENT (version {now[1]}) is in force again, and logs in.")
        raise UnprovenPasswordError(
            f"{found} Nor could AWSCURRENT (version {now[1]}) be put back for certain: {doubt.what}"
        )

    def _check_labels(self) -> None:
        """Return when the labels are where they were as the step began; raise VersionNotPendingError otherwise."""
        now = self.secrets.describe_secret()
        if now.with_label(StagingLabel.PENDING) != self.token or now.current != self.versions.current:
            raise VersionNotPendingError("The labels have moved since the step began: another rotation is at work.")

    def _disproof(
        self, credential: Credential, label: StagingLabel, version: str, reserve: float = 0.0
    ) -> DatabaseError | None:
        """Return None once the database accepts the credential, or why it does not: the second refusal, after a pause.

        No answer is waited for until the reserve, and counts as a refusal then.
        """
        tries = 0
        while True:
            tries += 1
            try:
                session = self.prove(credential, label, version)
            except DatabaseError as error:
                if (error.unknown or tries < 2) and self.deadline.pause(0.5, reserve):  # noqa: PLR2004
                    continue
                return error
            if session is not None:
                session.close()
            return None


def _may_pass(error: DatabaseError) -> bool:
    """Tell whether fresh logins may find another state: a twin's change, or a new primary after a failover."""
    return isinstance(error, DatabaseReadOnlyError) or getattr(error, "sqlstate", None) in _TWIN


def read_credential(secrets: Secrets, version: str, name: str) -> Credential:
    """Return a version's credential; MissingVersionError, or an InvalidSecretError that names it, if it has none."""
    text = secrets.get_secret_value(version)
    try:
        return Credential.parse(text)
    except InvalidSecretError as error:
        raise InvalidSecretError(f"{name}, version {version}: {error.what}", hint=error.hint) from None
