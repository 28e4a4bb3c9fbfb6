"""The outside world of a rotation on one machine: stand-ins for RDS, Secrets Manager and its rotation schedule."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's root."""
