"""The outside world of a rotation on one machine: stand-ins for RDS, Secrets Manager and its rotation schedule.

servers/    what stands in for the outside: PostgreSQL, Secrets Manager, applications, a pooler, a relay, Lambda
*.py        what a person starts, one file for each command or option that `make help` and `--help` name
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's root."""


class StoppedError(Exception):
    """A command cannot go on; the message says why and what to do. `status` is what the command ends with."""

    status = 1


class CannotRunError(StoppedError):
    """This machine lacks something that the command needs."""

    status = 3
