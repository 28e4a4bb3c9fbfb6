"""A rotation's way, walked without changing anything: what would stop it, and what to do about it."""

import time
from collections.abc import Callable, Mapping

from rotation_lambda.deadline import REPORT_S, Deadline
from rotation_lambda.preflight.findings import Finding, Report
from rotation_lambda.preflight.session import SessionLook as Look

TABLE = {
    "timeout": Look.check_timeout,
    "environment": Look.check_environment,
    "Secrets Manager": Look.check_way,
    "clock": Look.check_clock,
    "DescribeSecret": Look.check_describe,
    "GetSecretValue": Look.check_values,
    "ListSecretVersionIds": Look.check_list,
    "GetRandomPassword": Look.check_random,
    "PutSecretValue": lambda look: look.check_untried("PutSecretValue"),
    "UpdateSecretVersionStage": lambda look: look.check_untried("UpdateSecretVersionStage"),
    "KMS key": Look.check_key,
    "rotation": Look.check_rotation,
    "labels": Look.check_labels,
    "replicas": Look.check_replicas,
    "secret": Look.check_fields,
    "copies": Look.check_copies,
    "new password": Look.check_policy,
    "trusted roots": Look.check_roots,
    "DNS": Look.check_dns,
    "TCP": Look.check_tcp,
    "TLS": Look.check_tls,
    "authentication": Look.check_authentication,
    "login AWSCURRENT": Look.check_current,
    "login AWSPENDING": Look.check_pending,
    "login AWSPREVIOUS": Look.check_previous,
    "primary": Look.check_primary,
    "role": Look.check_role,
    "password change": Look.check_change,
    "connections": Look.check_connections,
    "password encryption": Look.check_encryption,
    "server's log": Look.check_log,
    "server's clock": Look.check_servers_clock,
    "superuser secret": Look.check_superuser,
    "superuser login": Look.check_superuser_login,
}
"""Every check, in the order of the report, which is that of a rotation's way."""

CHECKS = tuple(TABLE)
_AT_LEISURE_S = 120.0  # where no Lambda timeout sets an end


def run(
    secret_id: str,
    environment: Mapping[str, str],
    *,
    seconds: float | None = None,
    function_arn: str | None = None,
    tell: Callable[[Finding], object] = lambda _: None,
) -> Report:
    """Return the findings of all CHECKS, those that were not reached as well; `seconds` are what Lambda leaves.

    Each finding is handed to `tell` as soon as it is there.

    A rotation's guards hold: where to connect and as whom is AWSCURRENT's to say, an AWSPENDING for another login is
    reported instead of tried, and nothing is sent to a server that TLS or require_auth rejects.
    """
    began = time.monotonic()
    deadline = Deadline(began + (seconds or _AT_LEISURE_S) - REPORT_S)
    look = Look(TABLE, secret_id, environment, deadline, seconds, function_arn, tell)
    findings = tuple(look.find(check) for check in CHECKS)
    return Report(secret_id, findings, time.monotonic() - began)
