"""The forms in which applications keep a login in a secret, each with a reader that is not the house's own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import sqlalchemy
from psycopg2.extensions import make_dsn, parse_dsn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Read = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """How a key's value is made of a user and a password, and what an application reads there: those, and the rest."""

    make: Callable[[str, str], Any]
    read: Callable[[Any], Read]


def percent(text: str) -> str:
    return quote(text, safe="")


def by_urllib(url: str) -> Read:
    scheme, _, rest = url.removeprefix("jdbc:").partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    login, at, place = authority.rpartition("@")
    # Of a list of hosts with an address in brackets urlsplit takes none, in newer versions of Python.
    parts = urlsplit(f"{scheme}://{login}{at}host{rest.removeprefix(authority)}")
    found = {"user": unquote(parts.username or ""), "password": unquote(parts.password or "")}
    return {**found, "rest": (parts.scheme, place, parts.path), **dict(parse_qsl(parts.query, keep_blank_values=True))}


def by_sqlalchemy(text: str) -> Read:
    url = sqlalchemy.make_url(text)
    rest = (url.drivername, url.host, url.port, url.database, dict(url.query))
    return {"user": url.username, "password": url.password, "rest": rest}


def by_ado(text: str) -> Read:
    """Read as DbConnectionStringBuilder documents it: `;` separates, quotes are doubled inside quotes, blanks go."""
    found = {}
    for key, value in pairs(text, "\"'"):
        found[{"userid": "user", "username": "user", "pwd": "password"}.get(key, key)] = value
    return found


def by_odbc(text: str) -> Read:
    found = dict(pairs(text, "{"))
    return {"user": found.pop("uid"), "password": found.pop("pwd"), **found}


def pairs(text: str, marks: str) -> Iterator[tuple[str, str]]:
    """Walk through Key=Value; one character after the other."""
    rest = text
    while rest.strip("; "):
        key, _, rest = rest.partition("=")
        key, rest = re.sub(r"\s", "", key).strip("; ").lower(), rest.lstrip()
        if rest and rest[0] in marks:
            closing = rest[0].replace("{", "}")
            value, at = "", 1
            while rest[at] != closing or rest[at : at + 2] == closing * 2:
                value += rest[at]
                at += 2 if rest[at] == closing else 1
            rest = rest[at + 1 :].lstrip()
            assert rest[:1] in {"", ";"}
            rest = rest[1:]
        else:
            value, _, rest = rest.partition(";")
            value = value.strip()
        yield key, value


def by_libpqs_rules(text: str) -> Read:
    """Read the first line of a password file, as passwordFromFile() of libpq does."""
    line, *others = text.splitlines()
    fields, field, escaped = [], "", False
    for one in line:
        if escaped or one not in "\\:":
            field, escaped = field + one, False
        elif one == "\\":
            escaped = True
        else:
            fields.append(field)
            field = ""
    host, port, dbname, user = fields
    return {"user": user, "password": field, "rest": (host, port, dbname, others)}


def escape(text: str) -> str:
    """Write a field of a password file; a lone * would be whatever there is."""
    return "\\*" if text == "*" else text.replace("\\", "\\\\").replace(":", "\\:")


def doubled(text: str, opening: str, closing: str) -> str:
    return opening + text.replace(closing, closing * 2) + closing


PLACE = {"host": "db.example.com", "port": "6432", "dbname": "shop", "sslmode": "require"}
URL = (
    "postgresql://{user}:{password}@db.example.com:6432,[2001:db8::1]:5432/shop?sslmode=require&application_name=a%20b"
)
IN_PARAMETERS = "postgresql://db.example.com/shop?user={user}&password={password}&connect_timeout=5"
JDBC = "jdbc:postgresql://a.example:6432,[::1]/shop?ssl=true&user={user}&password={password}&ApplicationName=a+b"


def of_url(template: str) -> Callable[[str, str], str]:
    return lambda user, password: template.format(user=percent(user), password=percent(password))


def dsn_in_quotes(user: str, password: str) -> str:
    quoted = {key: re.sub(r"(['\\])", r"\\\1", value) for key, value in (("user", user), ("password", password))}
    return " host = 'h'\nuser='{user}'password = '{password}' options='-c a=b\\\\ c' ".format(**quoted)


def ado(user: str, password: str) -> str:
    one, two = doubled(user, "'", "'"), doubled(password, '"', '"')
    return f"Host=h; User Id={one};Password = {two} ;A= b "


def odbc(user: str, password: str) -> str:
    one, two = doubled(user, "{", "}"), doubled(password, "{", "}")
    return f"Driver={{PostgreSQL Unicode}};Uid={one};Pwd={two};A=b;"


def password_file(user: str, password: str) -> str:
    return f"h\\:1:5432:*:{escape(user)}:{escape(password)}\n# why\n*:*:*:somebody:else\n"


def keys(user: str, password: str) -> dict[str, Any]:
    return {"DB_USER": user, "DB_PASSWORD": password, "other": f"{user}-", "n": 1.5}


def by_key(value: Mapping[str, Any]) -> Read:
    return {"user": value["DB_USER"], "password": value["DB_PASSWORD"], "n": value["n"], "other": value["other"][-1:]}


def deep(user: str, password: str) -> dict[str, Any]:
    return {"a": {"b": ["", {"url": of_url(URL)(user, password)}], "engine": "postgres"}}


def by_depth(value: Mapping[str, Any]) -> Read:
    return {**parse_dsn(value["a"]["b"][1]["url"]), "rest": (value["a"]["b"][0], value["a"]["engine"])}


def json_in_text(user: str, password: str) -> str:
    return json.dumps({"user": user, "pwd": password, "dsn": dsn_in_quotes(user, password)}, indent=1)


def by_json(text: str) -> Read:
    value = json.loads(text)
    inner = parse_dsn(value["dsn"])
    assert (inner["user"], inner["password"]) == (value["user"], value["pwd"])
    return {**inner, "keys": list(value)}


SHAPES: dict[str, Shape] = {
    "url": Shape(of_url(URL), parse_dsn),
    "url_of_another_scheme": Shape(of_url("psql+x://{user}:{password}@h/d?a=%2F&b"), by_urllib),
    "url_with_parameters": Shape(of_url(IN_PARAMETERS), parse_dsn),
    "sqlalchemy": Shape(of_url("postgresql+psycopg2://{user}:{password}@h:1/d?host=a:1&host=b:2"), by_sqlalchemy),
    "jdbc": Shape(of_url(JDBC), by_urllib),
    "dsn": Shape(lambda user, password: make_dsn(user=user, password=password, **PLACE), parse_dsn),
    "dsn_in_quotes": Shape(dsn_in_quotes, parse_dsn),
    "ado": Shape(ado, by_ado),
    "odbc": Shape(odbc, by_odbc),
    "pgpass": Shape(password_file, by_libpqs_rules),
    "keys": Shape(keys, by_key),
    "deep": Shape(deep, by_depth),
    "json": Shape(json_in_text, by_json),
}
"""The forms that a rotation renews (docs/secret-format.md, Copies of the password)."""


def copies(user: str, password: str, names: Iterable[str] = SHAPES) -> dict[str, Any]:
    """Return a key of every form, with the same login."""
    return {f"copy_{name}": SHAPES[name].make(user, password) for name in names}


def read(document: Mapping[str, Any]) -> dict[str, Read]:
    """Return what an application reads of each of copies()."""
    found = {name: document.get(f"copy_{name}") for name in SHAPES}
    return {name: SHAPES[name].read(value) for name, value in found.items() if value is not None}
