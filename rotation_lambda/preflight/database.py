"""A preflight's look at the database: the way there, its certificate, and each version's login.

Where a rotation connects, and as whom, is AWSCURRENT's to say, as in a rotation; of other versions only the password is
tried, of labelled ones only, and none more than needed: some servers lock a role out after refusals.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeGuard, TypeVar

from rotation_lambda import errors
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import RESERVE_S
from rotation_lambda.postgres import Postgres, Session, tls
from rotation_lambda.postgres.answers import name_login
from rotation_lambda.postgres.login import COSTLY, MUCH_CPU_S
from rotation_lambda.postgres.session import SCRAM
from rotation_lambda.preflight.findings import BlockedError, Seen, Status
from rotation_lambda.preflight.secret import REACH_TIMEOUT_S, SecretLook
from rotation_lambda.rotation import as_sure_as
from rotation_lambda.settings import PLATFORM_ROOTS, Strategy
from rotation_lambda.staging import StagingLabel

_Answer = TypeVar("_Answer")

UNPROVED = "Use verify-full: without it another server can pose as this one."
SLOW_MS = 5000  # the server did not answer at the first try: a login takes 5 seconds at most
_SOON_DAYS, _BUNDLE_SOON_DAYS = 30, 180
_CURRENT, _PENDING, _PREVIOUS = StagingLabel
_VERDICTS = errors.LoginRefusedError, errors.LoginNotAllowedError
_REASONS = {
    _PENDING: "AWSPENDING's password is in force: a rotation stopped before finishSecret",
    _PREVIOUS: "AWSPREVIOUS's password is in force: the database was restored from a snapshot of before "
    "the last rotation, or it was set again by hand",
    None: "No label has the password that is in force",
}


class DatabaseLook(SecretLook):
    """The checks of the way to the database, and of the logins."""

    def check_roots(self) -> Seen:
        """Count the certificates that are trusted, and tell how old they are."""
        database, current = self.database, self.current
        if not database.verifies(current):
            return Seen("no certificate is verified", status=Status.NOT_REACHED)
        name, trusted = current.tls_server_name or current.address[0], database.sslrootcert
        file = tls.roots_for(trusted, name)
        try:
            roots = tls.read_roots(file)
        except OSError:
            raise errors.ConfigurationError("The file of PGSSLROOTCERT cannot be read.") from None
        seen = f"{tls.describe(file)}: {roots.count} certificate{'s' * (roots.count > 1)}, "
        seen += f"the newest of {roots.newest:%Y-%m}, the first to expire on {roots.first_expires:%Y-%m-%d}"
        if trusted == PLATFORM_ROOTS:  # they are many and of all ages: those that expire are renewed with the platform
            return Seen(seen)
        days, action = roots.days_left, ""
        if region := tls.missing_region(trusted, name):
            seen, action = f"{seen}; none is of the Region {region}", tls.ADD_ROOTS
        elif days <= _BUNDLE_SOON_DAYS:
            action = "Run `make bundle ARGS=--update` and deploy, or replace the file of PGSSLROOTCERT."
        return Seen(seen, action, measured={"DaysUntilExpiry": float(days)})

    def check_dns(self) -> Seen:
        """Look up the host."""
        self.began = time.monotonic()
        self.deadline.check(RESERVE_S, f"{name_login(self.current)}: no time is left to look up the host.")
        self.addresses = self.deadline.wait_for(partial(self.database.look_up, self.current), RESERVE_S)
        return Seen(f"{self.current.address[0]} is {', '.join(self.addresses)}")

    def check_tcp(self) -> Seen:
        """Find an address that lets itself be reached."""
        port, (reached, failed) = self.current.address[1], self.deadline.wait_for(self._reach, RESERVE_S)
        self.address = next(iter(reached))
        seen = "; ".join([*(f"{address} port {port} in {ms:.0f} ms" for address, ms in reached.items()), *failed])
        return Seen(seen, "Remove from DNS what does not answer: every login waits for it." if failed else "")

    def _reach(self) -> tuple[dict[str, float], list[str]]:
        """Return which addresses let themselves be reached, in how many milliseconds, and what is told of the others.

        All of them take REACH_TIMEOUT_S at most: as in a login, each gets its share of the time that is left.
        """
        port, reached, failed = self.current.address[1], {}, []
        end = time.monotonic() + min(REACH_TIMEOUT_S, self.deadline.left(RESERVE_S))
        for number, address in enumerate(self.addresses):
            began = time.monotonic()
            seconds = max(0.001, (end - began) / (len(self.addresses) - number))  # 0 would be no wait at all
            try:
                socket.create_connection((address, port), timeout=seconds).close()
            except OSError as error:
                failed.append(f"{address} port {port}: {error.strerror or 'no answer'}")
                kind = errors.DatabaseTimeoutError if isinstance(error, TimeoutError) else errors.ConnectionFailedError
            else:
                reached[address] = 1000 * (time.monotonic() - began)
        if not reached:
            raise kind(f"{name_login(self.current)}: TCP fails: {'; '.join(failed)}.")
        return reached, failed

    def check_tls(self) -> Seen:
        """Log in: libpq is the judge, by its answer; the ssl module is the witness of what the certificate says."""
        address, current, database = self.address, self.current, self.database
        spent = time.process_time()
        answer = log_in(database, current)
        self.took = 1000 * (time.monotonic() - self.began), time.process_time() - spent
        self.doors = {_CURRENT: answer}
        if isinstance(answer, errors.TlsError):
            raise answer
        if isinstance(answer, errors.HostNotFoundError | errors.ConnectionFailedError | errors.DatabaseTimeoutError):
            raise BlockedError
        sslmode = database.sslmode_of(current)
        if sslmode is SslMode.DISABLE:
            return Seen(
                "none: the secret or PGSSLMODE says so",
                "Give the server TLS, and remove `ssl` or sslmode: a host on the way can read and change all queries.",
            )
        certificate = None
        with suppress(OSError, ValueError):
            certificate = database.look_at_certificate(address, current)
        if certificate is None:
            return Seen(f"{sslmode}; the certificate did not show itself a second time")
        name, days, action = current.tls_server_name or current.address[0], certificate.days_left, ""
        if sslmode is not SslMode.VERIFY_FULL:
            action = UNPROVED
        elif days < _SOON_DAYS:
            action = "Renew the server's certificate; RDS does so by itself where the CA is rsa2048-g1 or newer."
        seen = f"{certificate.protocol}, {sslmode}: asked for {name}, {certificate}, {days} days left"
        return Seen(seen, action, measured={"DaysUntilExpiry": float(days)})

    def ask(self, door: Session, question: Callable[[Session], _Answer]) -> _Answer:
        """Ask in the session, which ends with that; where it is cut in between, in a new one, as a rotation does."""
        opened, scram_only = [door], door.authentication == SCRAM
        log_in_again = partial(self.database.log_in, door.credential, scram_only=scram_only, reserve=RESERVE_S)

        def once() -> _Answer:
            with opened.pop() if opened else log_in_again() as session:
                return question(session)

        return self.deadline.wait_for(once, RESERVE_S, passes=lambda error: error.unknown or error.lost)

    def check_authentication(self) -> Seen:
        """Tell how the server asks for the password."""
        answer = self.doors[_CURRENT]
        if isinstance(answer, errors.AuthenticationMethodError | errors.NoHbaEntryError):
            raise answer
        if is_unknown(answer):
            raise BlockedError
        if isinstance(answer, errors.DatabaseError):
            return Seen("by password, in scram-sha-256 or md5")
        if answer.authentication == SCRAM:
            return Seen("scram-sha-256, by which the server proves itself as well")
        return Seen(
            f"{answer.authentication}: who sees the server's copy of the password can log in with it",
            "Set password_encryption to scram-sha-256 on the server, and rotate. Ask for it in pg_hba.conf afterwards.",
        )

    def check_current(self) -> Seen:
        """Tell whether AWSCURRENT is let in; if it is refused, whether another label's password is in force.

        The first password that is in force opens the session of the checks that follow.
        """
        answer = self.doors[_CURRENT]
        if not isinstance(answer, errors.LoginRefusedError):
            if not is_unknown(answer):
                self.door = answer
            if isinstance(answer, errors.DatabaseError):
                raise answer
            return _let_in(self.current, *self.took)
        for check in ("login AWSPENDING", "login AWSPREVIOUS"):
            self.find(check)
        tried = ((label, door) for label, door in self.doors.items() if not isinstance(door, errors.LoginRefusedError))
        label, door = next(tried, (None, answer))
        if label is None and self.strategy is not Strategy.SUPERUSER:
            raise answer
        if is_unknown(door):
            action = f"Do what `login {label}` says, and run the preflight again: applications cannot log in now."
            return Seen(f"{answer.what} Whether {label}'s password is in force is not known.", action, Status.FAILED)
        self.door = door
        action = "Rotate at once: `aws secretsmanager rotate-secret --secret-id ID`. Applications cannot log in now."
        return Seen(f"{answer.what} {_REASONS[label]}.", action, Status.FAILED)

    def check_pending(self) -> Seen:
        """Try AWSPENDING only where it is a version of its own, for the next login, with another password."""
        answer, current = self.doors[_CURRENT], self.current
        if isinstance(answer, errors.DatabaseError) and not isinstance(answer, errors.LoginRefusedError):
            raise answer
        version = self.versions.with_label(_PENDING)
        if version in {None, self.versions.current}:
            return Seen("no version of its own has it", status=Status.NOT_REACHED)
        value = self.values[_PENDING]
        if isinstance(value, errors.MissingVersionError):
            return Seen("the version is empty", status=Status.NOT_REACHED)
        if isinstance(value, errors.RotationError):
            raise value
        value.check_same_login(current.with_password("", self.user), version)
        if value.password == current.password:
            return Seen("has AWSCURRENT's password")
        door, of_one_user = log_in(self.database, value), value.username == current.username
        if of_one_user:
            self.doors[_PENDING] = door
        if isinstance(door, errors.LoginRefusedError):
            return Seen("refused, as it has to be before setSecret")
        if isinstance(door, errors.DatabaseError):
            raise door
        if of_one_user and isinstance(answer, errors.DatabaseError):  # the session is for what is looked at next
            return Seen("is let in")
        door.close()
        too = ", as AWSCURRENT is: the server does not look at passwords" if of_one_user else ""
        return Seen(f"is let in{too}", status=Status.WARNING if too else None)

    def check_previous(self) -> Seen:
        """Try AWSPREVIOUS after all others: it lends its password only, and only that of the same user."""
        answer, current = self.doors[_CURRENT], self.current
        if not isinstance(answer, errors.DatabaseError):
            return Seen("not tried, since AWSCURRENT logs in", status=Status.NOT_REACHED)
        if not isinstance(answer, errors.LoginRefusedError):
            raise answer
        pending, anothers = self.doors.get(_PENDING, answer), self.strategy is Strategy.ALTERNATING_USERS
        if anothers or not isinstance(pending, errors.LoginRefusedError):
            told = "has no answer" if is_unknown(pending) else "logs in"
            told = "it is the other user's" if anothers else f"AWSPENDING {told}"
            return Seen(f"not tried, since {told}", status=Status.NOT_REACHED)
        old = self.values.get(_PREVIOUS)
        if not isinstance(old, Credential) or old.username != current.username or old.password == current.password:
            return Seen("no other password of this role has it", status=Status.NOT_REACHED)
        if not as_sure_as(self.database, current, old):
            return Seen("not tried, since it is for another server, or for stricter TLS", status=Status.NOT_REACHED)
        door = self.doors[_PREVIOUS] = log_in(self.database, current.with_password(old.password))
        if isinstance(door, errors.LoginRefusedError):
            return Seen("refused, as it has to be after a rotation")
        if isinstance(door, errors.DatabaseError):
            raise door
        return Seen("is let in", status=Status.WARNING)


def log_in(database: Postgres, credential: Credential, *, scram_only: bool = False) -> Session | errors.DatabaseError:
    """Return a session, or what stands in its way; what may pass is waited for, as in a rotation."""
    ask = partial(database.log_in, credential, scram_only=scram_only, reserve=RESERVE_S)
    try:
        return database.deadline.wait_for(ask, RESERVE_S)
    except errors.DatabaseError as error:
        return error


def is_unknown(door: Session | errors.DatabaseError) -> TypeGuard[errors.DatabaseError]:
    """Tell whether what a login led to leaves it open if the password is in force."""
    return isinstance(door, errors.DatabaseError) and not isinstance(door, _VERDICTS)


def _let_in(current: Credential, milliseconds: float, spent: float) -> Seen:
    """Tell how long the login took, and whether it was this function that took so long."""
    seen, action = f"role {current.username!a} is let in to database {current.dbname!a}, in {milliseconds:.0f} ms", ""
    if spent > MUCH_CPU_S:
        seen += f", {spent:.1f} seconds of them this function's own CPU"
        action = COSTLY
    elif milliseconds > SLOW_MS:
        action = "Set the function's Timeout to 60 seconds or more, so that setSecret can wait for the server as long."
    return Seen(seen, action)
