"""Django's own PostgreSQL backend, whose sessions are a Database's."""

from __future__ import annotations

from functools import cache
from typing import Any

import psycopg
from django.db.backends.postgresql import base

from examples.database import Database  # from where you have copied it to


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]
    """Takes the login from the secret that `secret_id` in OPTIONS names, afresh for each session.

    NAME is Django's own, as its tests need it. An open session survives a new password: PostgreSQL asks for it at login
    only, so CONN_MAX_AGE can be what it was. The pool of Django's OPTIONS does not come here.
    """

    def get_connection_params(self) -> dict[str, Any]:
        """Return the parameters of a session without its login."""
        parameters: dict[str, Any] = super().get_connection_params()
        self.Database = Driver(database_of(parameters.pop("secret_id")))
        return parameters


class Driver:
    """psycopg, except for where its sessions come from."""

    def __init__(self, database: Database) -> None:
        self.connect = database.connect

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)


@cache
def database_of(secret_id: str) -> Database:
    """Return the one Database that all threads share."""
    return Database(secret_id, driver=psycopg)
