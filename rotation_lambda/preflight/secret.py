"""A preflight's look at the function, and at Secrets Manager: reachable, allowed, and is each value a credential."""

import socket
import time
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from ipaddress import ip_address
from math import log2
from urllib.parse import urlsplit

from rotation_lambda import clients, errors
from rotation_lambda.copies import Kind
from rotation_lambda.credential import Credential
from rotation_lambda.deadline import MINIMUM_S
from rotation_lambda.postgres import Postgres
from rotation_lambda.preflight.findings import IN_THE_WAY, BlockedError, Look, Seen, Status
from rotation_lambda.rds import Rds
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import KINDS, resolve
from rotation_lambda.superuser import Superusers

REACH_TIMEOUT_S = 3.0
ENOUGH_BITS = 80
_NEW = "new"  # stands for a password that is not made yet
_WARN_SKEW_S, _MOST_SKEW_S = 60, 300  # AWS refuses a signature that is older than five minutes


class SecretLook(Look):
    """The checks of what is known before the database is asked."""

    def check_timeout(self) -> Seen:
        """Tell whether a step can end in time."""
        if self.seconds is None:
            return Seen("not inside AWS Lambda", status=Status.NOT_REACHED)
        seen = f"Lambda leaves {self.seconds:.0f} seconds; a step needs {MINIMUM_S:.0f} at the worst"
        if self.seconds < MINIMUM_S:
            hint = "Set the function's Timeout to 60 seconds (template.yaml does)."
            raise errors.ConfigurationError(f"{seen}.", hint=hint)
        return Seen(seen)

    def check_environment(self) -> Seen:
        """Make of the environment what the other checks begin with."""
        self.settings = settings = Settings.from_environment(self.environment)
        self.database = Postgres(settings.sslmode, settings.sslrootcert, self.deadline)
        open_secret = partial(SecretsManager, clients.secrets_manager(), deadline=self.deadline)
        self.by_name = open_secret(self.secret_id)
        self.superusers = Superusers(open_secret, lambda: Rds(clients.rds(), self.deadline), settings)
        return Seen(f"strategy {settings.strategy}, PGSSLMODE {settings.sslmode}")

    def check_way(self) -> Seen:
        """Ask Secrets Manager for the secret, and tell how far one gets on the way there."""
        way = _try_way(self.by_name.client.meta.endpoint_url)  # before, when there is time for a slow look-up
        began = time.monotonic()
        self.denied: errors.RotationError | None = None
        try:
            self.description = self.by_name.describe()
        except (errors.AccessDeniedError, errors.SecretNotFoundError, errors.SecretDeletedError) as error:
            self.denied = error
        except errors.RotationError as error:
            error.what += f" {way}"
            raise
        milliseconds = 1000 * (time.monotonic() - began)
        return Seen(f"{way} It answered in {milliseconds:.0f} ms.")

    def check_clock(self) -> Seen:
        """Compare the clock of Secrets Manager with this machine's."""
        clock = self.description.clock
        return compare_clock(clock.timestamp() if clock else None, "Secrets Manager's")

    def check_describe(self) -> Seen:
        """Tell whether the secret may be described; where that is denied, other permissions may be missing as well."""
        if isinstance(self.denied, errors.AccessDeniedError):  # one report names them all
            self.secrets = self.by_name
        if self.denied:
            raise self.denied
        if not self._is_anothers():
            self.secrets = replace(self.by_name, secret_id=self.description.arn)
        return Seen("allowed")

    def _is_anothers(self) -> bool:
        """Tell whether the secret is a superuser's that this function does not rotate: its value is not to be read."""
        is_superusers = self.description.arn in (self.settings.superuser_secret_arns or ())
        ours = self.function_arn
        return bool(is_superusers and ours and not is_same_function(self.description.function_arn or "", ours))

    def check_values(self) -> Seen:
        """Read what each label is on, once; a version that has two labels is read once."""
        versions, read = self.description.versions, cache(partial(_read, self.secrets))
        if versions.managed:
            raise BlockedError
        self.versions = versions
        ids = {label: version for label in StagingLabel if (version := versions.with_label(label))}
        if StagingLabel.CURRENT not in ids:
            raise BlockedError
        self.values = {label: read(version) for label, version in ids.items()}
        current = self.values[StagingLabel.CURRENT]
        if isinstance(current, errors.InvalidSecretError):  # allowed, and what it holds is another matter
            raise BlockedError
        if isinstance(current, errors.RotationError):
            raise current
        self.kms_key = self.description.kms_key or "aws/secretsmanager, the AWS managed key"
        return Seen("allowed")

    def check_list(self) -> Seen:
        """Ask for the versions."""
        return Seen(f"allowed; versions kept: {len(self.secrets.list_secret_version_ids())}")

    def check_random(self) -> Seen:
        """Ask for a password."""
        self.secrets.get_random_password(self.settings.password_policy)
        return Seen("allowed, and it can make a password of this policy")

    def check_untried(self, action: str) -> Seen:
        """Name what cannot be asked without changing anything."""
        if self.find("GetRandomPassword").seen == IN_THE_WAY:
            raise BlockedError
        return Seen(
            "cannot be tried without changing something; template.yaml grants it",
            f"Ask IAM: `aws iam simulate-principal-policy --policy-source-arn ROLE_ARN --action-names "
            f"secretsmanager:{action} --resource-arns SECRET_ARN`.",
            Status.NOT_REACHED,
        )

    def check_key(self) -> Seen:
        """Name the key that the value was encrypted with."""
        return Seen(f"decrypts: {self.kms_key}")

    def check_rotation(self) -> Seen:
        """Tell whether rotation is on, when it is due, and whether it comes here."""
        description = self.description
        if self._is_anothers():
            what = "The secret is a superuser's, and this function does not rotate it."
            hint = "Run the preflight with permissions of your own: `make preflight SECRET=ID`."
            raise errors.RotationRefusedError(what, hint=hint)
        description.versions.check_secret()
        if description.versions.rotation_enabled is None:
            return Seen(
                "not configured for this secret",
                "Once nothing fails here, configure it: `aws secretsmanager rotate-secret --secret-id ID "
                "--rotation-lambda-arn ARN --rotation-rules AutomaticallyAfterDays=30`.",
                Status.NOT_REACHED,
            )
        last, due, now = description.last_rotated, description.next_rotation, datetime.now(UTC)
        seen = f"on, {description.schedule or 'without a schedule'}; last "
        seen += f"{last:%Y-%m-%d %H:%M}" if last else "never"
        measured, action = {"DaysSinceRotation": (now - last) / timedelta(days=1)} if last else {}, ""
        if due:
            seen += f", next {due:%Y-%m-%d}"
            measured["DaysOverdue"] = max(0.0, (now - due) / timedelta(days=1))
        invoked, ours = description.function_arn, self.function_arn
        if ours and invoked and not is_same_function(invoked, ours):
            seen += f"; it invokes {invoked}, not this function"
            action = "Point the secret's rotation to this function, or run the preflight of the other one."
        elif due and due < now:
            seen, action = f"{seen}, which is over", "Read the function's log of that day."
        return Seen(seen, action, measured=measured)

    def check_labels(self) -> Seen:
        """Where is AWSPENDING? On AWSCURRENT's version or on none it is at rest."""
        current, pending = self.versions.current, self.versions.with_label(StagingLabel.PENDING)
        seen = f"AWSCURRENT is on version {current}"
        if pending in {None, current}:
            return Seen(f"{seen}; no rotation is under way")
        empty = isinstance(self.values[StagingLabel.PENDING], errors.MissingVersionError)
        seen += f", AWSPENDING on {pending}, {'which is empty' if empty else 'with a value'}"
        action = "Wait while one is at work. Otherwise correct what other findings name, and continue it: "
        action += "`aws secretsmanager rotate-secret --secret-id ID`."
        return Seen(f"{seen}: a rotation is at work, or got stuck", action)

    def check_replicas(self) -> Seen:
        """Tell whether the secret's replicas in other Regions have what this one has, an hour after it at most."""
        replicas, last = self.versions.replicas, self.description.last_rotated
        hopeless = {"Failed"} if last and datetime.now(UTC) - last < timedelta(hours=1) else {"Failed", "InProgress"}
        seen = ", ".join(f"{region} {status}" for region, status in replicas.items()) or "the secret has none"
        action = "Read why: `aws secretsmanager describe-secret`. Applications in that Region read the old password."
        return Seen(seen, action if hopeless & {*replicas.values()} else "")

    def check_fields(self) -> Seen:
        """List the secret's keys, all but the password's value; they say how it is rotated."""
        current = self.values[StagingLabel.CURRENT]
        if isinstance(current, errors.RotationError):
            raise current
        self.strategy = resolve(self.settings.strategy, current)
        self.user = KINDS[self.strategy].next_user(current)
        self.current = current
        login = [one for one in fields(current) if one.compare and one.name != "password"]
        told = {[*one.metadata][-1]: getattr(current, one.name) for one in login}
        told |= {"strategy": self.strategy, "next user": self.user if self.user != current.username else None}
        shown = {key: value if isinstance(value, StrEnum | int) else ascii(value) for key, value in told.items()}
        return Seen(", ".join(f"{key} {shown[key]}" for key, value in told.items() if value))

    def check_copies(self) -> Seen:
        """Tell where else in the secret the password stands: what is renewed, or left alone, or stops a rotation."""
        pending, previous = self.current.with_password(_NEW, self.user), self.values.get(StagingLabel.PREVIOUS)
        copies = pending.renewed()
        told = copies.notes(Kind.RENEWED, Kind.OLD_USER, Kind.ALLOWED)
        doubts = copies.notes(Kind.NO_USER, Kind.OTHER_USER, Kind.WORD)
        if isinstance(previous, Credential) and previous.password != self.current.password:
            stale = pending.copies(previous).paths(Kind.RENEWED, Kind.UNKNOWN)
            doubts += [f"{stale}: holds AWSPREVIOUS's password, and is not renewed."] if stale else []
        action = "Compare these keys with `username` and `password`: applications that read them may be locked out."
        return Seen(" ".join(told + doubts) or "No other key holds the password.", action if doubts else "")

    def check_policy(self) -> Seen:
        """Measure what the next password will be, and say whether today's is one of that kind."""
        policy, password = self.settings.password_policy, self.current.password
        bits = policy.length * log2(len(policy.characters))
        seen = f"{policy.length} of {len(policy.characters)} characters, about {bits:.0f} bits"
        fits = len(password) == policy.length and set(password) <= policy.characters
        seen += "; AWSCURRENT is of that kind" if fits else "; AWSCURRENT is of another kind, until the next rotation"
        action = f"Raise PASSWORD_LENGTH or exclude less: {ENOUGH_BITS} bits withstand guessing from a stolen verifier."
        return Seen(seen, action if bits < ENOUGH_BITS else "")


def _try_way(endpoint: str) -> str:
    """Tell how far one gets on the way to an endpoint: DNS, TCP, and whether it is an address of the VPC's."""
    url = urlsplit(endpoint)
    host, port = url.hostname or "", url.port or {"http": 80}.get(url.scheme, 443)
    began, told = time.monotonic(), f"DNS does not know {host}"
    try:
        address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        place = f"{host} is {address}, a {'private' if ip_address(address).is_private else 'public'} address"
        told = f"{place}; TCP to port {port} fails"
        socket.create_connection((address, port), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        return f"{told} ({error.strerror or 'no answer'})."
    return f"{place}; DNS and TCP took {(time.monotonic() - began) * 1000:.0f} ms."


def compare_clock(theirs: float | None, whose: str) -> Seen:
    """Compare a clock, in seconds since 1970, with this machine's."""
    if theirs is None:
        return Seen(f"{whose} answer has no date.", status=Status.NOT_REACHED)
    skew = abs(time.time() - theirs)
    if skew <= _WARN_SKEW_S:
        return Seen(f"{whose} clock and this one agree.")
    action = "Set the clock that is wrong: AWS refuses signatures five minutes off, and VALID UNTIL and TLS go by it."
    status = Status.WARNING if skew < _MOST_SKEW_S else Status.FAILED
    return Seen(f"{whose} clock is {skew:.0f} seconds from this one.", action, status)


def is_same_function(one: str, other: str) -> bool:
    """Compare two ARNs of a function, either of which may end in a version or an alias."""
    return one.split(":")[:7] == other.split(":")[:7]


def _read(secrets: SecretsManager, version: str) -> Credential | errors.RotationError:
    """Return the version's credential, or why it is none."""
    try:
        return Credential.parse(secrets.get_secret_value(version))
    except errors.RotationError as error:
        return error
