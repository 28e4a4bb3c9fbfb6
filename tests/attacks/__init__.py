"""Attacks, one file for each kind of attacker; docs/security.md has the table. Each has the honest case beside it."""
