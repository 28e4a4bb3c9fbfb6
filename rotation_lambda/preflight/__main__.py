"""The preflight from a command line: python -m rotation_lambda.preflight SECRET_ID."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from rotation_lambda.preflight import run

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "A rotation's way, walked without changing anything: what would stop it, and what to do about it."


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 1 for warnings, 2 for failures."""
    parser = argparse.ArgumentParser(prog="python -m rotation_lambda.preflight", description=DESCRIPTION)
    parser.add_argument("secret_id", metavar="SECRET_ID", help="the secret's ARN or name")
    parser.add_argument("--json", action="store_true", help="print the report as the function returns it")
    options = parser.parse_args(arguments)
    report = run(options.secret_id, os.environ)
    sys.stdout.write(f"{json.dumps(report.to_json(), indent=2) if options.json else report.to_text()}\n")
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
