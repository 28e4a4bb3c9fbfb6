"""The wing that talks to PostgreSQL, on real servers of every version."""
