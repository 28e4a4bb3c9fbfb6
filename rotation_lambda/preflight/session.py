"""A preflight's look around in a session: primary or standby, the role's limits, what the server would log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotation_lambda.errors import DatabaseReadOnlyError, PasswordChangeError
from rotation_lambda.postgres.answers import name_login
from rotation_lambda.postgres.roles import quote_name
from rotation_lambda.postgres.session import LEAST_ITERATIONS, MOST_ITERATIONS
from rotation_lambda.postgres.survey import VERIFIERS_ALLOWED
from rotation_lambda.preflight.findings import Finding, Status
from rotation_lambda.preflight.secret import check_clock
from rotation_lambda.settings import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotation_lambda.credential import Credential
    from rotation_lambda.postgres import Session
    from rotation_lambda.postgres.survey import Survey

CHECKS = (
    "primary",
    "role",
    "password change",
    "connections",
    "password encryption",
    "server's log",
    "server's clock",
)
_SOON_DAYS = 30
_FEW_CONNECTIONS = 5  # of which three are the superusers' (superuser_reserved_connections)
_LOGS_STATEMENTS = {"log_statement": ("none",), "log_min_duration_statement": ("-1",), "pgaudit.log": ("none", "")}


def check_session(session: Session, survey: Survey, strategy: Strategy) -> Iterator[Finding]:
    """Yield a finding for each of CHECKS but that of the password's change, which is the strategy's own."""
    if session.in_recovery and strategy is not Strategy.SINGLE_USER:
        yield Finding("primary", Status.OK, f"a standby, PostgreSQL {survey.version}; changes are made elsewhere")
    elif session.in_recovery:
        error = DatabaseReadOnlyError(f"{name_login(session.credential)}: the server is in recovery, a standby.")
        yield Finding.failure("primary", error)
    else:
        yield Finding("primary", Status.OK, f"the primary, PostgreSQL {survey.version}")
    yield _role(survey)
    yield _connections(survey)
    yield _encryption(session, survey)
    yield _log(session, survey)
    yield check_clock("server's clock", survey.clock, "the database server's")


def _role(survey: Survey) -> Finding:
    seen = "may log in" + (", is a superuser" if survey.superuser else "")
    if survey.valid_until is None:
        return Finding("role", Status.OK, f"{seen}, without an end")
    days = survey.days_left or 0.0
    seen += f", until {survey.valid_until} UTC (VALID UNTIL), {days:.0f} days from now"
    measured = {"DaysUntilExpiry": days}
    if days >= _SOON_DAYS:
        return Finding("role", Status.OK, seen, measured=measured)
    action = "A rotation does not move that date: «ALTER ROLE … VALID UNTIL 'infinity'», or a later one."
    return Finding("role", Status.WARNING, seen, action, measured=measured)


def check_own_password(credential: Credential, survey: Survey) -> Finding:
    """Tell whether the role may change its own password, as it has to under the strategy single user."""
    check = "password change"
    if survey.password_commands_restricted and "rds_password" not in survey.rds_memberships:
        error = PasswordChangeError(
            "rds.restrict_password_commands is on, and the role is not a member of rds_password.",
            sqlstate="42501",
            hint=f"«GRANT rds_password TO {quote_name(credential.username)}», as a member of rds_superuser.",
        )
        return Finding.failure(check, error)
    verifiers = survey.settings.get(VERIFIERS_ALLOWED)  # for every role alike; an old credcheck has no such switch
    if verifiers == "off":
        error = PasswordChangeError(
            f"credcheck takes no verifier, only passwords in plain text: {VERIFIERS_ALLOWED} is off.",
            sqlstate="28000",
            hint=f"Set {VERIFIERS_ALLOWED} = on: a password in plain text would be left in the server's log.",
        )
        return Finding.failure(check, error)
    if survey.passwords_checked and verifiers is None:
        return Finding(
            check,
            Status.WARNING,
            "a password-checking extension is loaded; some refuse a SCRAM verifier, since they cannot look into it",
            f"credcheck: set {VERIFIERS_ALLOWED} = on. passwordcheck takes verifiers.",
        )
    if survey.other_rotations:
        return Finding(
            check,
            Status.WARNING,
            f"{survey.other_rotations} other sessions of this function have the same role",
            "A rotation is at work; or two secrets are for one role, and lock each other out: keep one of them.",
        )
    return Finding(check, Status.OK, "the role may change its own password")


def _connections(survey: Survey) -> Finding:
    """Count what is left; a rotation has two sessions at a time, of which this one is the first."""
    limit = survey.connection_limit
    seen = f"{survey.connections} of {'any number' if limit is None else limit} of the role's"
    seen += f", {survey.server_connections} of {survey.server_limit} of the server's are in use"
    if limit is not None and limit <= survey.connections:
        action = (
            "Raise the role's limit by one, «ALTER ROLE … CONNECTION LIMIT n»: a rotation has two sessions at a time."
        )
    elif survey.server_limit - survey.server_connections < _FEW_CONNECTIONS:
        action = "Raise max_connections, or find who holds them in pg_stat_activity."
    else:
        return Finding("connections", Status.OK, seen)
    return Finding("connections", Status.WARNING, seen, action)


def _encryption(session: Session, survey: Survey) -> Finding:
    setting = survey.settings.get("password_encryption", "unknown")
    iterations = int(survey.settings.get("scram_iterations", LEAST_ITERATIONS))
    if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        return Finding(
            "password encryption",
            Status.WARNING,
            f"{setting}, with scram_iterations = {iterations}; a rotation makes verifiers of {LEAST_ITERATIONS:,} to "
            f"{MOST_ITERATIONS:,} iterations",
            "`ALTER ROLE … RESET scram_iterations`, or of the database: PostgreSQL's default is 4096.",
        )
    if setting == "scram-sha-256":
        return Finding("password encryption", Status.OK, setting)
    made = "a rotation makes a SCRAM verifier all the same" if session.authentication != "md5" else "so does a rotation"
    action = "Set `password_encryption` to `scram-sha-256` on the server."
    return Finding("password encryption", Status.WARNING, f"the server's is {setting}; {made}", action)


def _log(session: Session, survey: Survey) -> Finding:
    """Name what in the server would keep the statement that changes the password."""
    on = [f"{name} = {survey.settings[name]}" for name, off in _LOGS_STATEMENTS.items() if survey.is_on(name, *off)]
    on += ["pg_stat_statements"] if survey.is_on("pg_stat_statements.track_utility") else []
    if not on:
        return Finding("server's log", Status.OK, "keeps no statement, unless it fails")
    seen = f"{', '.join(on)}: the statement that changes the password is kept, with a verifier in it"
    if session.authentication != "md5":
        return Finding("server's log", Status.OK, f"{seen}, from which no password follows")
    action = "An md5 verifier is as good as the password: go over to scram-sha-256 before you rotate."
    return Finding("server's log", Status.WARNING, seen, action)
