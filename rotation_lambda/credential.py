"""What moves: a PostgreSQL credential, the JSON of a secret's version as a frozen value."""

import ipaddress
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from rotation_lambda.copies import Copies, Kind, renew, show
from rotation_lambda.errors import CredentialMismatchError, InvalidSecretError
from rotation_lambda.event import json_type, read_text
from rotation_lambda.secret_text import read, read_object

MAX_SECRET_BYTES = 65536  # AWS: "Secrets Manager quotas", secret value size
CLONE = "_clone"
"""What the name of the second of two alternating users ends in, unless `usernames` has both (as in the AWS sample)."""

_LONGEST_NAME = 63  # PostgreSQL cuts longer names off (4.1.1 Identifiers): another role could be meant
_ENGINES = ("postgres", "aurora-postgresql")
_DEFAULTS = {"port": 5432, "dbname": "postgres"}
_REQUIRED, _AS_IT_IS = {"host", "username", "password"}, {"username", "password", "dbname"}
_HOST_NAME = re.compile(r"(?!-)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")  # RFC 1035, section 2.3.4
_PORT = re.compile(r"[0-9]{1,5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_Document = Mapping[str, Any]


class SslMode(StrEnum):
    """libpq's sslmode, the strictest last, without `allow` and `prefer`, which downgrade (PostgreSQL 32.19)."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


_SSL = {"true": SslMode.VERIFY_FULL, "false": SslMode.DISABLE}


def _text(secret: _Document, key: str) -> str:
    value = read_text(secret, key, f"`{key}`", InvalidSecretError, "secret")
    if _CONTROL.search(value):
        raise InvalidSecretError(f"`{key}` holds a control character (a line end, perhaps).")
    return value


def _name(secret: _Document, key: str) -> str:
    return _uncut(_text(secret, key), f"`{key}`")


def _uncut(name: str, what: str, hint: str | None = None) -> str:
    """Return a name that PostgreSQL takes as it is; raise InvalidSecretError for a longer one."""
    if (size := len(name.encode())) > _LONGEST_NAME:
        what = f"{what} has {size} bytes; PostgreSQL's names have {_LONGEST_NAME} at most."
        raise InvalidSecretError(what, hint=hint)
    return name


def _texts(secret: _Document, key: str) -> tuple[str, ...]:
    """Read a list of strings, or the text of one: the console of Secrets Manager stores nothing but strings."""
    value = secret[key]
    with suppress(InvalidSecretError):
        value = read(value) if isinstance(value, str) else value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise InvalidSecretError(f"`{key}` is not a list of strings.")


def _usernames(secret: _Document, key: str) -> tuple[str, ...]:
    """Read the names of two alternating users, one of which has to be the `username`."""
    names = _texts(secret, key)
    if len(names) != 2 or names[0] == names[1]:  # noqa: PLR2004
        raise InvalidSecretError(f"`{key}` is not a list of two different users.")
    for name in names:
        _name({key: name}, key)
    if secret.get("username") not in names:
        raise InvalidSecretError(f"`username` is neither of the two in `{key}`.")
    return names


def _host(secret: _Document, key: str) -> str:
    """Read one host name or address: no list, socket directory, URL or connection string, all of which libpq takes."""
    value = _text(secret, key)
    with suppress(ValueError):
        # A zone ("fe80::1%eth0") may hold anything in Python's eyes, a second host too.
        if _HOST_NAME.fullmatch(value) or ipaddress.IPv6Address(value).scope_id is None:
            return value
    hint = f"Give the bare name in `{key}`, and the port in `port`; no list, path, URL or connection string."
    raise InvalidSecretError(f"`{key}` is not one host name or address.", hint=hint)


def _port(secret: _Document, key: str) -> int:
    value = secret[key]
    if isinstance(value, str) and _PORT.fullmatch(value):
        value = int(value)
    if type(value) in {int, float} and value == int(value) and 1 <= value <= 65535:  # noqa: PLR2004
        return int(value)
    raise InvalidSecretError(f"`{key}` is not a port: a number from 1 to 65535, as a number or a string of digits.")


def _engine(secret: _Document, key: str) -> str:
    if (engine := _text(secret, key)) in _ENGINES:
        return engine
    raise InvalidSecretError(f"`{key}` is not one of {', '.join(_ENGINES)}: this function rotates PostgreSQL only.")


def _ssl(secret: _Document, key: str) -> SslMode:
    """Read `ssl` more strictly than AWS does: true means no less than verify-full."""
    value = secret[key]
    if isinstance(value, bool | str) and (mode := _SSL.get(str(value).lower())):
        return mode
    hint = "Remove `ssl` and say what you mean in `sslmode`."
    raise InvalidSecretError(f"`{key}` is {json_type(value)}, not true or false.", hint=hint)


def _sslmode(secret: _Document, key: str) -> SslMode:
    if (mode := _text(secret, key)) in set(SslMode):
        return SslMode(mode)
    raise InvalidSecretError(f"`{key}` is not one of {', '.join(SslMode)}; allow and prefer would downgrade.")


@dataclass(frozen=True, slots=True)
class Credential:
    """A login to one database: where, as whom, with which password, over which TLS.

    `host` and `port` are the applications'; the rotation connects to `address`. Where the secret leaves it to the
    function's PGSSLMODE, `sslmode` is None. `text` is the secret's JSON that it was read from; in it, what stands at
    the paths of `stale_copies` is left as it is when the password changes. `label` and `version` say where it was read.

    The metadata of a field say from which of the secret's keys it is read, and how.
    """

    engine: str = field(default="postgres", repr=False, compare=False, kw_only=True, metadata={"engine": _engine})
    host: str = field(metadata={"host": _host})
    port: int = field(metadata={"port": _port})
    dbname: str = field(metadata={"dbname": _name})
    username: str = field(metadata={"username": _name})
    password: str = field(repr=False, metadata={"password": _text})
    sslmode: SslMode | None = field(default=None, metadata={"ssl": _ssl, "sslmode": _sslmode})  # the later one wins
    tls_server_name: str | None = field(default=None, metadata={"tlsServerName": _host})
    rotation_host: str | None = field(default=None, metadata={"rotationHost": _host})
    rotation_port: int | None = field(default=None, metadata={"rotationPort": _port})
    masterarn: str | None = field(default=None, metadata={"masterarn": _text})
    usernames: tuple[str, str] | None = field(default=None, metadata={"usernames": _usernames})
    stale_copies: tuple[str, ...] = field(default=(), repr=False, compare=False, metadata={"allowStaleCopies": _texts})
    text: str = field(default="", repr=False, compare=False)
    label: str = field(default="", compare=False)
    version: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, defaults: Mapping[str, object] | None = None) -> Self:
        """Read the JSON of a secret (AWS: "JSON structure of Secrets Manager secrets", PostgreSQL).

        `defaults` are the keys that it may leave out. Raises InvalidSecretError, which names each key that is wrong and
        never quotes a value of the secret's.
        """
        secret = {**_DEFAULTS, **(defaults or {}), **_tidy(read_object(text))}
        values, faults = dict[str, Any](), list[InvalidSecretError]()
        for one in fields(cls):
            for key in [key for key in one.metadata if key in secret or key in _REQUIRED]:
                try:
                    values[one.name] = one.metadata[key](secret, key)
                except InvalidSecretError as fault:
                    faults.append(fault)
        if faults:
            raise InvalidSecretError(" ".join(fault.what for fault in faults), hint=faults[0].hint)
        return cls(**values, text=text)

    @property
    def address(self) -> tuple[str, int]:
        """Where the rotation connects: the secret's rotationHost and rotationPort, or else its host and port."""
        return self.rotation_host or self.host, self.rotation_port or self.port

    @property
    def end(self) -> tuple[str, int]:
        """The address as it compares: DNS knows no capital letters, and a name may end in a dot."""
        host, port = self.address
        return host.lower().rstrip("."), port

    @property
    def other_user(self) -> str:
        """The second of two alternating users: of `usernames` the other one, else `app` for `app_clone` and vice versa.

        Raises InvalidSecretError where PostgreSQL would cut the clone's name off.
        """
        return _uncut(
            self.pair[self.username == self.pair[0]],
            f"`username` with {CLONE}",
            hint='Create the second user yourself, and give both in the secret: "usernames": ["…", "…"].',
        )

    @property
    def original(self) -> str:
        """The user that is, or can have, a clone; of `usernames`, where neither is one, the credential's own."""
        name = self.username.removesuffix(CLONE)
        return name if name and not self.usernames else self.username

    @property
    def pair(self) -> tuple[str, str]:
        """The names of two alternating users, whether there are two or not."""
        return self.usernames or (self.original, self.original + CLONE)

    def with_password(self, password: str, username: str | None = None) -> Self:
        """Return the same login with another password (and user); what the secret's text becomes, renewed() says."""
        return replace(self, username=username or self.username, password=password)

    def at(self, server: "Credential") -> Self:
        """Return the same login on the server, and over the TLS, of another credential."""
        names = ("host", "port", "sslmode", "tls_server_name", "rotation_host", "rotation_port")
        return replace(self, **{name: getattr(server, name) for name in names})

    def copies(self, old: Self | None = None) -> Copies:
        """Return the secret's text with this login in place of its own, or an `old` one, and where that stood."""
        login = (old.username, old.password) if old else None
        return renew(self.text, (self.username, self.password), self.stale_copies, login)

    def renewed(self) -> Copies:
        """Return the secret's text, with this login in place of its own, as it can be stored.

        Raises InvalidSecretError where a copy of the password would go stale, or the text has grown too large.
        """
        copies = self.copies()
        if unknown := copies.paths(Kind.UNKNOWN):
            raise InvalidSecretError(
                f"AWSCURRENT's password also stands in {unknown}, in a form that is not renewed. Nothing was stored.",
                hint="Write it there in a form of docs/secret-format.md, `Copies of the password`, or remove it. To "
                "leave it as it is, add its path to `allowStaleCopies`, a list in the secret.",
            )
        if (size := len(copies.text.encode())) > MAX_SECRET_BYTES:
            what = f"With the new password the secret has {size} bytes; {MAX_SECRET_BYTES} is the most."
            raise InvalidSecretError(what)
        return copies

    def other_keys_differing(self, pending: "Credential") -> list[str]:
        """Return the keys in which AWSPENDING is not what createSecret would make of this secret, as it is now."""
        made = json.loads(self.with_password(pending.password, pending.username).copies().text)
        stored = json.loads(pending.text)
        different = [key for key in made | stored if (key in made, made.get(key)) != (key in stored, stored.get(key))]
        return [show((key,), self.password, pending.password) for key in different]

    def check_same_login(self, current: "Credential", version: str) -> None:
        """Return when AWSPENDING logs in where and as AWSCURRENT does; otherwise raise CredentialMismatchError.

        Guards against a confused deputy: a writer of AWSPENDING must not choose the server or the role whose
        password is changed (AWS: "Lambda rotation functions", set_secret).
        """
        login = [one for one in fields(self) if one.compare and one.name != "password"]
        different = [[*one.metadata][-1] for one in login if getattr(self, one.name) != getattr(current, one.name)]
        if different:
            raise CredentialMismatchError(
                f"AWSPENDING (version {version}) is for another login than AWSCURRENT: other {', '.join(different)}."
            )


def _tidy(document: dict[str, object]) -> dict[str, object]:
    """Return the document as its author meant it: without optional keys that say nothing, and blanks around a value.

    Blanks stay where PostgreSQL knows them, in names and passwords.
    """
    bare = {key: value.strip(" ") for key, value in document.items() if isinstance(value, str) and key not in _AS_IT_IS}
    return {key: value for key, value in {**document, **bare}.items() if key in _REQUIRED or value not in (None, "")}
