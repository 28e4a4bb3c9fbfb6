"""All that an exception would tell whoever prints, logs or pickles it, or follows its chain."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

_CHAIN = ("__cause__", "__context__", "__notes__")
_CURSOR = ("query", "statusmessage")


def everything_in(error: BaseException) -> str:
    r"""Return str, repr, args, notes and every attribute of the exception and of all others along its chain.

    A suppressed context counts: `from None` hides it from a traceback only. So do JSONDecodeError's doc,
    UnicodeEncodeError's object, what psycopg2 and botocore keep (diag, pgerror, cursor.query; response, kwargs), and
    the fields of a dataclass that its repr hides. Only the frames' local variables do not: to hold the secret is their
    work. Strings come as they are, so that a search needs no escapes; a repr, with its escapes, comes besides.
    """
    return "\n".join(_texts(error, {}))


def _texts(thing: object, seen: dict[int, object]) -> Iterator[str]:
    if id(thing) in seen:
        return
    seen[id(thing)] = thing  # kept, since the id of something that is gone may come again
    match thing:
        case str():
            yield str(thing)
        case bytes() | bytearray() | memoryview():
            yield bytes(thing).decode(errors="replace")
        case BaseException():
            yield from (str(thing), repr(thing))
            yield from _attributes(thing, seen)
        case Mapping():
            yield from _all([*thing.keys(), *thing.values()], seen)
        case Collection():
            yield from _all(thing, seen)
        case _ if is_dataclass(thing) and not isinstance(thing, type):
            yield repr(thing)
            yield from _all([getattr(thing, field.name) for field in fields(thing)], seen)
        case _:
            yield repr(thing)


def _all(things: Iterable[object], seen: dict[int, object]) -> Iterator[str]:
    for thing in things:
        yield from _texts(thing, seen)


def _attributes(error: BaseException, seen: dict[int, object]) -> Iterator[str]:
    for name in (*_CHAIN, *_names(error)):
        value = getattr(error, name, None)
        if callable(value):
            continue
        yield from _texts(value, seen)
        parts = {"cursor": _CURSOR, "diag": _names(value)}.get(name, ())
        yield from _all([getattr(value, part, None) for part in parts], seen)


def _names(thing: object) -> Sequence[str]:
    return [name for name in dir(thing) if not name.startswith("__")]
