"""The wing that only looks: a rotation's way, walked without changing anything."""

from rotation_lambda.preflight.findings import Finding, Report, Status
from rotation_lambda.preflight.fleet import answer, run_all
from rotation_lambda.preflight.run import CHECKS, run

__all__ = ["CHECKS", "Finding", "Report", "Status", "answer", "run", "run_all"]
