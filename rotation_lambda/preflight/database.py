"""A preflight's look at the database: the way there, its certificate, each version's login, and what a session sees."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rotation_lambda.credential import SslMode
from rotation_lambda.deadline import RESERVE_S
from rotation_lambda.errors import (
    AuthenticationMethodError,
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    DatabaseTimeoutError,
    HostNotFoundError,
    LoginNotAllowedError,
    LoginRefusedError,
    MissingVersionError,
    NoHbaEntryError,
    RotationError,
    TlsError,
)
from rotation_lambda.postgres import tls
from rotation_lambda.postgres.answers import name_login
from rotation_lambda.preflight.findings import Finding, Status
from rotation_lambda.preflight.secret import REACH_TIMEOUT_S
from rotation_lambda.preflight.session import check_own_password, check_session
from rotation_lambda.rotation import shows
from rotation_lambda.settings import PLATFORM_ROOTS, Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import KINDS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from rotation_lambda.credential import Credential
    from rotation_lambda.postgres import Postgres, Session
    from rotation_lambda.preflight.secret import Versions

CHECKS = (
    "trusted roots",
    "DNS",
    "TCP",
    "TLS",
    "authentication",
    "login AWSCURRENT",
    "login AWSPENDING",
    "login AWSPREVIOUS",
)
SLOW_MS = 5000  # the server did not answer at the first try: a login takes 5 seconds at most
_SOON_DAYS, _BUNDLE_SOON_DAYS = 30, 180
_MUCH_CPU_S = 0.5  # libpq computes a verifier's iterations without an end; 1,000,000 take about as long
_CURRENT, _PENDING, _PREVIOUS = (f"login {label}" for label in StagingLabel)


def check_database(
    database: Postgres, versions: Versions, current: Credential
) -> Generator[Finding, None, tuple[bool | None, bool, str | None]]:
    """Yield a finding for each of CHECKS that is reached. No session stays open, and nothing is changed.

    Returns whether AWSCURRENT was accepted, None where there was no answer; whether any label's password was shown to
    be in force for its user; and the role that AWSCURRENT's session runs as.

    Where a rotation connects, and as whom, is AWSCURRENT's to say, as in a rotation; of other versions only the
    password is tried, of labelled ones only, and none more than needed: some servers lock a role out after refusals.
    """
    yield from _roots(database, current)
    began = time.monotonic()
    address = yield from _way(database, current)
    if address is None:
        return None, False, None
    spent = time.process_time()
    answer = log_in(database, current)
    milliseconds, spent = 1000 * (time.monotonic() - began), time.process_time() - spent
    yield from _tls(database, address, current, answer)
    yield from _authentication(answer)
    door = yield from _logins(database, versions, current, answer, (milliseconds, spent))
    if not isinstance(door, DatabaseError):
        with door:
            survey = door.survey()
            yield from check_session(door, survey, versions.strategy)
            if versions.strategy is Strategy.SINGLE_USER:
                yield check_own_password(current, survey)
    shown = shows(database, current, door)
    if not isinstance(answer, DatabaseError):
        return True, shown, answer.runs_as
    return {LoginNotAllowedError: True, LoginRefusedError: False}.get(type(answer)), shown, None


def is_accepted(database: Postgres, versions: Versions, current: Credential, user: str, *, shown: bool) -> bool:
    """Tell whether a label's password is in force for a user, which for AWSCURRENT's is `shown` already or not."""
    if user == current.username:
        return shown
    for label in (StagingLabel.PREVIOUS, StagingLabel.PENDING):
        value = versions.credential(label)
        if value is not None and value.username == user:
            login = current.with_password(value.password, user)
            if shows(database, login, log_in(database, login)):
                return True
    return False


def _roots(database: Postgres, current: Credential) -> Iterator[Finding]:
    """Count the certificates that are trusted, and tell how old they are."""
    if (current.sslmode or database.sslmode) not in {SslMode.VERIFY_CA, SslMode.VERIFY_FULL}:
        yield Finding("trusted roots", Status.NOT_REACHED, "no certificate is verified")
        return
    name = current.tls_server_name or current.address[0]
    file = tls.roots_for(database.sslrootcert, name)
    try:
        roots = tls.read_roots(file)
    except (OSError, ConfigurationError) as error:
        what = error.what if isinstance(error, ConfigurationError) else "The file of PGSSLROOTCERT cannot be read."
        yield Finding.failure("trusted roots", ConfigurationError(what))
        return
    days, action = roots.days_left, ""
    seen = (
        f"{tls.describe(file)}: {roots.count} certificates, the newest of {roots.newest:%Y-%m}, the first to expire on "
        f"{roots.first_expires:%Y-%m-%d}"
    )
    if region := tls.missing_region(database.sslrootcert, name):
        seen, action = f"{seen}; none is of the Region {region}", tls.ADD_ROOTS
    elif days <= _BUNDLE_SOON_DAYS and database.sslrootcert != PLATFORM_ROOTS:
        action = "Run `make bundle ARGS=--update` and deploy, or replace the file of PGSSLROOTCERT."
    # The platform's roots are many and of all ages: those that expire are renewed with the platform.
    measured = {} if database.sslrootcert == PLATFORM_ROOTS else {"DaysUntilExpiry": float(days)}
    yield Finding("trusted roots", Status.WARNING if action else Status.OK, seen, action, measured=measured)


def _way(database: Postgres, current: Credential) -> Generator[Finding, None, str | None]:
    """DNS and TCP: return an address that lets itself be reached."""
    host, port = current.address
    try:
        addresses = database.look_up(current)
    except HostNotFoundError as error:
        yield Finding.failure("DNS", error)
        return None
    yield Finding("DNS", Status.OK, f"{host} is {', '.join(addresses)}")
    try:
        reached, failed = database.deadline.wait_for(partial(_reach, addresses, current), RESERVE_S)
    except DatabaseError as error:
        yield Finding.failure("TCP", error)
        return None
    seen = "; ".join([*(f"{address} port {port} in {ms:.0f} ms" for address, ms in reached.items()), *failed])
    action = "Some addresses do not answer, so that every login waits." if failed else ""
    yield Finding("TCP", Status.WARNING if action else Status.OK, seen, action)
    return next(iter(reached))


def _reach(addresses: list[str], current: Credential) -> tuple[dict[str, float], list[str]]:
    """Return which addresses let themselves be reached, in how many milliseconds, and what is told of the others."""
    port, reached, failed = current.address[1], {}, []
    for address in addresses:
        began = time.monotonic()
        try:
            socket.create_connection((address, port), timeout=REACH_TIMEOUT_S).close()
        except OSError as error:
            failed.append(f"{address} port {port}: {error.strerror or 'no answer'}")
            kind = DatabaseTimeoutError if isinstance(error, TimeoutError) else ConnectionFailedError
        else:
            reached[address] = 1000 * (time.monotonic() - began)
    if not reached:
        raise kind(f"{name_login(current)}: TCP fails: {'; '.join(failed)}.")
    return reached, failed


def log_in(database: Postgres, credential: Credential, *, scram_only: bool = False) -> Session | DatabaseError:
    """Return a session, or what stands in its way; what may pass is waited for, as in a rotation."""
    ask = partial(database.log_in, credential, scram_only=scram_only, reserve=RESERVE_S)
    try:
        return database.deadline.wait_for(ask, RESERVE_S)
    except DatabaseError as error:
        return error


def _tls(database: Postgres, address: str, current: Credential, answer: Session | DatabaseError) -> Iterator[Finding]:
    """Libpq is the judge, by its answer; the ssl module is the witness of what the certificate says."""
    if isinstance(answer, TlsError):
        yield Finding.failure("TLS", answer)
    if isinstance(answer, (TlsError, HostNotFoundError, ConnectionFailedError, DatabaseTimeoutError)):
        return
    sslmode = current.sslmode or database.sslmode
    if sslmode is SslMode.DISABLE:
        yield Finding(
            "TLS",
            Status.WARNING,
            "none: the secret or PGSSLMODE says so",
            "Whoever is on the way can read all queries, and pose as the server: give it TLS, remove `ssl` or sslmode.",
        )
        return
    certificate = None
    with suppress(OSError, ValueError):
        certificate = database.look_at_certificate(address, current)
    if certificate is None:
        yield Finding("TLS", Status.OK, f"{sslmode}; the certificate did not show itself a second time")
        return
    name = current.tls_server_name or current.address[0]
    seen = f"{certificate.protocol}, {sslmode}: asked for {name}, {certificate}, {certificate.days_left} days left"
    if sslmode is not SslMode.VERIFY_FULL:
        action = "Use verify-full: without it another server can pose as this one."
    elif certificate.days_left < _SOON_DAYS:
        action = "Renew the server's certificate in time; RDS does so by itself where the CA is rsa2048-g1 or newer."
    else:
        action = ""
    measured = {"DaysUntilExpiry": float(certificate.days_left)}
    yield Finding("TLS", Status.WARNING if action else Status.OK, seen, action, measured=measured)


def _authentication(answer: Session | DatabaseError) -> Iterator[Finding]:
    """Tell how the server asks for the password."""
    if isinstance(answer, (AuthenticationMethodError, NoHbaEntryError)):
        yield Finding.failure("authentication", answer)
    elif isinstance(answer, (LoginRefusedError, LoginNotAllowedError)):
        yield Finding("authentication", Status.OK, "by password, in scram-sha-256 or md5")
    elif not isinstance(answer, DatabaseError):
        yield _method(answer.authentication)


def _method(authentication: str) -> Finding:
    if authentication == "scram-sha-256":
        return Finding("authentication", Status.OK, "scram-sha-256, by which the server proves itself as well")
    return Finding(
        "authentication",
        Status.WARNING,
        f"{authentication}: who sees the server's copy of the password can log in with it",
        "Set password_encryption to scram-sha-256, ask for it in pg_hba.conf, and rotate.",
    )


def _let_in(current: Credential, milliseconds: float, spent: float) -> Finding:
    """Tell how long the login took, and whether it was this function that took so long."""
    seen = f"role {current.username!a} is let in to database {current.dbname!a}, in {milliseconds:.0f} ms"
    if spent > _MUCH_CPU_S:
        seen += f", {spent:.1f} seconds of them this function's own CPU"
        action = "Its SCRAM verifier has many iterations: set scram_iterations = 4096 for the user, and rotate."
    elif milliseconds > SLOW_MS:
        action = "Set the function's Timeout to 60 seconds or more, so that setSecret can wait for the server as long."
    else:
        action = ""
    return Finding(_CURRENT, Status.WARNING if action else Status.OK, seen, action)


def _logins(
    database: Postgres,
    versions: Versions,
    current: Credential,
    answer: Session | DatabaseError,
    took: tuple[float, float],
) -> Generator[Finding, None, Session | DatabaseError]:
    """Yield the labels' findings; return what the first password that is in force leads to, or AWSCURRENT's refusal."""
    if isinstance(answer, DatabaseError) and not isinstance(answer, LoginRefusedError):
        if not isinstance(answer, (TlsError, AuthenticationMethodError, NoHbaEntryError)):
            yield Finding.failure(_CURRENT, answer)
        return answer
    pending = yield from _pending(database, versions, current, answer)
    if not isinstance(answer, DatabaseError):
        yield _let_in(current, *took)
        yield Finding(_PREVIOUS, Status.NOT_REACHED, "not tried, since AWSCURRENT logs in")
        if pending is not None and not isinstance(pending, DatabaseError):
            pending.close()
        return answer
    if versions.strategy is Strategy.ALTERNATING_USERS:
        yield Finding.failure(_CURRENT, answer)
        yield Finding(_PREVIOUS, Status.NOT_REACHED, "not tried, since it is the other user's")
        if pending is not None and not isinstance(pending, DatabaseError):
            pending.close()
        return answer
    if pending is not None and not isinstance(pending, LoginRefusedError):
        yield _explained(answer, "AWSPENDING's password is in force: a rotation stopped before finishSecret")
        yield Finding(_PREVIOUS, Status.NOT_REACHED, "not tried, since AWSPENDING logs in")
        return pending
    previous = yield from _previous(database, versions, current)
    if previous is None or isinstance(previous, LoginRefusedError):
        if versions.strategy is Strategy.SUPERUSER:
            yield _explained(answer, "No label has the password that is in force")
        else:
            yield Finding.failure(_CURRENT, answer)
        return answer
    yield _explained(
        answer,
        "AWSPREVIOUS's password is in force: the database was restored from a snapshot of before the last rotation, or "
        "somebody set it back",
    )
    return previous


def _explained(refusal: LoginRefusedError, reason: str) -> Finding:
    """AWSCURRENT is refused, and a rotation would mend that."""
    action = "Applications cannot log in now. Rotate, and setSecret gets in: «aws secretsmanager rotate-secret»."
    return Finding(_CURRENT, Status.FAILED, f"{refusal.what} {reason}.", action)


def _pending(
    database: Postgres, versions: Versions, current: Credential, answer: Session | DatabaseError
) -> Generator[Finding, None, Session | DatabaseError | None]:
    """AWSPENDING is tried only where it is a version of its own, for the next login, with another password."""
    version = versions.ids.get(StagingLabel.PENDING)
    if version is None or version == versions.ids[StagingLabel.CURRENT]:
        yield Finding(_PENDING, Status.NOT_REACHED, "no version of its own has it")
        return None
    value = versions.values[StagingLabel.PENDING]
    if isinstance(value, MissingVersionError):
        yield Finding(_PENDING, Status.NOT_REACHED, "the version is empty")
        return None
    try:
        if isinstance(value, RotationError):
            raise value
        value.check_same_login(current.with_password("", KINDS[versions.strategy].next_user(current)), version)
    except RotationError as error:
        yield Finding.failure(_PENDING, error)
        return None
    if value.password == current.password:
        yield Finding(_PENDING, Status.OK, "has AWSCURRENT's password")
        return None
    pending = log_in(database, value)
    if isinstance(pending, LoginRefusedError):
        yield Finding(_PENDING, Status.OK, "refused, as it has to be before setSecret")
    elif isinstance(pending, DatabaseError):
        yield Finding.failure(_PENDING, pending)
    elif isinstance(answer, DatabaseError) or value.username != current.username:
        yield Finding(_PENDING, Status.OK, "is let in")
    else:
        yield Finding(_PENDING, Status.WARNING, "is let in, as AWSCURRENT is: the server does not look at passwords")
    return pending


def _previous(
    database: Postgres, versions: Versions, current: Credential
) -> Generator[Finding, None, Session | DatabaseError | None]:
    """AWSPREVIOUS lends its password only, and only that of the same user."""
    value = versions.credential(StagingLabel.PREVIOUS)
    if value is None or value.username != current.username or value.password == current.password:
        yield Finding(_PREVIOUS, Status.NOT_REACHED, "no other password of this role has it")
        return None
    previous = log_in(database, current.with_password(value.password))
    if isinstance(previous, LoginRefusedError):
        yield Finding(_PREVIOUS, Status.OK, "refused, as it has to be after a rotation")
    elif isinstance(previous, DatabaseError):
        yield Finding.failure(_PREVIOUS, previous)
    else:
        yield Finding(_PREVIOUS, Status.WARNING, "is let in")
    return previous
