"""Whose password changes, and who changes it: one user, who does it or has it done; or the other one of two."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from typing import ClassVar

from rotation_lambda import errors
from rotation_lambda.credential import Credential
from rotation_lambda.deadline import BEFORE_CHANGE_S, RESERVE_S
from rotation_lambda.rotation import CHANGED_MEANWHILE, Rotation, Session, is_anothers, may_pass, on_server_of, shows
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel

logger = logging.getLogger(__name__)


class SingleUser(Rotation):
    """One user, who changes its own password: between setSecret and finishSecret new logins with the old one fail."""

    __slots__ = ()

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, and prove it; or leave AWSCURRENT in force.

        A try that meets another's change of the role starts over with fresh logins: what let it in may be refused now.
        So does one that meets a standby: after a failover the same name leads to the new primary before long.
        """
        ways = [current, pending]
        self._start_over(lambda: self._change_own(ways, current, pending))

    def _change_own(self, ways: list[Credential], current: Credential, pending: Credential) -> None:
        """Change the password by the first of the `ways` that lets us in, which the next try begins with."""
        way, door = self._find_way(current, *ways)
        ways[:] = [way, *(one for one in ways if one is not way)]
        if way.label == StagingLabel.PENDING:
            self._leave_as_set(door)
            return
        if isinstance(door, errors.LoginNotAllowedError):
            raise door
        with door as session:
            changed = self._change(session, pending, lambda: self._check_unchanged(way))
            self._verify([way, current], pending, partial(session.change_password, way, self._check_labels))
        self._remember(changed)
        logger.info("Changed the password, let in by %s; a second login verified AWSPENDING.", way.label)

    def _leave_as_set(self, door: Session | errors.LoginNotAllowedError) -> None:
        """Do no more: the database accepts AWSPENDING."""
        if isinstance(door, errors.LoginNotAllowedError):
            logger.warning("The password of AWSPENDING is accepted, but: %s %s", door.what, door.hint)
        else:
            door.close()
        self._remember(None)
        logger.info("The database accepts AWSPENDING already; nothing to do.")

    def _check_unchanged(self, way: Credential) -> None:
        """Return while labels and password are what let us in, in the moment before the change is committed.

        The session may be older than another rotation, whose proven password must not be undone. From our ALTER ROLE to
        our COMMIT PostgreSQL keeps every other change of the role waiting. Raises PasswordChangeError, as for a twin.
        """
        try:
            self._check_in_force(way)
        except errors.LoginRefusedError as error:
            what = f"{error.what} It let us in a moment ago: it was changed meanwhile. Nothing was changed here."
            raise errors.PasswordChangeError(what, sqlstate=CHANGED_MEANWHILE) from None
        self._check_labels()

    def _verify(self, ways: list[Credential], pending: Credential, put_back: Callable[[], list[str]] | None) -> None:
        """Return when a second login proves AWSPENDING; otherwise put back the first of the `ways`, and raise.

        It is put back by the session that changed it, and only if the labels are the same still: a put-back over
        another rotation's proven password would lock all applications out. And only if that password had logged in
        before (else `put_back` is None), and if the last of the ways, AWSCURRENT's, has not come into force meanwhile.
        Who meets another's change, or a standby, starts over with fresh logins.
        """
        before, ours = ways[0], f"{ways[0].label} (version {ways[0].version})"
        while reason := self._disproof(pending):
            self.memory.clear()
            found = f"The password was changed, and AWSPENDING (version {self.token}) did not log in: {reason.what}"
            if put_back is None:
                raise errors.UnprovenPasswordError(f"{found} {ours} did not log in before either.")
            try:
                self._check_labels()
                doubt: errors.RotationError | None = self._disproof(before, standby=False)
                if doubt and (before is ways[-1] or (doubt := self._disproof(ways[-1], standby=False))):
                    self._carry_out(put_back, before, 0.0)
                    self.measure("Recovered", 1)
                    doubt = self._disproof(before, 0.0)
            except errors.VersionNotPendingError as error:
                raise errors.VersionNotPendingError(f"{found} {error.what} Its password was left alone.") from None
            except errors.RotationError as error:
                if may_pass(error) and self.deadline.pause(1.0, 0.0 if is_anothers(error) else RESERVE_S):
                    continue
                doubt = error
            if doubt is None:
                hint = reason.hint if reason.unknown else None
                raise errors.VerificationFailedError(f"{found} {ours} is in force again, and logs in.", hint=hint)
            raise errors.UnprovenPasswordError(f"{found} Nor could {ours} be put back for certain: {doubt.what}")


class BySuperuser(SingleUser):
    """One user, whose password a superuser changes: for who may not change it, or where it is lost."""

    __slots__ = ()

    by_superuser: ClassVar[bool] = True

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, and prove it; or leave AWSCURRENT in force, if that was.

        One of the secret's passwords, or its tag, shows that it is for this user.
        """
        way, label, accepted = current, "", False
        try:
            way, door = self._find_way(current, current, pending)
        except errors.LoginRefusedError as error:
            logger.warning("%s Only the secret's tag can show that it is for this user.", error.what)
        else:
            label = way.label
            if label == StagingLabel.PENDING:
                self._leave_as_set(door)
                return
            accepted = shows(self.database, current, door)
        superuser = self.superusers.of(current)

        def verify(session: Session) -> None:
            trusted = partial(session.change_password, current, self._check_labels, trust)
            back = trusted if label == StagingLabel.CURRENT else None
            self._verify([on_server_of(session.credential, current)], on_server_of(session.credential, pending), back)
            if reason := self._disproof_elsewhere(pending, session):
                raise errors.UnprovenPasswordError(
                    f"AWSPENDING (version {self.token}) is not in force yet at the secret's own host, though it logs "
                    f"in at the writer: {reason.what}"
                )

        trust = self._trust(current, lambda _: self._is_shown_to(superuser, way, accepted=accepted))
        self._change_by_superuser(superuser, pending, trust, verify)


class AlternatingUsers(Rotation):
    """Two users with the same rights, in turn: the one in use is never touched, so that no login is ever refused."""

    __slots__ = ()

    old_one_works: ClassVar[bool] = True
    by_superuser: ClassVar[bool] = True

    @staticmethod
    def next_user(current: Credential) -> str:
        """Return the other user's name."""
        return current.other_user

    def set_password(self, current: Credential, pending: Credential) -> None:
        """Bring the database to accept AWSPENDING, whose user a superuser prepares, and prove it.

        AWSCURRENT proves first that the secret is of this database (AWS: "Lambda rotation functions", set_secret). Its
        user is left alone, so nothing is ever put back. Where the database does not show that the other user is this
        secret's, as a rule AWSPREVIOUS does by a login.
        """
        log_in = super()._prove_once  # whatever role the session runs as: its superuser sees to what that is to be
        session = self.deadline.wait_for(partial(log_in, current, BEFORE_CHANGE_S), BEFORE_CHANGE_S)
        accepted, superuser = shows(self.database, current, session), self.superusers.of(current)

        def is_accepted(user: str) -> bool:
            if user == current.username:
                return self._is_shown_to(superuser, current, accepted=accepted)
            return self._is_accepted(pending.at(superuser))

        def verify(session: Session) -> None:
            there = on_server_of(session.credential, pending)
            if reason := self._disproof(there) or self._disproof_elsewhere(pending, session):
                raise errors.VerificationFailedError(
                    f"The password of {pending.username!a} was changed, and AWSPENDING (version {self.token}) did not "
                    f"log in: {reason.what} AWSCURRENT (version {current.version}) was not touched.",
                    hint=reason.hint if reason.unknown or isinstance(reason, errors.RoleNotPreparedError) else None,
                )

        self._change_by_superuser(superuser, pending, self._trust(current, is_accepted, session), verify)

    def _prove_once(self, credential: Credential, reserve: float) -> Session:
        """Return an open session that runs as it should, with the original's rights; a shut door is an error here.

        Where a membership was revoked, PostgreSQL lets the user in all the same, with a warning alone.
        """
        try:
            session = self.database.log_in(credential, reserve=reserve)
        except errors.LoginRefusedError as error:
            raise errors.LoginRefusedError(f"{credential.label}, version {credential.version}: {error.what}") from None
        with ExitStack() as opened:
            opened.push(session)
            owned = session.check_identity()
            opened.pop_all()
        if owned:
            told = errors.mask(", ".join(owned))
            logger.info("The clone of %a owns in this database: %s.", credential.original, told)
        return session


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
        what = f"`masterarn` is missing from the secret, which ROTATION_STRATEGY={choice} needs."
        hint = "Add `masterarn`, the ARN of the superuser's secret; or set ROTATION_STRATEGY=single-user."
        raise errors.InvalidSecretError(what, hint=hint)
    return choice
