"""A secret's JSON is a credential, or it is refused by the key's name, and none of its values is ever quoted."""

from __future__ import annotations

import json
import re
import string
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import credential, errors
from tests.worlds import leaks, secret_format

MARKER = "xyzzy"  # every value below begins with it, so that even the beginning of one is found in an error
SECRET: dict[str, Any] = {
    "engine": "postgres",
    "host": f"{MARKER}.example.com",
    "port": 5432,
    "dbname": f"{MARKER}_db",
    "username": f"{MARKER}_user",
    "password": f"{MARKER}-password",
}
OPTIONAL = {
    "masterarn": f"{MARKER}:arn",
    "tlsServerName": f"{MARKER}-tls.example.com",
    "rotationHost": f"{MARKER}-rotation.example.com",
}
TEXTS = ["engine", "host", "dbname", "username", "password", "sslmode", *OPTIONAL]
HOSTS = ["host", "rotationHost", "tlsServerName"]
PORTS = ["port", "rotationPort"]
REQUIRED = ["host", "username", "password"]
KINDS = {
    "true": (True, "a boolean"),
    "false": (False, "a boolean"),
    "integer": (5, "a number"),
    "huge integer": (10**4000, "a number"),
    "fraction": (1.5, "a number"),
    "array": ([MARKER], "an array"),
    "empty array": ([], "an array"),
    "object": ({MARKER: MARKER}, "an object"),
    "empty object": ({}, "an object"),
}
CONTROLS = ["\0", "\x01", "\t", "\n", "\r", "\r\n", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]


def secret(**changes: object) -> str:
    return json.dumps({**SECRET, **changes})


def parse(**changes: object) -> credential.Credential:
    return credential.Credential.parse(secret(**changes))


def refusal_of(text: str) -> errors.InvalidSecretError:
    with pytest.raises(errors.InvalidSecretError) as caught:
        credential.Credential.parse(text)
    error = caught.value
    assert type(error) is errors.InvalidSecretError
    assert error.what.isprintable()
    assert error.what.endswith(".")
    assert len(error.what) < 400
    assert error.hint
    assert MARKER not in leaks.everything_in(error)
    return error


def refusal(**changes: object) -> errors.InvalidSecretError:
    """Return the error for a secret with one odd key, which it names, and whose value it does not quote."""
    error = refusal_of(secret(**changes))
    for key, value in changes.items():
        assert f"`{key}`" in error.what
        if isinstance(value, str) and len(value) > 1 and value not in {"prefer", "allow"}:
            assert value not in leaks.everything_in(error)
    return error


# What a secret says.


def test_reads_every_key() -> None:
    read = parse(
        port=5433,
        sslmode="verify-ca",
        masterarn="arn:aws:secretsmanager:eu-central-1:123456789012:secret:super",
        tlsServerName="db.example.com",
        usernames=["xyzzy_user", "xyzzy_other"],
    )
    assert read == credential.Credential(
        host="xyzzy.example.com",
        port=5433,
        dbname="xyzzy_db",
        username="xyzzy_user",
        password="xyzzy-password",
        sslmode=credential.SslMode.VERIFY_CA,
        tls_server_name="db.example.com",
        masterarn="arn:aws:secretsmanager:eu-central-1:123456789012:secret:super",
        usernames=("xyzzy_user", "xyzzy_other"),
    )


def test_host_username_and_password_are_enough() -> None:
    read = credential.Credential.parse('{"host": "h", "username": "u", "password": "p"}')
    assert read == credential.Credential("h", 5432, "postgres", "u", "p")
    assert read.sslmode is read.tls_server_name is read.masterarn is None
    assert read.usernames is None


@pytest.mark.parametrize("key", ["host", "username", "password"])
def test_refuses_a_secret_without_a_key_that_it_needs(key: str) -> None:
    error = refusal_of(json.dumps({name: value for name, value in SECRET.items() if name != key}))
    assert error.what == f"`{key}` is missing from the secret."


def test_refuses_an_empty_object() -> None:
    assert "`host` is missing" in refusal_of("{}").what


def test_refuses_a_managed_superuser_secret_which_has_no_host() -> None:
    assert "`host` is missing" in refusal_of('{"username": "xyzzy", "password": "xyzzy"}').what


@pytest.mark.parametrize("key", ["Host", "HOST", "host "])
def test_a_key_in_other_letters_is_another_key(key: str) -> None:
    text = json.dumps({key if name == "host" else name: value for name, value in SECRET.items()})
    assert "`host` is missing" in refusal_of(text).what


@pytest.mark.parametrize(("value", "kind"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("key", TEXTS)
def test_refuses_a_value_that_is_not_a_string(key: str, value: object, kind: str) -> None:
    assert refusal(**{key: value}).what == f"`{key}` is {kind}, not a string."


@pytest.mark.parametrize("key", REQUIRED)
def test_refuses_null_where_a_value_is_needed(key: str) -> None:
    assert refusal(**{key: None}).what == f"`{key}` is null, not a string."


@pytest.mark.parametrize("key", REQUIRED)
def test_refuses_an_empty_value_where_one_is_needed(key: str) -> None:
    assert refusal(**{key: ""}).what == f"`{key}` is empty."


def test_blanks_are_no_host() -> None:
    assert refusal(host="  ").what == "`host` is empty."


@pytest.mark.parametrize("value", [None, "", "  "], ids=ascii)
@pytest.mark.parametrize(
    "key", [*sorted({*TEXTS} - {*REQUIRED, "dbname"}), *PORTS, "ssl", "usernames", "allowStaleCopies"]
)
def test_null_and_nothing_are_absent_for_an_optional_key(key: str, value: str | None) -> None:
    absent = json.dumps({name: its for name, its in SECRET.items() if name != key})
    assert parse(**{key: value}) == credential.Credential.parse(absent)


@pytest.mark.parametrize("value", [None, ""], ids=ascii)
def test_null_and_nothing_are_no_database(value: str | None) -> None:
    assert parse(dbname=value).dbname == "postgres"


@pytest.mark.parametrize("key", ["dbname", "username", "password"])
def test_blanks_belong_to_a_name_and_to_a_password(key: str) -> None:
    assert getattr(parse(**{key: " a "}), key) == " a "


def test_nothing_of_how_it_is_written_is_rewritten() -> None:
    changes = {"ssl": " True", "port": 5432.0, "rotationPort": " 5433 ", "usernames": '["xyzzy_user", "b"]'}
    text = secret(**changes, host=" h ", engine="postgres ", masterarn=None, sslmode="", note=[1.10, "\u00fc"])
    assert credential.Credential.parse(text).with_password("new").renewed().text == text.replace(
        SECRET["password"], "new"
    )


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
@pytest.mark.parametrize("key", TEXTS)
def test_refuses_a_control_character(key: str, control: str) -> None:
    assert "control character" in refusal(**{key: f"{MARKER}{control}{MARKER}"}).what


@pytest.mark.parametrize("key", TEXTS)
def test_refuses_a_line_end_that_came_along(key: str) -> None:
    assert "control character" in refusal(**{key: {**SECRET, **OPTIONAL}.get(key, "require") + "\n"}).what


@pytest.mark.parametrize("key", [*TEXTS, "unknown"])
def test_refuses_half_of_a_surrogate_pair(key: str) -> None:
    for half in ("\ud800", "\udfff", "\udc00\ud800"):
        assert "surrogate" in refusal_of(secret(**{key: f"{MARKER}{half}"})).what


@pytest.mark.parametrize("text", ['{"xyzzy\\ud800": 1}', '{"a": ["\\udc00xyzzy"]}', '{"password": "xyzzy\ud800"}'])
def test_refuses_half_of_a_surrogate_pair_anywhere(text: str) -> None:
    assert "surrogate" in refusal_of(text).what


def test_takes_a_whole_surrogate_pair() -> None:
    assert credential.Credential.parse(secret().replace("xyzzy-password", "\\ud83d\\ude00")).password == "\U0001f600"


@pytest.mark.parametrize(("changes", "expected"), secret_format.ACCEPTED, ids=str)
def test_reads_the_format_as_applications_do(changes: dict[str, object], expected: dict[str, object]) -> None:
    read = credential.Credential.parse(json.dumps(secret_format.secret(changes)))
    assert secret_format.login(expected) == {
        "host": read.host,
        "port": read.port,
        "dbname": read.dbname,
        "user": read.username,
        "password": read.password,
        "sslmode": read.sslmode,
        "tlsServerName": read.tls_server_name,
    }


@pytest.mark.parametrize("changes", secret_format.REFUSED, ids=str)
def test_refuses_of_the_format_what_applications_refuse(changes: dict[str, object]) -> None:
    refusal_of(json.dumps(secret_format.secret(changes)))


# The engine.


@pytest.mark.parametrize("engine", ["postgres", "aurora-postgresql", " postgres "])
def test_takes_postgresql(engine: str) -> None:
    assert parse(engine=engine) == parse()
    assert parse(engine=engine).engine == engine.strip()


def test_an_absent_engine_means_postgresql() -> None:
    assert credential.Credential.parse(json.dumps({key: SECRET[key] for key in SECRET if key != "engine"})) == parse()


@pytest.mark.parametrize("engine", ["mysql", "aurora-mysql", "mariadb", "oracle", "Postgres", "postgresql"])
def test_refuses_another_engine(engine: str) -> None:
    error = refusal_of(secret(engine=engine))
    assert error.what.startswith("`engine` is not one of postgres, aurora-postgresql")


# The host.


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "db",
        "db.example.com.",
        "db_1.example.com",
        "_srv",
        "app.c1x2y3z4.eu-central-1.rds.amazonaws.com",
        "xn--mnchen-3ya.example",
        "192.0.2.1",
        "::1",
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "DB.EXAMPLE.COM",
        " db.example.com ",
    ],
)
@pytest.mark.parametrize("key", HOSTS)
def test_takes_one_host_name_or_address(key: str, host: str) -> None:
    read = parse(**{key: host})
    assert host.strip() == (read.tls_server_name if key == "tlsServerName" else read.address[0])


BAD_HOSTS = {
    "list": "xyzzy.example.com,evil.example.com",
    "list of addresses": "192.0.2.1,192.0.2.2",
    "list of IPv6 addresses": "::1,::2",
    "list behind a zone": "::1%xyzzy,evil.example.com",
    "blank in a zone": "::1%xyzzy host=evil.example.com",
    "directory in a zone": "::1%/tmp",
    "empty zone": "::1%",
    "letters in a zone": "::1%xÿzzy",
    "trailing comma": "xyzzy.example.com,",
    "empty label": "xyzzy..example.com",
    "long label": f"{'x' * 64}.example.com",
    "hyphen first": "-xyzzy.example.com",
    "comma alone": ",",
    "socket directory": "/var/run/postgresql",
    "slash": "/",
    "abstract socket": "@xyzzy",
    "relative path": "./xyzzy",
    "path": "xyzzy.example.com/postgres",
    "backslash": "xyzzy\\example",
    "connection string": "host=xyzzy.example.com user=evil",
    "one parameter": "host=xyzzy",
    "quotes": "'xyzzy'",
    "url": "postgres://xyzzy.example.com/db",
    "longer url": "postgresql://user:xyzzy@xyzzy.example.com:5432/db?sslmode=disable",
    "jdbc": "jdbc:postgresql://xyzzy.example.com/db",
    "user": "user@xyzzy.example.com",
    "port": "xyzzy.example.com:5432",
    "address and port": "192.0.2.1:5432",
    "brackets": "[::1]",
    "brackets and port": "[::1]:5432",
    "network": "::1/64",
    "blank within": "xyzzy example",
    "no-break space": "xyzzy\u00a0example",
    "line separator": "xyzzy\u2028example",
    "dash first": "-xyzzy",
    "dot first": ".xyzzy",
    "dot": ".",
    "two dots": "..",
    "star": "*",
    "percent": "%s",
    "semicolon": "xyzzy;evil",
    "query": "xyzzy?sslmode=disable",
    "dollar": "$(xyzzy)",
    "letters": "xÿzzy.example.com",
    "wide letters": "\uff58yzzy",
    "wide dot": "xyzzy\u3002example",
    "arabic digits": "\u0661\u0662.0.0.1",
    "not quite IPv6": "1:2:3",
    "IPv6 too long": "1:2:3:4:5:6:7:8:9",
}


@pytest.mark.parametrize("host", BAD_HOSTS.values(), ids=BAD_HOSTS)
@pytest.mark.parametrize("key", HOSTS)
def test_refuses_what_is_not_one_host_name_or_address(key: str, host: str) -> None:
    error = refusal(**{key: host})
    assert error.what == f"`{key}` is not one host name or address."
    assert f"`{key}`" in error.hint


def test_the_rotation_connects_to_host_and_port() -> None:
    read = parse(port=6432)
    assert read.address == (SECRET["host"], 6432)


def test_the_rotation_connects_to_its_own_host_and_port_where_there_are_any() -> None:
    read = parse(port=6432, rotationHost="db.example.com", rotationPort="5433")
    assert read.address == ("db.example.com", 5433)


def test_the_rotations_own_host_has_the_applications_port_where_it_has_none() -> None:
    read = parse(port=6432, rotationHost="db.example.com")
    assert read.address == ("db.example.com", 6432)


def test_the_rotations_own_port_is_on_the_applications_host() -> None:
    read = parse(port=6432, rotationPort=5433)
    assert read.address == (SECRET["host"], 5433)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"host": "/tmp", "rotationHost": "db"}, "`host`"), ({"port": 0, "rotationPort": 5432}, "`port`")],  # noqa: S108
)
def test_a_good_address_of_its_own_does_not_excuse_a_bad_one(changes: dict[str, object], name: str) -> None:
    assert name in refusal_of(secret(**changes)).what


# The port.


@pytest.mark.parametrize(
    ("value", "port"),
    [
        *((5432, 5432), ("5432", 5432), (1, 1), ("1", 1), (65535, 65535), ("65535", 65535), ("05432", 5432)),
        *(("", 5432), (" ", 5432), (None, 5432), (5432.0, 5432), (1e3, 1000), (" 5432", 5432), ("5432 ", 5432)),
    ],
)
@pytest.mark.parametrize("key", PORTS)
def test_takes_a_port_as_a_number_or_as_digits(key: str, value: object, port: int) -> None:
    assert parse(**{key: value}).address[1] == port


def test_an_absent_port_is_postgresqls() -> None:
    assert credential.Credential.parse(json.dumps({key: SECRET[key] for key in SECRET if key != "port"})).port == 5432


BAD_PORTS = [
    0,
    -1,
    -5432,
    65536,
    10**4000,
    0.0,
    65536.0,
    5432.5,
    1e300,
    True,
    False,
    [],
    [5432],
    {},
    {"xyzzy": 5432},
    "0",
    "00000",
    "-1",
    "+5432",
    "65536",
    "99999",
    "005432",
    "5432\t",
    "5432\n",
    "54 32",
    "5_432",
    "5432.0",
    "5e3",
    "0x1538",
    "abc",
    "xyzzy",
    "5432,5433",
    "٥٤٣٢",
    "\uff15\uff14\uff13\uff12",
    "²",
    "5432\0",
    "true",
    "9" * 5000,
]


@pytest.mark.parametrize("value", BAD_PORTS, ids=lambda value: ascii(value)[:20])
@pytest.mark.parametrize("key", PORTS)
def test_refuses_what_is_not_a_port(key: str, value: object) -> None:
    assert refusal(**{key: value}).what.startswith(f"`{key}` is not a port")


# Names and passwords.


@pytest.mark.parametrize("name", ["x" * 63, "ü" * 31 + "x", "\U0001f600" * 15 + "xyz", "x"], ids=ascii)
@pytest.mark.parametrize("key", ["username", "dbname"])
def test_takes_a_name_of_63_bytes(key: str, name: str) -> None:
    assert getattr(parse(**{key: name}), key) == name


@pytest.mark.parametrize(
    ("name", "size"),
    [("x" * 64, 64), ("ü" * 32, 64), ("\U0001f600" * 16, 64), ("ü" * 63, 126), ("x" * 60_000, 60_000)],
    ids=["64 letters", "32 letters", "16 characters", "63 letters", "60000 letters"],
)
@pytest.mark.parametrize("key", ["username", "dbname"])
def test_refuses_a_name_over_63_bytes_since_postgresql_would_cut_it(key: str, name: str, size: int) -> None:
    assert refusal(**{key: name}).what == f"`{key}` has {size} bytes; PostgreSQL's names have 63 at most."


@pytest.mark.parametrize(
    "name",
    [
        '"; DROP ROLE x; --',
        "%s",
        "%(x)s",
        "a b",
        " a ",
        "Ünïcode",
        "a=b",
        "postgres://x/y",
        "host=x dbname=y",
        "'\\",
        "$1",
    ],
)
@pytest.mark.parametrize("key", ["username", "dbname"])
def test_a_hostile_name_is_a_name(key: str, name: str) -> None:
    read = parse(**{key: name})
    assert getattr(read, key) == name
    assert json.loads(read.renewed().text)[key] == name


@pytest.mark.parametrize(
    "password",
    [
        string.digits + string.ascii_letters + string.punctuation + " ",
        "'\"\\`$%{}",
        "1234",
        "x" * 4096,
        " ",
        "pässwörd",
    ],
    ids=["printable", "quotes", "4", "4096", "blank", "letters"],
)
def test_a_password_is_kept_as_it_is(password: str) -> None:
    assert parse(password=password).password == password
    read = parse().with_password(password)
    assert read.password == password
    assert credential.Credential.parse(read.renewed().text) == read


# TLS.


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, None),
        ({"ssl": True}, "verify-full"),
        ({"ssl": False}, "disable"),
        ({"ssl": "true"}, "verify-full"),
        ({"ssl": "True"}, "verify-full"),
        ({"ssl": " TRUE "}, "verify-full"),
        ({"ssl": "false"}, "disable"),
        ({"ssl": "FALSE"}, "disable"),
        ({"ssl": None}, None),
        ({"ssl": ""}, None),
        ({"ssl": "true", "sslmode": "require"}, "require"),
        ({"ssl": "false", "sslmode": ""}, "disable"),
        ({"sslmode": None}, None),
        ({"sslmode": " require "}, "require"),
        ({"sslmode": "disable"}, "disable"),
        ({"sslmode": "require"}, "require"),
        ({"sslmode": "verify-ca"}, "verify-ca"),
        ({"sslmode": "verify-full"}, "verify-full"),
        ({"ssl": False, "sslmode": "verify-full"}, "verify-full"),
        ({"ssl": True, "sslmode": "require"}, "require"),
        ({"ssl": True, "sslmode": "disable"}, "disable"),
    ],
    ids=str,
)
def test_the_secret_says_which_tls(changes: dict[str, object], mode: str | None) -> None:
    assert parse(**changes).sslmode == mode


ODD_SSL = {
    "word": ("xyzzy", "a string"),
    "mode": ("verify-full", "a string"),
    "nearly a mode": ("verify-ful", "a string"),
    "yes": ("yes", "a string"),
    "digit": ("1", "a string"),
    "0": (0, "a number"),
    "1": (1, "a number"),
    "1.0": (1.0, "a number"),
    "array": ([True], "an array"),
    "empty array": ([], "an array"),
    "object": ({"xyzzy": True}, "an object"),
}


@pytest.mark.parametrize(("value", "kind"), ODD_SSL.values(), ids=ODD_SSL)
def test_refuses_an_ssl_that_is_neither_true_nor_false(value: object, kind: str) -> None:
    error = refusal_of(secret(ssl=value))
    assert error.what == f"`ssl` is {kind}, not true or false."
    assert "`sslmode`" in error.hint


@pytest.mark.parametrize("mode", ["prefer", "allow", "VERIFY-FULL", "verify_full", "true", "xyzzy", "none"])
def test_refuses_an_sslmode_that_downgrades_or_does_not_exist(mode: str) -> None:
    error = refusal(sslmode=mode)
    assert "disable, require, verify-ca, verify-full" in error.what


def test_no_sslmode_downgrades() -> None:
    assert list(credential.SslMode) == ["disable", "require", "verify-ca", "verify-full"]


# The JSON.


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "xyzzy",
        "{",
        "{'password': 'xyzzy'}",
        '{"password": "xyzzy"',
        '{"password": "xyzzy",}',
        '{"password": "xyzzy"} {"password": "xyzzy"}',
        '{"password": "xyzzy"}xyzzy',
        '{"password": "xyz\nxyzzy"}',
        '{"password": "xyzzy\\x"}',
        '{"password": xyzzy}',
        '{password: "xyzzy"}',
        '{"password": "xyzzy" // why\n}',
        "host=xyzzy password=xyzzy",
        "postgres://xyzzy:xyzzy@xyzzy/xyzzy",
        '\ud800{"password": "xyzzy"}',
        "[" * 10,
        "True",
        "-",
        "01",
    ],
    ids=ascii,
)
def test_refuses_what_is_not_json_and_says_where(text: str) -> None:
    assert refusal_of(text).what.startswith("The secret is not JSON: line ")


def test_names_a_byte_order_mark() -> None:
    """A file of Windows's may begin with one; nobody sees it."""
    what = "The secret begins with a byte order mark, which JSON does not have."
    assert refusal_of("\ufeff" + secret()).what == what


def test_says_at_which_line_and_column_the_json_breaks() -> None:
    text = '{\n  "password": "xyzzy",\n  host\n}'
    assert refusal_of(text).what == "The secret is not JSON: line 3, column 3."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[]", "an array"),
        ('["xyzzy"]', "an array"),
        ('[{"password": "xyzzy"}]', "an array"),
        ('"xyzzy"', "a string"),
        ('""', "a string"),
        ("null", "null"),
        ("true", "a boolean"),
        ("5", "a number"),
        ("1.5", "a number"),
    ],
)
def test_refuses_json_that_is_not_an_object(text: str, kind: str) -> None:
    assert refusal_of(text).what == f"The secret is {kind}, not a JSON object."


@pytest.mark.parametrize(
    "text",
    [
        secret()[:-1] + ', "password": "xyzzy-other"}',
        secret()[:-1] + ', "password": "xyzzy-password"}',
        secret()[:-1] + ', "p\\u0061ssword": "xyzzy-other"}',
        secret()[:-1] + ', "xyzzy": {"xyzzy": 1, "xyzzy": 2}}',
        secret()[:-1] + ', "xyzzy": [{"": 1, "": 1}]}',
        '[{"xyzzy": 1, "xyzzy": 1}]',
    ],
    ids=["other value", "same value", "escaped", "nested", "in an array", "in no object"],
)
def test_refuses_a_key_that_comes_twice(text: str) -> None:
    assert "a key twice" in refusal_of(text).what


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("around", ["%s", '{"port": %s}', '{"xyzzy": ["xyzzy", {"a": %s}]}'])
def test_refuses_numbers_that_json_does_not_have(around: str, constant: str) -> None:
    assert refusal_of(around % constant).what.startswith(f"The secret holds {constant}, which JSON does not have")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400 + ".0", "9" * 5000, "-" + "9" * 5000], ids=len)
@pytest.mark.parametrize("key", ["port", "unknown"])
def test_refuses_a_number_too_large_to_read(key: str, number: str) -> None:
    text = secret(**{key: "HERE"}).replace('"HERE"', number)
    assert "too large" in refusal_of(text).what


DEEP = pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])


@DEEP
def test_refuses_a_nesting_too_deep_to_read(start: str, end: str) -> None:
    text = secret()[:-1] + f', "deep": {start * 1_000_000}"xyzzy"{end * 1_000_000}}}'
    assert refusal_of(text).what == "The secret holds a number or a nesting too large to read."


@DEEP
@pytest.mark.parametrize("depth", [10, 40, 99, 100, 500, 900, 1000, 5000, 9000])
def test_a_nesting_that_can_be_read_can_be_written(depth: int, start: str, end: str) -> None:
    text = secret()[:-1] + f', "deep": {start * depth}"xyzzy"{end * depth}}}'
    try:
        read = credential.Credential.parse(text)
    except errors.InvalidSecretError:
        assert depth * len(re.findall(r"\[|{", start)) >= 100
    else:
        assert read.with_password("new").renewed().text.count("[") == text.count("[")


def test_refuses_a_nesting_that_never_ends() -> None:
    assert refusal_of('{"a":' * 13_000).what.startswith("The secret ")


def padded(size: int, letter: str = "x") -> str:
    """Return a secret of so many bytes, without blanks, as the console of Secrets Manager writes one."""
    bare = json.dumps({**SECRET, "padding": ""}, separators=(",", ":"))
    count, rest = divmod(size - len(bare), len(letter.encode()))
    return f'{bare[:-2]}{letter * count}{"x" * rest}"}}'


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600"], ids=ascii)
def test_takes_and_writes_64_kib(letter: str) -> None:
    text = padded(65536, letter)
    assert len(text.encode()) == 65536
    assert credential.Credential.parse(text).renewed().text == text


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600"], ids=ascii)
def test_refuses_to_write_more_than_64_kib(letter: str) -> None:
    read = credential.Credential.parse(padded(65536, letter)).with_password(f"{MARKER}-password+")
    with pytest.raises(errors.InvalidSecretError, match="65537 bytes") as caught:
        read.renewed()
    assert "65536" in caught.value.what
    assert caught.value.hint
    assert MARKER not in leaks.everything_in(caught.value)


def test_a_secret_of_64_kib_and_many_keys_still_fits_with_a_password_as_long() -> None:
    keys = {f"key{number:05}": number % 10 for number in range(4990)}
    text = json.dumps({**SECRET, **keys}, separators=(",", ":"))
    assert 64_000 < len(text) <= 65536
    assert len(credential.Credential.parse(text).with_password(f"{MARKER}-PASSWORD").renewed().text) == len(text)


@pytest.mark.parametrize("value", [["a", "b.c"], [], '["a", "b.c"]', "[]"], ids=json.dumps)
def test_takes_a_list_of_paths_that_may_go_stale(value: object) -> None:
    assert parse(allowStaleCopies=value).stale_copies in {("a", "b.c"), ()}
    assert parse(allowStaleCopies=value) == parse()


@pytest.mark.parametrize("value", [True, 1, "a", {"a": 1}, [1], ["a", None], '{"a": 1}', '["a"', "[1]"], ids=json.dumps)
def test_refuses_what_is_no_list_of_paths(value: object) -> None:
    assert refusal_of(secret(allowStaleCopies=value)).what == "`allowStaleCopies` is not a list of strings."


def test_refuses_to_write_a_secret_with_a_copy_that_would_go_stale() -> None:
    text = {"note": f"it is {MARKER}-password-of-{MARKER}", "password": f"{MARKER}-password-of-{MARKER}"}
    read = parse(**text).with_password("new")
    with pytest.raises(errors.InvalidSecretError, match="`note`") as caught:
        read.renewed()
    assert "allowStaleCopies" in caught.value.hint
    assert MARKER not in leaks.everything_in(caught.value)
    assert parse(**text, allowStaleCopies=["note"]).with_password("new").renewed().text.count(MARKER) == 5


# What survives a rotation.


def pairs(text: str) -> object:
    """Return what the text says, objects as lists, so that their order counts."""
    return json.loads(text, object_pairs_hook=list)


def test_a_new_password_is_all_that_changes() -> None:
    text = '{"z": 1, "password": "old", "username": "u", "host": "h", "a": {"password": "old", "b": [null, 1.5, true]}}'
    old = credential.Credential.parse(text)
    new = old.with_password("new")
    assert new.renewed().text == text.replace("old", "new")
    assert new == replace(old, password="new")
    assert old.renewed().text == text


def test_keeps_unknown_keys_in_their_order() -> None:
    keys = ["zeta", "host", "alpha", "password", "Ünïcode", "username", "", "dbClusterIdentifier", "port"]
    text = json.dumps({key: SECRET.get(key, {"b": 1, "a": 2}) for key in keys})
    assert list(json.loads(credential.Credential.parse(text).with_password("new").renewed().text)) == keys


def test_adds_no_key_for_a_default() -> None:
    text = '{"host": "h", "username": "u", "password": "p"}'
    assert pairs(credential.Credential.parse(text).renewed().text) == pairs(text)


def test_keeps_the_port_as_it_was_written() -> None:
    assert json.loads(parse(port="5432").with_password("new").renewed().text)["port"] == "5432"


def test_writes_letters_and_their_escapes_as_they_are() -> None:
    for note in (
        '"Ünïcode \U0001f600"',
        '"\\u00dcn\\/\\ud83d\\ude00"',
        "[1.10,  0.12345678901234567890123, 1E5, -0.0]",
    ):
        text = secret(note="HERE").replace('"HERE"', note)
        new = credential.Credential.parse(text).with_password('Ü"\\').renewed().text
        assert new == text.replace(SECRET["password"], 'Ü\\"\\\\')


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = {*SECRET, *TEXTS, *PORTS, "ssl", "usernames", "allowStaleCopies"}


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Return a secret with keys that nobody knows, written in one of many ways."""
    unknown = draw(st.dictionaries(st.text().filter(lambda key: key not in KNOWN), JSON_VALUES, max_size=6))
    items = draw(st.permutations([*SECRET.items(), *unknown.items()]))
    separators = draw(st.sampled_from([None, (",", ":"), (" ,\t", "\r\n: ")]))
    return json.dumps(
        dict(items), ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(2)), separators=separators
    )


@hypothesis.given(documents())
def test_any_document_survives_byte_for_byte_but_for_its_password(text: str) -> None:
    new = credential.Credential.parse(text).with_password("new")
    assert new.renewed().text == text.replace(f'"{SECRET["password"]}"', '"new"')
    assert credential.Credential.parse(new.renewed().text) == new


ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text().map(lambda text: MARKER + text)
    | st.sampled_from(["", "5432", "db.example.com", "require", "postgres"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just(MARKER), inner, max_size=3),
    max_leaves=4,
)


@hypothesis.given(st.dictionaries(st.sampled_from(sorted(KNOWN)), ODD_VALUES))
def test_any_object_is_read_or_refused_by_name_without_a_word_of_it(changes: dict[str, object]) -> None:
    try:
        parse(**changes)
    except errors.InvalidSecretError as error:
        assert MARKER not in leaks.everything_in(error)  # noqa: PT017
        assert "The secret holds" in error.what or any(f"`{key}`" in error.what for key in changes)  # noqa: PT017


@hypothesis.given(st.text(), st.text())
def test_any_text_is_refused_without_a_word_of_it(before: str, after: str) -> None:
    refusal_of(f"{before}{MARKER}{after}")


@pytest.mark.parametrize("length", range(len(secret())))
def test_a_secret_that_was_cut_off_is_refused_without_a_word_of_it(length: int) -> None:
    assert "not JSON" in refusal_of(secret()[:length]).what


# The same login.

BASE = {
    **SECRET,
    "sslmode": "require",
    "tlsServerName": "xyzzy-tls.example.com",
    "masterarn": "xyzzy:arn",
    "rotationHost": "xyzzy-rotation.example.com",
    "rotationPort": 5433,
    "usernames": ["xyzzy_user", "evil_user"],
}
OTHER = {
    "host": "evil.example.com",
    "port": 6432,
    "dbname": "evil_db",
    "username": "evil_user",
    "sslmode": "disable",
    "tlsServerName": "evil.example.com",
    "masterarn": "evil:arn",
    "rotationHost": "evil.example.com",
    "rotationPort": 6432,
    "usernames": ["evil_user", "xyzzy_user"],
}


def mismatch(pending: dict[str, object], current: dict[str, object]) -> errors.CredentialMismatchError:
    version = "8fd51a3c-2c4e-4a5d-9b1f-0e6f5d4c3b2a"
    with pytest.raises(errors.CredentialMismatchError) as caught:
        credential.Credential.parse(json.dumps(pending)).check_same_login(
            credential.Credential.parse(json.dumps(current)), version
        )
    error = caught.value
    assert version in error.what
    assert error.hint
    for value in (MARKER, "evil"):
        assert value not in leaks.everything_in(error)
    return error


def same_login(pending: dict[str, object], current: dict[str, object]) -> None:
    credential.Credential.parse(json.dumps(pending)).check_same_login(
        credential.Credential.parse(json.dumps(current)), "8fd51a3c-2c4e-4a5d-9b1f-0e6f5d4c3b2a"
    )


def test_another_password_is_the_same_login() -> None:
    same_login({**BASE, "password": "new"}, dict(BASE))


@pytest.mark.parametrize("key", OTHER)
def test_refuses_another_login_and_names_the_key(key: str) -> None:
    assert key in mismatch({**BASE, key: OTHER[key]}, dict(BASE)).what


@pytest.mark.parametrize("key", OTHER)
def test_names_no_key_that_is_the_same(key: str) -> None:
    named = mismatch({**BASE, key: OTHER[key]}, dict(BASE)).what.rpartition(": ")[2]
    assert not {other for other in OTHER if other in named.replace(",", "").split()} - {key}


@pytest.mark.parametrize("key", ["sslmode", "tlsServerName", "masterarn", "rotationHost", "rotationPort", "usernames"])
def test_refuses_a_key_that_only_one_of_them_has(key: str) -> None:
    without = {name: value for name, value in BASE.items() if name != key}
    mismatch(without, dict(BASE))
    mismatch(dict(BASE), without)


@pytest.mark.parametrize("key", ["host", "port", "dbname", "username"])
def test_refuses_another_login_where_only_the_needed_keys_are(key: str) -> None:
    assert key in mismatch({**SECRET, key: OTHER[key]}, dict(SECRET)).what


def test_names_every_key_that_differs() -> None:
    what = mismatch({**SECRET, "host": "evil", "username": "evil", "dbname": "evil"}, dict(SECRET)).what
    assert {"host", "username", "dbname"} <= set(re.findall(r"\w+", what))


def test_refuses_a_pending_version_without_tls() -> None:
    assert "ssl" in mismatch({**SECRET, "ssl": False}, dict(SECRET)).what


@pytest.mark.parametrize(
    ("pending", "current"),
    [
        ({"port": "5432"}, {"port": 5432}),
        ({"port": ""}, {"port": 5432}),
        ({"ssl": False}, {"sslmode": "disable"}),
        ({"ssl": True, "sslmode": "require"}, {"sslmode": "require"}),
        ({"engine": "aurora-postgresql"}, {"engine": "postgres"}),
        ({"ssl": "false", "port": 5432.0}, {"ssl": False}),
        ({"usernames": '["xyzzy_user", "b"]'}, {"usernames": ["xyzzy_user", "b"]}),
        ({"url": "postgres://xyzzy:xyzzy@elsewhere/x", "allowStaleCopies": ["url"]}, {}),
        ({"password": "xyzzy-other"}, {}),
    ],
    ids=str,
)
def test_the_same_login_said_otherwise_is_the_same(pending: dict[str, object], current: dict[str, object]) -> None:
    same_login({**SECRET, **pending}, {**SECRET, **current})
    same_login({**SECRET, **current}, {**SECRET, **pending})


# What createSecret would make of it today.


def test_names_the_keys_that_a_move_of_the_label_would_lose() -> None:
    password = "xyzzy-password-of-twenty"
    keys = {"url": f"postgres://xyzzy_user:{password}@h", "note": "a", "gone": 1, "float": 1.50, password: "key"}
    current = parse(password=password, **keys)
    made = current.with_password("new-password-of-twenty", current.other_user)
    pending = credential.Credential.parse(made.copies().text)
    assert current.other_keys_differing(pending) == []
    text = pending.text.replace('"note": "a"', '"note": "b", "more": null').replace('"gone": 1, ', "")
    assert current.other_keys_differing(credential.Credential.parse(text)) == ["note", "gone", "more"]
    amended = parse(password=password, **{**keys, "url": "postgres://elsewhere", password: "another"})
    assert amended.other_keys_differing(pending) == ["url", "…"]


# Two users by turns.

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda name: len(name.encode()) < 64)


@pytest.mark.parametrize(
    ("user", "other", "original"),
    [
        ("app", "app_clone", "app"),
        ("app_clone", "app", "app"),
        ("_clone", "_clone_clone", "_clone"),
        ("_clone_clone", "_clone", "_clone"),
        ("clone", "clone_clone", "clone"),
        ("app_Clone", "app_Clone_clone", "app_Clone"),
        ("app_clone ", "app_clone _clone", "app_clone "),
        ('a"; DROP ROLE x; --', 'a"; DROP ROLE x; --_clone', 'a"; DROP ROLE x; --'),
        ("x" * 57, "x" * 57 + "_clone", "x" * 57),
        ("x" * 57 + "_clone", "x" * 57, "x" * 57),
        ("ü" * 28 + "x", "ü" * 28 + "x_clone", "ü" * 28 + "x"),
        ("\U0001f600" * 14 + "x_clone", "\U0001f600" * 14 + "x", "\U0001f600" * 14 + "x"),
    ],
    ids=ascii,
)
def test_a_user_and_its_clone_take_turns(user: str, other: str, original: str) -> None:
    read = parse(username=user)
    assert (read.other_user, read.original, read.pair) == (other, original, (original, f"{original}_clone"))
    assert parse(username=other).other_user == user
    assert parse(username=other).pair == read.pair


@pytest.mark.parametrize(
    ("user", "size"),
    [("x" * 58, 64), ("x" * 63, 69), ("ü" * 29, 64), ("\U0001f600" * 15 + "xyz", 69)],
    ids=["58 letters", "63 letters", "58 bytes", "63 bytes"],
)
def test_refuses_a_clone_whose_name_postgresql_would_cut(user: str, size: int) -> None:
    read = parse(username=user)
    with pytest.raises(errors.InvalidSecretError, match=f"`username` with _clone has {size} bytes") as caught:
        _ = read.other_user
    assert "usernames" in caught.value.hint
    assert user not in leaks.everything_in(caught.value)
    assert parse(username=user, usernames=[user, "other"]).other_user == "other"


@pytest.mark.parametrize(
    "names",
    [["app_a", "app_b"], ["app_a", "app_a_clone"], ["app_a_clone", "app_a"], ["app_a", "ü" * 31], ["app_a", " app_a"]],
    ids=ascii,
)
def test_two_named_users_take_turns_whatever_their_names(names: list[str]) -> None:
    first, second = (parse(username=name, usernames=names) for name in names)
    assert (first.other_user, second.other_user) == (names[1], names[0])
    assert (first.original, second.original) == (names[0], names[1])
    assert first.pair == second.pair == tuple(names)


def test_two_named_users_may_be_the_text_of_a_list_which_is_all_that_the_console_stores() -> None:
    read = parse(usernames=' ["xyzzy_user", "b"] ')
    assert read.usernames == ("xyzzy_user", "b")
    assert read.with_password("new", "b").other_user == "xyzzy_user"


def test_a_clone_of_a_clone_leads_down_to_the_first_user() -> None:
    """That they belong together is for the database to show: the one has to be a member of the other."""
    read = parse(username="app_clone_clone")
    assert read.pair == ("app_clone", "app_clone_clone")
    assert parse(username=read.other_user).other_user == "app"


@hypothesis.given(NAMES | NAMES.map(lambda name: name[:10] + credential.CLONE))
def test_two_turns_lead_back_to_the_same_user(name: str) -> None:
    hypothesis.assume(not name.endswith("_clone_clone"))
    read = parse(username=name)
    try:
        other = read.other_user
    except errors.InvalidSecretError:
        assert len(name.encode()) > 57
    else:
        assert parse(username=other).other_user == name
        assert other != name
        assert {name, other} == set(read.pair)


@hypothesis.given(NAMES, NAMES)
def test_two_turns_of_named_users_lead_back_to_the_same_user(name: str, other: str) -> None:
    hypothesis.assume(name != other)
    for names in ([name, other], [other, name]):
        read = parse(username=name, usernames=names)
        assert read.other_user == other
        assert read.with_password("new", other).other_user == name


BAD_USERNAMES = {
    "one": ["xyzzy_user"],
    "three": ["xyzzy_user", "xyzzy_other", "xyzzy_third"],
    "none": [],
    "twice the same": ["xyzzy_user", "xyzzy_user"],
    "string": "xyzzy_user,xyzzy_other",
    "two letters": "ab",
    "object": {"xyzzy_user": 1, "xyzzy_other": 2},
    "text of an object": '{"xyzzy_user": 1, "xyzzy_other": 2}',
    "text of one": '["xyzzy_user"]',
    "text of a text": '"[]"',
    "text that is cut off": '["xyzzy_user", "xyzzy_other"',
    "text that is deep": "[" * 60_000,
    "true": True,
    "number": 2,
    "a number": ["xyzzy_user", 5],
    "a null": [None, "xyzzy_user"],
    "a list": [["xyzzy_user"], "xyzzy_other"],
    "an empty name": ["xyzzy_user", ""],
    "a control character": ["xyzzy_user", "xyzzy\nother"],
    "64 bytes": ["xyzzy_user", "ü" * 32],
    "64 bytes first": ["x" * 64, "xyzzy_user"],
    "neither": ["xyzzy_other", "xyzzy_third"],
    "other letters": ["XYZZY_USER", "xyzzy_other"],
}


@pytest.mark.parametrize("names", BAD_USERNAMES.values(), ids=BAD_USERNAMES)
def test_refuses_usernames_that_are_not_two_of_which_one_is_the_user(names: object) -> None:
    assert "`usernames`" in refusal_of(secret(usernames=names)).what


@pytest.mark.parametrize("key", ["usernames", "allowStaleCopies"])
def test_refuses_half_of_a_surrogate_pair_in_the_text_of_a_list(key: str) -> None:
    assert refusal_of(secret(**{key: '["xyzzy_user", "\\ud800"]'})).what == f"`{key}` is not a list of strings."


def test_refuses_half_of_a_surrogate_pair_among_usernames() -> None:
    assert "surrogate" in refusal_of(secret(usernames=["xyzzy_user", "xyzzy\ud800"])).what


def test_a_missing_user_is_missing_first() -> None:
    document = {name: value for name, value in SECRET.items() if name != "username"}
    assert "`username` is missing" in refusal_of(json.dumps({**document, "usernames": ["xyzzy_a", "xyzzy_b"]})).what


def test_another_user_keeps_every_key_in_its_order() -> None:
    text = '{"z": [1], "username": "app", "Ünïcode": null, "password": "old", "host": "h", "a": {"username": "app"}}'
    new = credential.Credential.parse(text).with_password("new", "app_clone")
    assert new.renewed().text == text.replace("old", "new").replace("app", "app_clone", 1)
    assert credential.Credential.parse(new.renewed().text) == new
    assert (new.username, new.password) == ("app_clone", "new")


@hypothesis.given(documents())
def test_any_document_survives_a_turn_but_for_its_user_and_password(text: str) -> None:
    old = credential.Credential.parse(text)
    new = old.with_password("new", old.other_user)
    expected = text.replace('"xyzzy_user"', '"xyzzy_user_clone"').replace(f'"{SECRET["password"]}"', '"new"')
    assert new.renewed().text == expected
    assert new.with_password("third", new.other_user) == replace(old, password="third")


# Somewhere else.


def test_the_same_login_elsewhere_keeps_its_user_database_and_document() -> None:
    here = parse(port=1, sslmode="require", rotationHost="h", rotationPort=2, tlsServerName="h", masterarn="xyzzy:arn")
    there = parse(host="there", port=3, username="master", password="other", dbname="other", sslmode="verify-ca")
    moved = here.at(there)
    assert moved.address == there.address == ("there", 3)
    assert (moved.sslmode, moved.tls_server_name) == (there.sslmode, None)
    assert (moved.username, moved.password, moved.dbname) == (here.username, here.password, here.dbname)
    assert (moved.masterarn, moved.text) == (here.masterarn, here.text)
    assert moved.at(here) == here


def test_the_same_login_elsewhere_goes_to_the_rotations_own_address_there() -> None:
    there = parse(host="pooler", rotationHost="there", rotationPort=4, tlsServerName="named")
    moved = parse().at(there)
    assert (moved.address, moved.tls_server_name) == (("there", 4), "named")


# A secret that leaves out where its server is.

PLACE = {"host": "db.example.com", "port": 5433}
BARE = '{"username": "xyzzy", "password": "xyzzy"}'


def test_a_default_stands_in_for_a_key_that_is_left_out() -> None:
    read = credential.Credential.parse(BARE, PLACE)
    assert (read.address, read.username, read.dbname) == (("db.example.com", 5433), "xyzzy", "postgres")


def test_a_key_wins_over_its_default() -> None:
    assert credential.Credential.parse(secret(), PLACE).address == (SECRET["host"], SECRET["port"])


def test_a_default_excuses_no_bad_key_and_no_other() -> None:
    for text, key in ((secret(host="/tmp"), "host"), ('{"username": "xyzzy"}', "password")):  # noqa: S108
        with pytest.raises(errors.InvalidSecretError, match=f"`{key}`") as caught:
            credential.Credential.parse(text, PLACE)
        assert MARKER not in leaks.everything_in(caught.value)


# Nothing secret is shown.


def test_shows_where_and_as_whom_but_never_the_password() -> None:
    paths = ["hosts.s3cret-password"]
    read = parse(password="s3cret-password", api_key="s3cret-key", allowStaleCopies=paths).with_password("s3cret-new")
    for shown in (repr(read), str(read), f"{read}", f"{[read]}", f"{read!s:>10}"):
        assert "s3cret" not in shown
        assert "password" not in shown
        assert "api_key" not in shown
        assert "xyzzy_user" in shown
        assert "xyzzy.example.com" in shown


def test_lists_every_fault_at_once() -> None:
    found = refusal_of(secret(usernames="x", sslmode="x", engine="mysql", port="x", ssl="x"))
    told = ["`engine`", "`port`", "`ssl`", "`sslmode`", "`usernames`"]
    assert re.findall("(?:^|[.] )(`[a-z]+`)", found.what) == told


def test_two_credentials_with_other_passwords_differ() -> None:
    assert parse(password="a") != parse(password="b")
    assert len({parse(), parse(), parse(password="b")}) == 2
