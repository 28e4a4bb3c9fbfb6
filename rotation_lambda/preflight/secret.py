"""A preflight's look at Secrets Manager: reachable, allowed, switched on, and is each value a credential."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from math import log2
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rotation_lambda.copies import Kind
from rotation_lambda.credential import Credential
from rotation_lambda.errors import (
    AccessDeniedError,
    InvalidSecretError,
    MissingVersionError,
    RotationError,
    RotationRefusedError,
    SecretDeletedError,
    SecretNotFoundError,
)
from rotation_lambda.preflight.findings import Finding, Status
from rotation_lambda.settings import Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import KINDS, resolve

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from rotation_lambda.secrets_manager import Description, SecretsManager
    from rotation_lambda.settings import PasswordPolicy, Settings

REACH_TIMEOUT_S = 3.0
ENOUGH_BITS = 80
_NEW = "new"  # stands for a password that is not made yet
_WARN_SKEW_S, _MOST_SKEW_S = 60, 300  # AWS refuses a signature that is older than five minutes

CHECKS = (
    "Secrets Manager",
    "clock",
    "DescribeSecret",
    "GetSecretValue",
    "ListSecretVersionIds",
    "GetRandomPassword",
    "PutSecretValue",
    "UpdateSecretVersionStage",
    "KMS key",
    "rotation",
    "labels",
    "replicas",
    "secret",
    "copies",
    "new password",
)


@dataclass(frozen=True, slots=True)
class Versions:
    """What the labelled versions hold, a credential or the error that stands in its place; and what rotates them.

    `users` are those that the secret's tag names.
    """

    ids: dict[StagingLabel, str]
    values: dict[StagingLabel, Credential | RotationError]
    strategy: Strategy = Strategy.SINGLE_USER
    users: frozenset[str] = frozenset()

    def credential(self, label: StagingLabel) -> Credential | None:
        """Return the label's credential, if that can be read."""
        value = self.values.get(label)
        return value if isinstance(value, Credential) else None


def check_secret(
    secrets: SecretsManager, settings: Settings, function_arn: str | None
) -> Generator[Finding, None, Versions | None]:
    """Yield a finding for each of CHECKS that is reached; return what the labelled versions hold."""
    endpoint = secrets.client.meta.endpoint_url
    began = time.monotonic()
    try:
        description = secrets.describe()
    except (AccessDeniedError, SecretNotFoundError, SecretDeletedError) as error:
        yield _answered(endpoint, time.monotonic() - began)
        yield Finding.failure("DescribeSecret", error)
        if isinstance(error, AccessDeniedError):  # others may be missing as well: one report names them all
            yield from _permissions(secrets, settings)
        return None
    except RotationError as error:
        yield Finding("Secrets Manager", Status.FAILED, f"{error.what} {_way(endpoint)}", error.hint, error.code)
        return None
    yield _answered(endpoint, time.monotonic() - began)
    clock = description.clock.timestamp() if description.clock else None
    yield check_clock("clock", clock, "Secrets Manager's")
    yield Finding("DescribeSecret", Status.OK, "allowed")
    is_superusers = description.arn in (settings.superuser_secret_arns or ())
    if function_arn and is_superusers and not is_same_function(description.function_arn or "", function_arn):
        refusal = RotationRefusedError(
            "The secret is a superuser's, and this function does not rotate it.",
            hint="Run the preflight with permissions of your own: `python -m rotation_lambda.preflight SECRET_ID`.",
        )
        yield Finding.failure("rotation", refusal)
        return None
    secrets = replace(secrets, secret_id=description.arn)
    yield from _permissions(secrets, settings)
    yield _rotation(description, function_arn)
    if description.versions.managed:
        return None
    return (yield from _versions(secrets, description, settings))


def _answered(endpoint: str, seconds: float) -> Finding:
    return Finding("Secrets Manager", Status.OK, f"{_way(endpoint)} It answered in {seconds * 1000:.0f} ms.")


def _way(endpoint: str) -> str:
    """Tell how far one gets on the way to an endpoint: DNS, TCP, and whether it is an address of the VPC's."""
    url = urlsplit(endpoint)
    host, port = url.hostname or "", url.port or {"http": 80}.get(url.scheme, 443)
    began = time.monotonic()
    try:
        address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        return f"DNS does not know {host} ({error.strerror})."
    place = "a private address" if ip_address(address).is_private else "a public address"
    try:
        socket.create_connection((address, port), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        return f"{host} is {address}, {place}; TCP to port {port} fails ({error.strerror or 'no answer'})."
    return f"{host} is {address}, {place}; DNS and TCP took {(time.monotonic() - began) * 1000:.0f} ms."


def check_clock(check: str, theirs: float | None, whose: str) -> Finding:
    """Compare a clock, in seconds since 1970, with this machine's."""
    if theirs is None:
        return Finding(check, Status.NOT_REACHED, f"{whose} answer has no date.")
    skew = abs(time.time() - theirs)
    if skew <= _WARN_SKEW_S:
        return Finding(check, Status.OK, f"{whose} clock and this one agree.")
    status = Status.WARNING if skew < _MOST_SKEW_S else Status.FAILED
    action = "Set the clock that is wrong: AWS refuses signatures five minutes off, and VALID UNTIL and TLS go by it."
    return Finding(check, status, f"{whose} clock is {skew:.0f} seconds from this one.", action)


def _permissions(secrets: SecretsManager, settings: Settings) -> Generator[Finding, None, None]:
    """Ask what can be asked without changing anything; name what cannot."""
    try:
        number = len(secrets.list_secret_version_ids())
    except RotationError as error:
        yield Finding.failure("ListSecretVersionIds", error)
    else:
        yield Finding("ListSecretVersionIds", Status.OK, f"allowed; versions kept: {number}")
    try:
        secrets.get_random_password(settings.password_policy)
    except RotationError as error:
        yield Finding.failure("GetRandomPassword", error)
    else:
        yield Finding("GetRandomPassword", Status.OK, "allowed, and it can make a password of this policy")
    for action in ("PutSecretValue", "UpdateSecretVersionStage"):
        yield Finding(
            action,
            Status.NOT_REACHED,
            "cannot be tried without changing something; template.yaml grants it",
            f"Ask IAM: `aws iam simulate-principal-policy --policy-source-arn ROLE_ARN --action-names "
            f"secretsmanager:{action} --resource-arns SECRET_ARN`.",
        )


def _rotation(description: Description, function_arn: str | None) -> Finding:
    """Tell whether rotation is on, when it is due, and whether it comes here."""
    versions = description.versions
    try:
        versions.check_secret()
    except RotationRefusedError as error:
        return Finding.failure("rotation", error)
    if versions.rotation_enabled is None:
        return Finding(
            "rotation",
            Status.NOT_REACHED,
            "not configured for this secret",
            "Once nothing fails here, configure it: `aws secretsmanager rotate-secret --secret-id ID "
            "--rotation-lambda-arn ARN --rotation-rules AutomaticallyAfterDays=30`.",
        )
    last = description.last_rotated
    seen = f"on, {description.schedule or 'without a schedule'}; last {f'{last:%Y-%m-%d %H:%M}' if last else 'never'}"
    due, now = description.next_rotation, datetime.now(UTC)
    measured = {"DaysSinceRotation": (now - last) / timedelta(days=1)} if last else {}
    if due:
        seen += f", next {due:%Y-%m-%d}"
        measured["DaysOverdue"] = max(0.0, (now - due) / timedelta(days=1))
    if function_arn and description.function_arn and not is_same_function(description.function_arn, function_arn):
        return Finding(
            "rotation",
            Status.WARNING,
            f"{seen}; it invokes {description.function_arn}, not this function",
            "Point the secret's rotation to this function, or run the preflight of the other one.",
            measured=measured,
        )
    if due and due < now:
        action = "Read the function's log of that day."
        return Finding("rotation", Status.WARNING, f"{seen}, which is over", action, measured=measured)
    return Finding("rotation", Status.OK, seen, measured=measured)


def _replicas(replicas: Mapping[str, str]) -> Finding:
    """Tell whether the secret's replicas in other Regions have what this one has."""
    seen = ", ".join(f"{region} {status}" for region, status in replicas.items()) or "the secret has none"
    if "Failed" not in replicas.values():
        return Finding("replicas", Status.OK, seen)
    action = "Read why with `aws secretsmanager describe-secret`. Applications in that Region read the old password."
    return Finding("replicas", Status.WARNING, seen, action)


def is_same_function(one: str, other: str) -> bool:
    """Compare two ARNs of a function, either of which may end in a version or an alias."""
    return one.split(":")[:7] == other.split(":")[:7]


def _versions(
    secrets: SecretsManager, description: Description, settings: Settings
) -> Generator[Finding, None, Versions | None]:
    """Read what each label is on, once; a version that has two labels is read once."""
    versions = description.versions
    ids = {label: version for label in StagingLabel if (version := versions.with_label(label))}
    read = {version: _read(secrets, version) for version in dict.fromkeys(ids.values())}
    found = Versions(ids, {label: read[version] for label, version in ids.items()}, users=versions.users)
    yield _labels(found)
    yield _replicas(versions.replicas)
    if StagingLabel.CURRENT not in ids:
        return None
    current = found.values[StagingLabel.CURRENT]
    if isinstance(current, RotationError):
        allowed = isinstance(current, InvalidSecretError)  # what it holds is another matter
        yield Finding.failure("secret" if allowed else "GetSecretValue", current)
        return None
    key = description.kms_key or "aws/secretsmanager, the AWS managed key"
    yield Finding("GetSecretValue", Status.OK, "allowed")
    yield Finding("KMS key", Status.OK, f"decrypts: {key}")
    try:
        strategy = resolve(settings.strategy, current)
        user = KINDS[strategy].next_user(current)
    except InvalidSecretError as error:
        yield Finding.failure("secret", error)
        return None
    yield _fields(current, strategy, user)
    yield _copies(current, found.credential(StagingLabel.PREVIOUS), user)
    yield _policy(current, settings.password_policy)
    return replace(found, strategy=strategy)


def _read(secrets: SecretsManager, version: str) -> Credential | RotationError:
    """Return the version's credential; for one that is none, an error that lists all that is wrong with it."""
    try:
        text = secrets.get_secret_value(version)
    except RotationError as error:
        return error
    faults = Credential.faults(text)
    if not faults:
        return Credential.parse(text)
    return InvalidSecretError(" ".join(fault.what for fault in faults), hint=faults[0].hint)


def _labels(found: Versions) -> Finding:
    """Where is AWSPENDING? On AWSCURRENT's version or on none it is at rest."""
    pending, current = found.ids.get(StagingLabel.PENDING), found.ids.get(StagingLabel.CURRENT)
    if current is None:
        error = MissingVersionError(
            "No version has AWSCURRENT: there is nothing to rotate from.",
            hint="Store the credential first, with «aws secretsmanager put-secret-value».",
        )
        return Finding.failure("labels", error)
    if pending is None or pending == current:
        return Finding("labels", Status.OK, f"AWSCURRENT is on version {current}; no rotation is under way")
    holds = "which is empty" if isinstance(found.values[StagingLabel.PENDING], MissingVersionError) else "with a value"
    return Finding(
        "labels",
        Status.WARNING,
        f"AWSCURRENT is on version {current}, AWSPENDING on {pending}, {holds}: a rotation is at work, or got stuck",
        "If none is at work, correct what other findings name; then `aws secretsmanager rotate-secret` continues it.",
    )


def _fields(credential: Credential, strategy: Strategy, user: str) -> Finding:
    """List the secret's keys, all but the password's value."""
    host, port = credential.address
    told = {
        "host": credential.host,
        "port": credential.port,
        "dbname": ascii(credential.dbname),
        "username": ascii(credential.username),
        "sslmode": credential.sslmode or "of PGSSLMODE",
        "tlsServerName": credential.tls_server_name,
        "rotationHost": credential.rotation_host and host,
        "rotationPort": credential.rotation_port and port,
        "masterarn": credential.masterarn,
        "strategy": strategy,
        "next user": user != credential.username and ascii(user),
    }
    return Finding("secret", Status.OK, ", ".join(f"{key} {value}" for key, value in told.items() if value))


def _copies(current: Credential, previous: Credential | None, user: str) -> Finding:
    """Tell where else in the secret the password stands: what is renewed, what is left alone, what stops a rotation."""
    pending = current.with_password(_NEW, user)
    try:
        copies = pending.renewed()
    except InvalidSecretError as error:
        return Finding.failure("copies", error)
    told = copies.notes(Kind.RENEWED, Kind.OLD_USER, Kind.ALLOWED)
    doubts = copies.notes(Kind.NO_USER, Kind.OTHER_USER, Kind.WORD)
    if previous and previous.password != current.password:
        stale = pending.copies(previous).paths(Kind.RENEWED, Kind.UNKNOWN)
        doubts += [f"{stale}: holds AWSPREVIOUS's password, and is not renewed."] if stale else []
    seen = " ".join(told + doubts) or "No other key holds the password."
    action = "Compare these keys with `username` and `password`: applications that read them may be locked out."
    return Finding("copies", Status.WARNING if doubts else Status.OK, seen, action if doubts else "")


def _policy(current: Credential, policy: PasswordPolicy) -> Finding:
    """Measure what the next password will be, and say whether today's is one of that kind."""
    characters = policy.characters
    bits = policy.length * log2(len(characters))
    seen = f"{policy.length} of {len(characters)} characters, about {bits:.0f} bits"
    fits = len(current.password) == policy.length and set(current.password) <= characters
    seen += "; AWSCURRENT is of that kind" if fits else "; AWSCURRENT is of another kind, until the next rotation"
    if bits < ENOUGH_BITS:
        return Finding(
            "new password",
            Status.WARNING,
            seen,
            f"Raise PASSWORD_LENGTH or exclude less: {ENOUGH_BITS} bits withstand guessing from a stolen verifier.",
        )
    return Finding("new password", Status.OK, seen)
