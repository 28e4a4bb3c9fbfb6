"""Give SQLAlchemy a pool that lives through a rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from .database import Database


def create_engine_for(database: Database, **options: Any) -> Engine:
    """Return an engine whose sessions are database.connect()'s; `options` are create_engine's.

    An open session survives a new password: PostgreSQL asks for it at login only.
    """
    engine = create_engine(f"postgresql+{database.driver.__name__}://", **options)

    @event.listens_for(engine, "do_connect")
    def log_in(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> Any:
        return database.connect(**parameters)

    return engine
