"""A rotation's way, walked without changing anything: what would stop it, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rotation_lambda import database_checks, secret_checks, session_checks, superuser_checks
from rotation_lambda.deadline import MINIMUM_S, REPORT_S, Deadline
from rotation_lambda.errors import ConfigurationError
from rotation_lambda.findings import Finding, Report, Status
from rotation_lambda.postgres import Postgres
from rotation_lambda.rds import Rds
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import Settings, Strategy
from rotation_lambda.staging import StagingLabel
from rotation_lambda.strategies import KINDS
from rotation_lambda.superuser import Superusers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mypy_boto3_rds import RDSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

CHECKS = (
    "timeout",
    "environment",
    *secret_checks.CHECKS,
    *database_checks.CHECKS,
    *session_checks.CHECKS,
    *superuser_checks.CHECKS,
)
_AT_LEISURE_S = 120.0  # where no Lambda timeout sets an end


@dataclass(frozen=True, slots=True)
class Clients:
    """How to make boto3's clients, none of whose calls outlasts a deadline."""

    secrets_manager: Callable[[Deadline], SecretsManagerClient]
    rds: Callable[[Deadline], RDSClient]


def run(
    secret_id: str,
    clients: Clients,
    environment: Mapping[str, str],
    *,
    seconds: float | None = None,
    function_arn: str | None = None,
) -> Report:
    """Return the findings of all CHECKS, those that were not reached as well; `seconds` are what Lambda leaves.

    A rotation's guards hold: where to connect and as whom is AWSCURRENT's to say, an AWSPENDING for another login is
    reported instead of tried, and nothing is sent to a server that TLS or require_auth turns away.
    """
    began = time.monotonic()
    deadline = Deadline(began + (seconds or _AT_LEISURE_S) - REPORT_S)
    found = {
        finding.check: finding
        for finding in (
            _timeout(seconds),
            *_walk(secret_id, clients, environment, deadline, function_arn),
        )
    }
    findings = tuple(found.get(check, _not_reached(check)) for check in CHECKS)
    return Report(secret_id, findings, time.monotonic() - began)


def _walk(
    secret_id: str,
    clients: Clients,
    environment: Mapping[str, str],
    deadline: Deadline,
    function_arn: str | None,
) -> Iterator[Finding]:
    try:
        settings = Settings.from_environment(environment)
        database = Postgres(settings.sslmode, settings.sslrootcert, deadline)
    except ConfigurationError as error:
        yield Finding.failure("environment", error)
        return
    yield Finding("environment", Status.OK, f"strategy {settings.strategy}, PGSSLMODE {settings.sslmode}")
    client = clients.secrets_manager(deadline)
    versions = yield from secret_checks.check_secret(SecretsManager(client, secret_id), settings, function_arn)
    current = versions and versions.credential(StagingLabel.CURRENT)
    if not (versions and current):
        return
    accepted = yield from database_checks.check_database(database, versions, current)
    if versions.strategy is Strategy.SINGLE_USER:
        for check in superuser_checks.CHECKS:
            yield Finding(check, Status.NOT_REACHED, "not asked for by the strategy single-user")
    elif accepted or (accepted is False and versions.strategy is Strategy.SUPERUSER):
        superusers = Superusers(partial(SecretsManager, client), lambda: Rds(clients.rds(deadline)), settings.sslmode)
        user = KINDS[versions.strategy].next_user(current)
        yield from superuser_checks.check_superuser(database, superusers, current, user, proved=accepted)


def _timeout(seconds: float | None) -> Finding:
    if seconds is None:
        return Finding("timeout", Status.NOT_REACHED, "not inside AWS Lambda")
    seen = f"Lambda leaves {seconds:.0f} seconds; a step needs {MINIMUM_S:.0f} at the worst"
    if seconds >= MINIMUM_S:
        return Finding("timeout", Status.OK, seen)
    error = ConfigurationError(f"{seen}.", hint="Set the function's Timeout to 60 seconds (template.yaml does).")
    return Finding.failure("timeout", error)


def _not_reached(check: str) -> Finding:
    return Finding(check, Status.NOT_REACHED, "another check stands in the way")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 1 for warnings, 2 for failures."""
    import boto3  # noqa: PLC0415 - in Lambda the door brings the client
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m rotation_lambda.preflight", description=__doc__)
    parser.add_argument("secret_id", metavar="SECRET_ID", help="the secret's ARN or name")
    parser.add_argument("--json", action="store_true", help="print the report as the function returns it")
    options = parser.parse_args(arguments)
    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
    try:
        client = boto3.client("secretsmanager", config=config)
        clients = Clients(lambda _: client, lambda _: boto3.client("rds", config=config))
    except BotoCoreError as error:
        parser.error(f"no client for Secrets Manager: {error}")
    report = run(options.secret_id, clients, os.environ)
    sys.stdout.write(f"{json.dumps(report.to_json(), indent=2) if options.json else report.to_text()}\n")
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
