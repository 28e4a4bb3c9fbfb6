"""A database backend of Django's for a secret that rotates; `ENGINE` is the name of this package."""
