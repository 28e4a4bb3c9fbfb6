"""The preflight from a command line: python -m rotation_lambda.preflight SECRET_ID."""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from rotation_lambda import __version__
from rotation_lambda.preflight import run

DESCRIPTION = "Check everything that a rotation of a secret needs, without changing anything."
STATUSES = "Exit status: 0 ok, 1 warnings, 2 failures, 3 wrong options."
WRONG_OPTIONS = 3
COLOURS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "failed": "\x1b[31m", "not reached": "\x1b[2m"}
STATUS = re.compile(f"^({'|'.join(COLOURS)})", re.MULTILINE)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_OPTIONS, f"{self.prog}: {message}\n")


def _show(text: str) -> None:
    """Show on a terminal which check has just ended, since the next may take two minutes."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 1 for warnings, 2 for failures, 3 for wrong options."""
    parser = _Parser(prog="preflight", description=DESCRIPTION, epilog=STATUSES)
    parser.add_argument("secret_id", metavar="SECRET_ID", help="the secret's ARN or name")
    parser.add_argument("--json", action="store_true", help="print the report as the function returns it")
    parser.add_argument("--quiet", action="store_true", help="print warnings and failures only")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    report = run(options.secret_id, os.environ, tell=lambda one: _show(f"{one.check}: {one.status} ..."))
    _show("")
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else sys.maxsize  # in a pipe a finding is one line
    text = json.dumps(report.to_json(), indent=2) if options.json else report.to_text(width, quiet=options.quiet)
    if terminal and not os.environ.get("NO_COLOR"):
        text = STATUS.sub(lambda status: f"{COLOURS[status[0]]}{status[0]}\x1b[0m", text)
    try:
        print(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding), flush=True)  # noqa: T201
    except BrokenPipeError:  # the reader has seen enough; nothing is to be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
