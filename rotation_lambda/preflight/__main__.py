"""The preflight from a command line: python -m rotation_lambda.preflight SECRET_ID."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from rotation_lambda.preflight import Clients, run

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "A rotation's way, walked without changing anything: what would stop it, and what to do about it."


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 1 for warnings, 2 for failures."""
    parser = argparse.ArgumentParser(prog="python -m rotation_lambda.preflight", description=DESCRIPTION)
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
