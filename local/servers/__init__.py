"""What stands in for the outside: PostgreSQL, Secrets Manager, a pooler, a proxy, the function in its own process."""
