"""A rotation's way, walked without changing anything: what would stop it, and what to do about it."""

from __future__ import annotations

import time
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from rotation_lambda import clients
from rotation_lambda.deadline import MINIMUM_S, REPORT_S, Deadline
from rotation_lambda.errors import ConfigurationError, RotationError
from rotation_lambda.postgres import Postgres
from rotation_lambda.preflight import database, secret, session, superuser
from rotation_lambda.preflight.findings import IN_THE_WAY, Finding, Report, Status
from rotation_lambda.rds import Rds
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings, Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import KINDS
from rotation_lambda.superuser import Superusers
from rotation_lambda.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKS = (
    "timeout",
    "environment",
    *secret.CHECKS,
    *database.CHECKS,
    *session.CHECKS,
    *superuser.CHECKS,
)
_AT_LEISURE_S = 120.0  # where no Lambda timeout sets an end


def run(
    secret_id: str,
    environment: Mapping[str, str],
    *,
    seconds: float | None = None,
    function_arn: str | None = None,
    tell: Callable[[Finding], Finding] = lambda finding: finding,
) -> Report:
    """Return the findings of all CHECKS, those that were not reached as well; `seconds` are what Lambda leaves.

    Each finding passes through `tell` as soon as it is there.

    A rotation's guards hold: where to connect and as whom is AWSCURRENT's to say, an AWSPENDING for another login is
    reported instead of tried, and nothing is sent to a server that TLS or require_auth turns away.
    """
    began = time.monotonic()
    deadline = Deadline(began + (seconds or _AT_LEISURE_S) - REPORT_S)
    walk = chain([_timeout(seconds)], _walk(secret_id, environment, deadline, function_arn))
    found: dict[str, Finding] = {}
    try:
        found.update((finding.check, finding) for finding in map(tell, walk))
    except RotationError as error:  # a session that broke in the middle of a look
        check = next(check for check in CHECKS if check not in found)
        found[check] = tell(Finding.failure(check, error))
    findings = tuple(found.get(check, _not_reached(check)) for check in CHECKS)
    return Report(secret_id, findings, time.monotonic() - began)


def _walk(
    secret_id: str,
    environment: Mapping[str, str],
    deadline: Deadline,
    function_arn: str | None,
) -> Iterator[Finding]:
    try:
        settings = Settings.from_environment(environment)
        postgres = Postgres(settings.sslmode, settings.sslrootcert, deadline)
        client = clients.secrets_manager()
    except ConfigurationError as error:
        yield Finding.failure("environment", error)
        return
    yield Finding("environment", Status.OK, f"strategy {settings.strategy}, PGSSLMODE {settings.sslmode}")
    keeper = SecretsManager(client, secret_id, deadline)
    versions = yield from secret.check_secret(keeper, settings, function_arn)
    current = versions and versions.credential(StagingLabel.CURRENT)
    if not (versions and current):
        return
    accepted, shown, runs_as = yield from database.check_database(postgres, versions, current)
    if versions.strategy is Strategy.SINGLE_USER:
        for check in superuser.CHECKS:
            yield Finding(check, Status.NOT_REACHED, "not asked for by the strategy single-user")
    elif accepted or (accepted is False and versions.strategy is Strategy.SUPERUSER):
        superusers = Superusers(
            lambda arn: SecretsManager(client, arn, deadline), lambda: Rds(clients.rds(), deadline), settings
        )
        user = KINDS[versions.strategy].next_user(current)
        is_accepted = partial(database.is_accepted, postgres, versions, current, shown=shown)
        trust = Trust(lambda name: name in versions.users or is_accepted(name), runs_as, superusers.pinned)
        yield from superuser.check_superuser(postgres, superusers, current, user, trust)


def _timeout(seconds: float | None) -> Finding:
    if seconds is None:
        return Finding("timeout", Status.NOT_REACHED, "not inside AWS Lambda")
    seen = f"Lambda leaves {seconds:.0f} seconds; a step needs {MINIMUM_S:.0f} at the worst"
    if seconds >= MINIMUM_S:
        return Finding("timeout", Status.OK, seen)
    error = ConfigurationError(f"{seen}.", hint="Set the function's Timeout to 60 seconds (template.yaml does).")
    return Finding.failure("timeout", error)


def _not_reached(check: str) -> Finding:
    return Finding(check, Status.NOT_REACHED, IN_THE_WAY)
