"""A preflight's look at the superuser: its secret, its login, and what it would change besides the password."""

from __future__ import annotations

from rotation_lambda.credential import Credential
from rotation_lambda.errors import DatabaseError, DatabaseReadOnlyError
from rotation_lambda.postgres.answers import name_login
from rotation_lambda.preflight.database import is_unknown, log_in
from rotation_lambda.preflight.findings import Seen, Status
from rotation_lambda.preflight.session import SessionLook, look_at_own_password
from rotation_lambda.rotation import shows
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.trust import Trust

_NOT_PINNED = "Set SUPERUSER_SECRET_ARNS (template.yaml does), or a writer of this secret chooses its superuser."


class SuperuserLook(SessionLook):
    """The checks of the superuser, and of what it would change."""

    def check_superuser(self) -> Seen:
        """Find the superuser, and what speaks for the secret beside its value."""
        if self.strategy is Strategy.SINGLE_USER:
            return Seen("not asked for by the strategy single-user", status=Status.NOT_REACHED)
        current, pinned = self.current, self.superusers.pinned
        shown = shows(self.database, current, self.door)
        answer, users = self.doors[StagingLabel.CURRENT], self.versions.users
        runs_as = None if isinstance(answer, DatabaseError) else answer.runs_as
        self.trust = Trust(lambda user: user in users or self._is_accepted(user, shown=shown), runs_as, pinned)
        self.superuser = superuser = self.superusers.of(current)
        (host, port), same = superuser.address, superuser.address == current.address
        seen = f"role {superuser.username!a} at {host}:{port}, {'as in this secret' if same else 'by the word of RDS'}"
        return Seen(seen, "" if pinned else _NOT_PINNED)

    def _is_accepted(self, user: str, *, shown: bool) -> bool:
        """Tell whether a label's password is in force for a user, which for AWSCURRENT's is `shown` already or not.

        Raises the DatabaseError that a login ends in which tells neither.
        """
        if user == self.current.username:
            return shown
        for label in (StagingLabel.PREVIOUS, StagingLabel.PENDING):
            value = self.values.get(label)
            if isinstance(value, Credential) and value.username == user:
                login = self.current.with_password(value.password, user)
                door = log_in(self.database, login)
                if is_unknown(door):
                    raise door
                if shows(self.database, login, door):
                    return True
        return False

    def check_superuser_login(self) -> Seen:
        """Log in as the superuser."""
        session = log_in(self.database, self.superuser, scram_only=True)
        if isinstance(session, DatabaseError):
            raise session
        if session.in_recovery:
            session.close()
            raise DatabaseReadOnlyError(f"{name_login(self.superuser)}: the server is in recovery, a standby.")
        self.superuser_session = session
        return Seen(f"is let in, by {session.authentication}, {session.encryption}")

    def check_change(self) -> Seen:
        """Tell whether the password of the next user may be changed: by itself, or by the superuser.

        What a rotation would do before it changes the password is tried out and rolled back, for only that tells what
        the superuser may.
        """
        if self.strategy is Strategy.SINGLE_USER:
            return look_at_own_password(self.current, self.survey)
        for check in ("superuser secret", "superuser login"):
            self.find(check)
        with self.superuser_session as session:
            own = look_at_own_password(session.credential, session.survey())
            if own.action:
                return own
            plan = session.rehearse(
                self.current, self.current.with_password(self.current.password, self.user), self.trust
            )
        seen = f"the superuser may set the password of {self.user!a}"
        if plan.changes:
            seen += f", and will do before: {' '.join(map(str, plan.changes))}"
        return Seen(seen, " ".join(plan.notes))
