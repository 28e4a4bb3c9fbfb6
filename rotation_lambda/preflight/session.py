"""A preflight's look around in the sessions of the user, and of the superuser: what they may do, and what is logged."""

from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.errors import DatabaseError, DatabaseReadOnlyError, PasswordChangeError
from rotation_lambda.postgres import Session, Survey
from rotation_lambda.postgres.answers import name_login
from rotation_lambda.postgres.session import LEAST_ITERATIONS, MD5, MOST_ITERATIONS
from rotation_lambda.postgres.survey import VERIFIERS_ALLOWED
from rotation_lambda.preflight.database import UNPROVED, DatabaseLook, is_unknown, log_in
from rotation_lambda.preflight.findings import BlockedError, Seen, Status
from rotation_lambda.preflight.secret import compare_clock
from rotation_lambda.rotation import as_sure_as, shows
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.trust import Trust

_SOON_DAYS = 30
_NOT_PINNED = "Set SUPERUSER_SECRET_ARNS (template.yaml does), or a writer of this secret chooses its superuser."
_FEW_CONNECTIONS = 5  # of which three are the superusers' (superuser_reserved_connections)
_LOGS_STATEMENTS = {"log_statement": ("none",), "log_min_duration_statement": ("-1",), "pgaudit.log": ("none", "")}


class SessionLook(DatabaseLook):
    """The checks in the user's session and in the superuser's."""

    def check_primary(self) -> Seen:
        """Look around in the session, which ends with that; only a user who changes the password needs the primary."""
        if isinstance(self.door, DatabaseError):
            raise BlockedError
        self.session, self.survey = self.ask(self.door, lambda session: (session, session.survey()))
        if not self.session.in_recovery:
            return Seen(f"the primary, PostgreSQL {self.survey.version}")
        if self.strategy is Strategy.SINGLE_USER:
            raise DatabaseReadOnlyError(f"{name_login(self.session.credential)}: the server is in recovery, a standby.")
        return Seen(f"a standby, PostgreSQL {self.survey.version}; changes are made elsewhere")

    def check_role(self) -> Seen:
        """Tell how long the role may log in."""
        survey = self.survey
        seen = "may log in" + (", is a superuser" if survey.superuser else "")
        if survey.valid_until is None:
            return Seen(f"{seen}, without an end")
        days = float(survey.days_left or 0)
        seen += f", until {survey.valid_until} UTC (VALID UNTIL), {days:.0f} days from now"
        action = "`ALTER ROLE … VALID UNTIL 'infinity'`, or a later date: a rotation does not move it."
        return Seen(seen, action if days < _SOON_DAYS else "", measured={"DaysUntilExpiry": days})

    def check_connections(self) -> Seen:
        """Count what is left; a rotation has two sessions at a time, of which this one is the first."""
        survey, limit, action = self.survey, self.survey.connection_limit, ""
        seen = f"{survey.connections} of {'any number' if limit is None else limit} of the role's"
        seen += f", {survey.server_connections} of {survey.server_limit} of the server's are in use"
        if limit is not None and limit <= survey.connections:
            action = "Raise the role's limit by one, `ALTER ROLE … CONNECTION LIMIT n`: a rotation has two sessions."
        elif survey.server_limit - survey.server_connections < _FEW_CONNECTIONS:
            action = "Raise max_connections, or find who holds them in pg_stat_activity."
        return Seen(seen, action)

    def check_encryption(self) -> Seen:
        """Tell what the server makes of a password, and with how many iterations."""
        settings = self.survey.settings
        setting = settings.get("password_encryption", "unknown")
        iterations = int(settings.get("scram_iterations", LEAST_ITERATIONS))
        if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
            seen = f"{setting}, scram_iterations = {iterations}, not within {LEAST_ITERATIONS} to {MOST_ITERATIONS}"
            action = "`ALTER ROLE … RESET scram_iterations`, or of the database: PostgreSQL's default is 4096."
            return Seen(seen, action)
        if setting == "scram-sha-256":
            return Seen(setting)
        by_md5 = self.session.authentication == MD5
        made = "so does a rotation" if by_md5 else "a rotation makes a SCRAM verifier all the same"
        return Seen(f"the server's is {setting}; {made}", "Set `password_encryption` to `scram-sha-256` on the server.")

    def check_log(self) -> Seen:
        """Name what in the server would keep the statement that changes the password."""
        survey = self.survey
        on = [f"{name} = {survey.settings[name]}" for name, off in _LOGS_STATEMENTS.items() if survey.is_on(name, *off)]
        on += ["pg_stat_statements"] if survey.is_on("pg_stat_statements.track_utility") else []
        if not on:
            return Seen("keeps no statement, unless it fails")
        seen = f"{', '.join(on)}: the statement that changes the password is kept, with a verifier in it"
        if self.session.authentication != MD5:
            return Seen(f"{seen}, from which no password follows")
        action = "Set password_encryption to scram-sha-256, then rotate: an md5 verifier is as good as the password."
        return Seen(seen, action)

    def check_servers_clock(self) -> Seen:
        """Compare the database server's clock with this machine's."""
        return compare_clock(self.survey.clock, "the database server's")

    def check_superuser(self) -> Seen:
        """Find the superuser, and what speaks for the secret beside its value."""
        if self.strategy is Strategy.SINGLE_USER:
            return Seen("not asked for by the strategy single-user", status=Status.NOT_REACHED)
        current, pinned = self.current, self.superusers.pinned
        shown = shows(self.database, current, self.door)
        self.superuser = superuser = self.superusers.of(current)
        there = (current if isinstance(self.door, DatabaseError) else self.door.credential).at(superuser)
        if shown and not as_sure_as(self.database, current, there):
            shown = self._is_in_force(there)
        answer, users = self.doors[StagingLabel.CURRENT], self.versions.users
        runs_as = None if isinstance(answer, DatabaseError) else answer.runs_as
        self.trust = Trust(current, lambda user: user in users or self._is_accepted(user, shown=shown), runs_as, pinned)
        (host, port), same = superuser.address, superuser.address == current.address
        seen = f"role {superuser.username!a} at {host}:{port}, {'as in this secret' if same else 'as RDS confirms'}"
        return Seen(seen, "" if pinned else _NOT_PINNED)

    def _is_accepted(self, user: str, *, shown: bool) -> bool:
        """Tell whether a label's password is in force for a user, which for AWSCURRENT's is `shown` already or not.

        Raises the DatabaseError that a login ends in which tells neither.
        """
        if user == self.current.username:
            return shown
        values = [self.values.get(label) for label in (StagingLabel.PREVIOUS, StagingLabel.PENDING)]
        own = [value for value in values if isinstance(value, Credential) and value.username == user]
        theirs = [it.password for it in own if self.superusers.pinned or as_sure_as(self.database, self.superuser, it)]
        return any(self._is_in_force(self.current.with_password(one, user).at(self.superuser)) for one in theirs)

    def _is_in_force(self, login: Credential) -> bool:
        door = log_in(self.database, login)
        if is_unknown(door):
            raise door
        return shows(self.database, login, door)

    def check_superuser_login(self) -> Seen:
        """Log in as the superuser."""
        session = log_in(self.database, self.superuser, scram_only=True)
        if isinstance(session, DatabaseError):
            raise session
        if session.in_recovery:
            session.close()
            raise DatabaseReadOnlyError(f"{name_login(self.superuser)}: the server is in recovery, a standby.")
        self.superuser_session = session
        verified = self.database.sslmode_of(self.superuser) is SslMode.VERIFY_FULL
        return Seen(f"is let in, by {session.authentication}, {session.encryption}", "" if verified else UNPROVED)

    def check_change(self) -> Seen:
        """Tell whether the password of the next user may be changed: by itself, or by the superuser.

        What a rotation would do before it changes the password is tried out and rolled back, for only that tells what
        the superuser may.
        """
        if self.strategy is Strategy.SINGLE_USER:
            return look_at_own_password(self.survey)
        for check in ("superuser secret", "superuser login"):
            self.find(check)
        return self.ask(self.superuser_session, self._rehearse)

    def _rehearse(self, session: Session) -> Seen:
        own = look_at_own_password(session.survey())
        if own.action:
            return own
        plan = session.rehearse(self.current.with_password(self.current.password, self.user), self.trust)
        seen = f"the superuser may set the password of {self.user!a}"
        if plan.changes:
            seen += f", and will do before: {' '.join(map(str, plan.changes))}"
        return Seen(seen, " ".join(plan.notes))


def look_at_own_password(survey: Survey) -> Seen:
    """Tell whether the role may change its own password, as it has to under the strategy single user."""
    if survey.password_commands_restricted and "rds_password" not in survey.rds_memberships:
        raise PasswordChangeError(
            "rds.restrict_password_commands is on, and the role is not a member of rds_password.",
            sqlstate="42501",
            hint="`GRANT rds_password TO` the user of this login, as a member of rds_superuser.",
        )
    verifiers = survey.settings.get(VERIFIERS_ALLOWED)  # for every role alike; an old credcheck has no such switch
    if verifiers == "off":
        raise PasswordChangeError(
            f"credcheck takes no verifier, only passwords in plain text: {VERIFIERS_ALLOWED} is off.",
            sqlstate="28000",
            hint=f"Set {VERIFIERS_ALLOWED} = on: a password in plain text would be left in the server's log.",
        )
    if survey.passwords_checked and verifiers is None:
        return Seen(
            "a password-checking extension is loaded; some refuse a SCRAM verifier, since they cannot look into it",
            f"credcheck: set {VERIFIERS_ALLOWED} = on. passwordcheck takes verifiers.",
        )
    if survey.other_rotations and not (survey.createrole or survey.superuser):  # who serves many secrets
        return Seen(
            f"{survey.other_rotations} other sessions of this function have the same role",
            "Wait while a rotation is at work. Of two secrets for one role keep one: they lock each other out.",
        )
    return Seen("the role may change its own password")
