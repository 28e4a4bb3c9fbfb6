"""For applications, to be copied: read a secret, and connect to PostgreSQL through its rotations."""
