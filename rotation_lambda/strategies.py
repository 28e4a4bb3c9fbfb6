"""Whose password changes, and who changes it: one user, who does it or has it done; or the other one of two."""

from __future__ import annotations

import logging
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rotation_lambda.deadline import BEFORE_CHANGE_S, RESERVE_S
from rotation_lambda.errors import (
    DatabaseError,
    InvalidSecretError,
    LoginNotAllowedError,
    LoginRefusedError,
    PasswordChangeError,
    RoleNotPreparedError,
    RotationError,
    UnprovenPasswordError,
    VerificationFailedError,
    VersionNotPendingError,
)
from rotation_lambda.rotation import CHANGED_MEANWHILE, Rotation, is_anothers, shows
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotation_lambda.credential import Credential
    from rotation_lambda.rotation import Session

logger = logging.getLogger(__name__)


class SingleUser(Rotation):
    """One user, who changes its own password: between setSecret and finishSecret new logins with the old one fail."""

    __slots__ = ()

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, and prove it; or leave AWSCURRENT in force.

        Whoever meets another's change of the role starts over with fresh logins: what let it in may be refused now. So
        does who meets a standby: after a failover the same name leads to the new primary before long.
        """
        self._start_over(lambda: self._change(current, pending))

    def _change(self, current: Credential, pending: Credential) -> None:
        known = (StagingLabel.CURRENT, current), (StagingLabel.PENDING, pending)
        way, credential, door = self._find_way(current, *known)
        if isinstance(door, LoginNotAllowedError):
            if way != StagingLabel.PENDING:
                raise door
            logger.warning("The password of AWSPENDING is accepted, but: %s %s", door.what, door.hint)
            self._remember(None)
            return
        with door as session:
            if way == StagingLabel.PENDING:
                logger.info("The database accepts AWSPENDING already; nothing to do.")
                self._remember(None)
                return
            self._check_time()
            try:
                session.change_password(pending.password, lambda: self._check_unchanged(way, credential))
            except PasswordChangeError as error:
                if not self._came_true(error, pending):
                    raise
            changed = self.deadline.clock()
            self._verify(current, pending, partial(session.change_password, current.password, self._check_labels))
            self._remember(changed)
            logger.info("Changed the password, let in by %s; a second login proved AWSPENDING.", way)

    def _check_unchanged(self, way: str, credential: Credential) -> None:
        """Return while labels and password are what let us in, in the moment before the change is committed.

        The session may be older than another rotation, whose proven password must not be undone. From our ALTER ROLE to
        our COMMIT PostgreSQL keeps every other change of the role waiting. Raises PasswordChangeError, as for a twin.
        """
        try:
            self._check_in_force(credential, RESERVE_S, scram_only=way not in set(StagingLabel))
        except LoginRefusedError as error:
            what = f"{error.what} It let us in a moment ago: somebody else has changed it. Nothing was changed here."
        else:
            self._check_labels()
            return
        raise PasswordChangeError(what, sqlstate=CHANGED_MEANWHILE)

    def _verify(self, current: Credential, pending: Credential, put_back: Callable[[], object] | None) -> None:
        """Return when a second login proves AWSPENDING; otherwise put AWSCURRENT's password back, and raise.

        It is put back by the session that changed it, and only if nobody else has touched the labels since: a put-back
        over another rotation's proven password would lock everybody out. And only if AWSCURRENT had been in force
        before: else `put_back` is None. Who meets another's change starts over with fresh logins.
        """
        now = StagingLabel.CURRENT, self.versions.current
        while True:
            reason = self._disproof(pending, StagingLabel.PENDING, self.token, RESERVE_S)
            if reason is None:
                return
            self.memory.clear()
            found = f"The password was changed, and AWSPENDING (version {self.token}) did not log in: {reason.what}"
            if put_back is None:
                raise UnprovenPasswordError(f"{found} AWSCURRENT (version {now[1]}) did not log in before either.")
            try:
                self._check_labels()
                doubt: RotationError | None = self._disproof(current, *now, RESERVE_S)
                if doubt is not None:
                    put_back()
                    self.measure("Recovered", 1)
                    doubt = self._disproof(current, *now)
            except VersionNotPendingError as error:
                raise VersionNotPendingError(f"{found} {error.what} Its password was left alone.") from None
            except DatabaseError as error:
                if is_anothers(error) and self.deadline.pause(1.0):
                    continue
                doubt = error
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

    by_superuser: ClassVar[bool] = True

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, and prove it; or leave AWSCURRENT in force, if that was.

        One of the secret's passwords, or its tag, shows that it is for this user.
        """
        try:
            way, _, door = self._find_way(current, (StagingLabel.CURRENT, current), (StagingLabel.PENDING, pending))
        except LoginRefusedError as error:
            logger.warning("%s Only the secret's tag can show that it is for this user.", error.what)
            way, proved = "", False
        else:
            proved = shows(self.database, current, door)
        if way == StagingLabel.PENDING:
            self._remember(None)
            logger.info("The database accepts AWSPENDING already; nothing to do.")
            return
        trust = self._trust(lambda _: proved)
        superuser = self.superusers.of(current)
        on_writer, *elsewhere = self._places(pending, superuser)
        with self._start_over(lambda: self._change_by(superuser, current, pending, trust)) as session:
            changed = self.deadline.clock()
            back = partial(session.change_password_of, current, current, self._check_labels, trust)
            known = way == StagingLabel.CURRENT
            self._verify(current.at(superuser) if elsewhere else current, on_writer, back if known else None)
            for place in elsewhere:
                if reason := self._disproof(place, StagingLabel.PENDING, self.token, RESERVE_S, lags=True):
                    raise UnprovenPasswordError(
                        f"AWSPENDING (version {self.token}) is not in force yet at the secret's own host, though it "
                        f"logs in at the writer: {reason.what}"
                    )
        self._remember(changed)
        logger.info("Changed the password by the superuser %a; a login proved AWSPENDING.", superuser.username)


class AlternatingUsers(Rotation):
    """Two users with the same rights, by turns: the one in use is never touched, so that no login is ever refused."""

    __slots__ = ()

    old_one_works: ClassVar[bool] = True
    by_superuser: ClassVar[bool] = True

    @staticmethod
    def next_user(current: Credential) -> str:
        """Return the other user's name."""
        return current.other_user

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, whose user a superuser prepares, and prove it.

        AWSCURRENT proves first that the secret is of this database (AWS: «Lambda rotation functions», set_secret). Its
        user is left alone, so nothing is ever put back. Where the database does not show that the other user is this
        secret's, as a rule AWSPREVIOUS does by a login.
        """
        label, version = StagingLabel.CURRENT, self.versions.current
        log_in = super()._prove_once  # whoever the session runs as: what it is to be, its superuser sees to
        session = self.deadline.wait_for(partial(log_in, current, label, version, BEFORE_CHANGE_S), BEFORE_CHANGE_S)
        proved = shows(self.database, current, session)
        trust = self._trust(lambda user: proved if user == current.username else self._is_accepted(pending), session)
        superuser = self.superusers.of(current)
        with self._start_over(lambda: self._change_by(superuser, current, pending, trust)):
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
        self._remember(None)
        logger.info(
            "The superuser %a has set the password of %a; a login proved it.", superuser.username, pending.username
        )

    def _is_accepted(self, login: Credential) -> bool:
        """Tell whether a password that the secret has, or had, for the login's user is in force."""
        try:
            _, credential, door = self._find_way(login)
        except LoginRefusedError:
            return False
        return shows(self.database, credential, door)

    def _prove_once(self, credential: Credential, label: StagingLabel, version: str, reserve: float) -> Session:
        """Return an open session that runs as it should, with the original's rights; a shut door is an error here.

        Where a membership was revoked, PostgreSQL lets the user in all the same, with a warning that nobody reads.
        """
        try:
            session = self.database.log_in(credential, reserve=reserve)
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
