"""The wing that only looks: a rotation's way, walked without changing anything."""

from rotation_lambda.preflight.findings import Finding, Report, Status
from rotation_lambda.preflight.run import CHECKS, Clients, run

__all__ = ["CHECKS", "Clients", "Finding", "Report", "Status", "run"]
