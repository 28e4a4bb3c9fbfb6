"""The secret's format in one table, which the rotation's reader and that of examples/ have to read alike."""

from __future__ import annotations

from enum import Enum
from typing import Any

SECRET: dict[str, Any] = {"host": "db.example.com", "username": "app", "password": "xyzzy-password"}
LOGIN: dict[str, Any] = {
    "host": "db.example.com",
    "port": 5432,
    "dbname": "postgres",
    "user": "app",
    "password": "xyzzy-password",
    "sslmode": None,
    "tlsServerName": None,
}


class Absent(Enum):
    """Stands for a key that is not there."""

    KEY = "absent"


ABSENT = Absent.KEY

ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"engine": "postgres"}, {}),
    ({"engine": "aurora-postgresql", "masterarn": "xyzzy", "dbInstanceIdentifier": "db", "x": {"y": 1}}, {}),
    ({"engine": None, "masterarn": "", "usernames": None}, {}),
    ({"host": " db.example.com "}, {}),
    ({"host": "2001:db8::1"}, {"host": "2001:db8::1"}),
    ({"port": 6432}, {"port": 6432}),
    ({"port": "6432"}, {"port": 6432}),
    ({"port": " 6432 "}, {"port": 6432}),
    ({"port": 6432.0}, {"port": 6432}),
    ({"port": None}, {}),
    ({"port": ""}, {}),
    ({"port": " "}, {}),
    ({"dbname": "shop"}, {"dbname": "shop"}),
    ({"dbname": " a b "}, {"dbname": " a b "}),
    ({"dbname": None}, {}),
    ({"dbname": ""}, {}),
    ({"username": " a'b\\ "}, {"user": " a'b\\ "}),
    ({"password": " a'b\\ ü%= "}, {"password": " a'b\\ ü%= "}),
    ({"ssl": True}, {"sslmode": "verify-full"}),
    ({"ssl": False}, {"sslmode": "disable"}),
    ({"ssl": "true"}, {"sslmode": "verify-full"}),
    ({"ssl": "True "}, {"sslmode": "verify-full"}),
    ({"ssl": "FALSE"}, {"sslmode": "disable"}),
    ({"ssl": None}, {}),
    ({"ssl": ""}, {}),
    ({"sslmode": "disable"}, {"sslmode": "disable"}),
    ({"sslmode": "require"}, {"sslmode": "require"}),
    ({"sslmode": "verify-ca"}, {"sslmode": "verify-ca"}),
    ({"sslmode": " verify-full"}, {"sslmode": "verify-full"}),
    ({"sslmode": None}, {}),
    ({"ssl": False, "sslmode": "verify-full"}, {"sslmode": "verify-full"}),
    ({"ssl": "false", "sslmode": ""}, {"sslmode": "disable"}),
    ({"tlsServerName": "db.internal"}, {"tlsServerName": "db.internal"}),
    ({"tlsServerName": " db.internal "}, {"tlsServerName": "db.internal"}),
    ({"tlsServerName": ""}, {}),
    ({"rotationHost": "writer.example.com", "rotationPort": 5433}, {}),
    ({"usernames": ["app", "app_b"]}, {}),
    ({"usernames": '["app", "app_b"]'}, {}),
    ({"allowStaleCopies": ["url"], "url": "postgres://app:xyzzy-password@h"}, {}),
]
"""What the keys of SECRET are changed to, and what of LOGIN is another then."""

REFUSED: list[dict[str, Any]] = [
    {"host": ABSENT},
    {"host": None},
    {"host": ""},
    {"host": "  "},
    {"host": 5},
    {"username": ABSENT},
    {"username": None},
    {"username": ""},
    {"password": ABSENT},
    {"password": None},
    {"password": ""},
    {"password": 5},
    {"password": ["xyzzy"]},
    {"password": "xyzzy\n"},
    {"password": "xyzzy\0xyzzy"},
    {"username": "xyzzy\ud800"},
    {"dbname": {"xyzzy": 1}},
    {"port": "xyzzy"},
    {"port": "5432,5433"},
    {"port": [5432]},
    {"ssl": 1},
    {"ssl": 0},
    {"ssl": []},
    {"ssl": "verify-ful"},
    {"ssl": "yes"},
    {"ssl": "xyzzy", "sslmode": "require"},
    {"sslmode": "prefer"},
    {"sslmode": "allow"},
    {"sslmode": "VERIFY-FULL"},
    {"sslmode": "true"},
    {"sslmode": True},
]


def secret(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**SECRET, **changes}.items() if value is not ABSENT}


def login(changes: dict[str, Any]) -> dict[str, Any]:
    return {**LOGIN, **changes}
