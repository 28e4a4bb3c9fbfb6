"""The outside world of a rotation on one machine: stand-ins for RDS, Secrets Manager and its rotation schedule."""
