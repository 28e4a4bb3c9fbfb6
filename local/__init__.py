"""The outside world of a rotation on one machine: stand-ins for RDS, Secrets Manager and its rotation schedule.

servers/    what stands in for the outside: PostgreSQL, Secrets Manager, applications, a pooler, a relay, Lambda
*.py        what a person starts, one file for each command or option that `make help` and `--help` name
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's root."""
