"""A preflight's look at the superuser: its secret, its login, and what it would change besides the password."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotation_lambda.errors import DatabaseError, DatabaseReadOnlyError, RotationError
from rotation_lambda.postgres.answers import name_login
from rotation_lambda.preflight.database import log_in
from rotation_lambda.preflight.findings import Finding, Status
from rotation_lambda.preflight.session import check_own_password

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotation_lambda.credential import Credential
    from rotation_lambda.postgres import Postgres, Session
    from rotation_lambda.superuser import Superusers
    from rotation_lambda.trust import Trust

CHECKS = ("superuser secret", "superuser login")
_NOT_PINNED = "Set SUPERUSER_SECRET_ARNS (template.yaml does), or a writer of this secret chooses its superuser."


def check_superuser(
    database: Postgres, superusers: Superusers, current: Credential, user: str, trust: Trust
) -> Iterator[Finding]:
    """Yield a finding for each of CHECKS, and one for the change of the user's password.

    What a rotation would do before it changes the password is tried out and rolled back, for only that tells what the
    superuser may.
    """
    try:
        superuser = superusers.of(current)
    except RotationError as error:
        yield Finding.failure("superuser secret", error)
        return
    (host, port), same = superuser.address, superuser.address == current.address
    seen = f"role {superuser.username!a} at {host}:{port}, {'as in this secret' if same else 'by the word of RDS'}"
    status, action = (Status.OK, "") if trust.pinned else (Status.WARNING, _NOT_PINNED)
    yield Finding("superuser secret", status, seen, action)
    session = log_in(database, superuser, scram_only=True)
    if isinstance(session, DatabaseError):
        yield Finding.failure("superuser login", session)
        return
    with session:
        if session.in_recovery:
            standby = DatabaseReadOnlyError(f"{name_login(superuser)}: the server is in recovery, a standby.")
            yield Finding.failure("superuser login", standby)
            return
        yield Finding("superuser login", Status.OK, f"is let in, by {session.authentication}, {session.encryption}")
        yield _change(session, current, user, trust)


def _change(session: Session, current: Credential, user: str, trust: Trust) -> Finding:
    own = check_own_password(session.credential, session.survey())
    if own.status is not Status.OK:
        return own
    try:
        plan = session.rehearse(current, current.with_password(current.password, user), trust)
    except DatabaseError as error:
        return Finding.failure(own.check, error)
    seen = f"the superuser may set the password of {user!a}"
    if plan.changes:
        seen += f", and will do before: {' '.join(map(str, plan.changes))}"
    if plan.notes:
        return Finding(own.check, Status.WARNING, seen, " ".join(plan.notes))
    return Finding(own.check, Status.OK, seen)
