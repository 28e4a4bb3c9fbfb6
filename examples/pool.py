"""Give psycopg 3 a pool that lives through a rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg_pool import ConnectionPool

if TYPE_CHECKING:
    from .database import Database


def create_pool_for(database: Database, **options: Any) -> ConnectionPool:
    """Return a pool whose sessions are database.connect()'s, for a Database with driver=psycopg.

    `options` are ConnectionPool's. An open session survives a new password: PostgreSQL asks for it at login only.
    """

    class Connection(psycopg.Connection):
        @classmethod
        def connect(cls, _conninfo: str = "", **parameters: Any) -> Any:  # type: ignore[override]
            return database.connect(**parameters)

    return ConnectionPool(connection_class=Connection, **{"open": True, **options})
