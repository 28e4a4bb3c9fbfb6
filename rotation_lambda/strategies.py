"""Whose password changes, and who changes it: one user, who does it or has it done; or the other one of two."""

from __future__ import annotations

import logging
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rotation_lambda.deadline import RESERVE_S
from rotation_lambda.errors import (
    AuthenticationMethodError,
    DatabaseReadOnlyError,
    InvalidSecretError,
    LoginNotAllowedError,
    LoginRefusedError,
    PasswordChangeError,
    RoleNotPreparedError,
    RotationError,
    UnprovenPasswordError,
    VerificationFailedError,
)
from rotation_lambda.rotation import CHANGED_MEANWHILE, Rotation, read_credential
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rotation_lambda.credential import Credential
    from rotation_lambda.rotation import Session

logger = logging.getLogger(__name__)

MOST_ORPHANS = 5
"""How many retained versions are tried: few enough for a server that locks a role out after some refusals."""


class SingleUser(Rotation):
    """One user, who changes its own password: between setSecret and finishSecret new logins with the old one fail."""

    __slots__ = ()

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
                if self._had_to_wait(session, current.username):
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
                    if not self._may_try_again(error):
                        raise
                    continue
                self._verify(current, pending, partial(session.change_password, current.password, self._check_labels))
                logger.info("Changed the password, let in by %s; a second login proved AWSPENDING.", way)
                return

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
        raise PasswordChangeError(what, sqlstate=CHANGED_MEANWHILE)

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
            hint=f"{LoginRefusedError.hint} If nobody knows the password: docs/runbook.md.",
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

    def _verify(self, current: Credential, pending: Credential, put_back: Callable[[], object] | None) -> None:
        """Return when a second login proves AWSPENDING; otherwise put AWSCURRENT's password back, and raise.

        It is put back by the session that changed it, and only if nobody else can have touched labels or password
        since: a put-back over another rotation's proven password would lock everybody out. And only if AWSCURRENT had
        been in force before: else `put_back` is None.
        """
        reason = self._disproof(pending, StagingLabel.PENDING, self.token, RESERVE_S)
        if reason is None:
            return
        found = f"The password was changed, and AWSPENDING (version {self.token}) did not log in: {reason.what}"
        now = StagingLabel.CURRENT, self.versions.current
        if put_back is None:
            raise UnprovenPasswordError(f"{found} AWSCURRENT (version {now[1]}) did not log in before either.")
        try:
            self._check_labels()
            doubt: RotationError | None = self._disproof(current, *now, RESERVE_S)
            if doubt is not None:
                put_back()
                doubt = self._disproof(current, *now)
        except RotationError as error:
            doubt = error
        if doubt is None:
            raise VerificationFailedError(f"{found} AWSCURRENT (version {now[1]}) is in force again, and logs in.")
        raise UnprovenPasswordError(
            f"{found} Nor could AWSCURRENT (version {now[1]}) be put back for certain: {doubt.what}"
        )


class BySuperuser(SingleUser):
    """One user, whose password a superuser changes: for who may not change it, or where nobody knows it any more."""

    __slots__ = ()

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, and prove it; or leave AWSCURRENT in force, if that was."""
        proved = self._accepts(current, StagingLabel.CURRENT, self.versions.current)
        if not proved and self._accepts(pending, StagingLabel.PENDING, self.token):
            self._check_labels()
            logger.info("The database accepts AWSPENDING already; nothing to do.")
            return
        superuser = self.superusers.of(current)
        if not proved:
            logger.warning(
                "The database refuses AWSCURRENT and AWSPENDING: that the secret is for role %a there is by "
                "`masterarn` alone. The superuser changes its password all the same.",
                current.username,
            )
        on_writer, *elsewhere = self._places(pending, superuser)
        with self._changed_by(superuser, current, pending, proved=proved) as session:
            back = partial(session.change_password_of, current, current, self._check_labels, proved=True)
            self._verify(current.at(superuser) if elsewhere else current, on_writer, back if proved else None)
            for place in elsewhere:
                if reason := self._disproof(place, StagingLabel.PENDING, self.token, RESERVE_S, lags=True):
                    raise UnprovenPasswordError(
                        f"AWSPENDING (version {self.token}) is not in force yet at the secret's own host, though it "
                        f"logs in at the writer: {reason.what}"
                    )
        logger.info("Changed the password by the superuser %a; a login proved AWSPENDING.", superuser.username)

    def _accepts(self, credential: Credential, label: StagingLabel, version: str) -> bool:
        try:
            session = self.prove(credential, label, version)
        except LoginRefusedError:
            return False
        if session is not None:
            session.close()
        return True


class AlternatingUsers(Rotation):
    """Two users with the same rights, by turns: the one in use is never touched, so that no login is ever refused."""

    __slots__ = ()

    old_one_works: ClassVar[bool] = True

    @staticmethod
    def next_user(current: Credential) -> str:
        """Return the other user's name."""
        return current.other_user

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, whose user a superuser prepares, and prove it.

        AWSCURRENT proves first that the secret is of this database (AWS: «Lambda rotation functions», set_secret). Its
        user is left alone, so nothing is ever put back.
        """
        session = super().prove(current, StagingLabel.CURRENT, self.versions.current)
        if session is not None:
            session.close()
        superuser = self.superusers.of(current)
        with self._changed_by(superuser, current, pending, proved=True):
            on_writer, *elsewhere = self._places(pending, superuser)
            reason = self._disproof(on_writer, StagingLabel.PENDING, self.token, RESERVE_S)
            for place in elsewhere:
                reason = reason or self._disproof(place, StagingLabel.PENDING, self.token, RESERVE_S, lags=True)
        if reason is not None:
            raise VerificationFailedError(
                f"The password of {pending.username!a} was changed, and AWSPENDING (version {self.token}) did not log "
                f"in: {reason.what} AWSCURRENT (version {self.versions.current}) was not touched.",
                hint=reason.hint if isinstance(reason, RoleNotPreparedError) else None,
            )
        logger.info(
            "The superuser %a has set the password of %a; a login proved it.", superuser.username, pending.username
        )

    def prove(self, credential: Credential, label: StagingLabel, version: str) -> Session:
        """Return an open session that runs as it should, with the original's rights; a shut door is an error here.

        Where a membership was revoked, PostgreSQL lets the user in all the same, with a warning that nobody reads.
        """
        try:
            session = self.database.log_in(credential)
        except LoginRefusedError as error:
            what = f"{label}, version {version}: {error.what}"
        else:
            try:
                owned = session.check_identity()
            except BaseException:
                session.close()
                raise
            if owned:
                logger.info("The clone of %a owns in this database: %s.", credential.original, ", ".join(owned))
            return session
        raise LoginRefusedError(what)


KINDS: dict[Strategy, type[SingleUser | AlternatingUsers]] = {
    Strategy.SINGLE_USER: SingleUser,
    Strategy.ALTERNATING_USERS: AlternatingUsers,
    Strategy.SUPERUSER: BySuperuser,
}


def choose_strategy(rotation: Rotation, credential: Credential) -> SingleUser | AlternatingUsers:
    """Return the rotation under its strategy."""
    kind = KINDS[resolve(rotation.choice, credential)]
    return kind(*(getattr(rotation, name.name) for name in fields(rotation)))


def resolve(choice: Strategy, credential: Credential) -> Strategy:
    """Return which strategy it comes to; under `auto` the secret says, by having a `masterarn` or not."""
    if choice is Strategy.AUTO:
        choice = Strategy.ALTERNATING_USERS if credential.masterarn else Strategy.SINGLE_USER
    if choice is not Strategy.SINGLE_USER and not credential.masterarn:
        raise InvalidSecretError(
            f"`masterarn` is missing from the secret, which ROTATION_STRATEGY={choice} needs.",
            hint="Add `masterarn`, the ARN of the superuser's secret; or set ROTATION_STRATEGY=single-user.",
        )
    return choice
