"""What moves: a PostgreSQL credential, the JSON of a secret's version as a frozen value."""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from rotation_lambda.copies import Copies, Kind, renew, show
from rotation_lambda.errors import CredentialMismatchError, InvalidSecretError
from rotation_lambda.event import json_type
from rotation_lambda.secret_text import read_object

MAX_SECRET_BYTES = 65536  # AWS: «Secrets Manager quotas», secret value size
CLONE = "_clone"
"""What the name of the second of two alternating users ends in, unless `usernames` has both (as in the AWS sample)."""

_MAX_NAME_BYTES = 63  # PostgreSQL cuts longer names off (4.1.1 Identifiers): another role could be meant
_DEFAULT_PORT = 5432
_ENGINES = ("postgres", "aurora-postgresql")
_KEYS = {"tls_server_name": "tlsServerName", "rotation_host": "rotationHost", "rotation_port": "rotationPort"}
_REQUIRED, _AS_IT_IS = {"host", "username", "password"}, {"username", "password", "dbname"}
_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PORT = re.compile(r"[0-9]{1,5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class SslMode(StrEnum):
    """libpq's sslmode without `allow` and `prefer`, which downgrade (PostgreSQL 32.19, SSL Support)."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


@dataclass(frozen=True, slots=True)
class Credential:
    """A login to one database: where, as whom, with which password, over which TLS.

    `host` and `port` are the applications'; the rotation connects to `address`. Where the secret leaves it to the
    function's PGSSLMODE, `sslmode` is None. `text` is the secret's JSON that it was read from; in it, what stands at
    the paths of `stale_copies` is left as it is when the password changes.
    """

    host: str
    port: int
    dbname: str
    username: str
    password: str = field(repr=False)
    sslmode: SslMode | None = None
    tls_server_name: str | None = None
    rotation_host: str | None = None
    rotation_port: int | None = None
    masterarn: str | None = None
    usernames: tuple[str, str] | None = None
    stale_copies: tuple[str, ...] = field(default=(), repr=False, compare=False)
    text: str = field(default="", repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, defaults: Mapping[str, object] = MappingProxyType({})) -> Self:
        """Read the JSON of a secret (AWS: «JSON structure of Secrets Manager secrets», PostgreSQL).

        `defaults` are the keys that it may leave out. Raises InvalidSecretError, which names the key and never quotes a
        value of the secret's.
        """
        keys = _Keys({**defaults, **_tidy(read_object(text))})
        keys.check_engine()
        return cls(**{name: read() for name, read in keys.readers().items()}, text=text)

    @staticmethod
    def faults(text: str) -> list[InvalidSecretError]:
        """Return all that is wrong with the JSON of a secret, where parse() would raise the first of it."""
        try:
            keys = _Keys(_tidy(read_object(text)))
        except InvalidSecretError as error:
            return [error]
        found = []
        for read in (keys.check_engine, *keys.readers().values()):
            try:
                read()
            except InvalidSecretError as error:
                found.append(error)
        return found

    @property
    def address(self) -> tuple[str, int]:
        """Where the rotation connects: the secret's rotationHost and rotationPort, or else its host and port."""
        return self.rotation_host or self.host, self.rotation_port or self.port

    @property
    def other_user(self) -> str:
        """The second of two alternating users: of `usernames` the other one, else `app` for `app_clone` and vice versa.

        Raises InvalidSecretError where PostgreSQL would cut the clone's name off.
        """
        other = self.pair[self.username == self.pair[0]]
        if (size := len(other.encode())) > _MAX_NAME_BYTES:
            raise InvalidSecretError(
                f"`username` with {CLONE} has {size} bytes; PostgreSQL's names have {_MAX_NAME_BYTES} at most.",
                hint='Create the second user yourself, and give both in the secret: "usernames": ["…", "…"].',
            )
        return other

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
            raise InvalidSecretError(
                f"With the new password the secret has {size} bytes; {MAX_SECRET_BYTES} is the most."
            )
        return copies

    def other_keys_differing(self, pending: "Credential") -> list[str]:
        """Return the keys in which AWSPENDING is not what createSecret would make of this secret, as it is now."""
        made = json.loads(self.with_password(pending.password, pending.username).copies().text)
        stored = json.loads(pending.text)
        different = [key for key in made | stored if (key in made, made.get(key)) != (key in stored, stored.get(key))]
        return [show((key,), self.password, pending.password) for key in different]

    def check_same_login(self, current: "Credential", version: str) -> None:
        """Return when AWSPENDING logs in where and as AWSCURRENT does; otherwise raise CredentialMismatchError.

        Guards against a confused deputy: whoever may write AWSPENDING must not choose the server or the role whose
        password is changed (AWS: «Lambda rotation functions», set_secret).
        """
        names = [name.name for name in fields(self) if name.compare and name.name != "password"]
        different = [_KEYS.get(name, name) for name in names if getattr(self, name) != getattr(current, name)]
        if different:
            raise CredentialMismatchError(
                f"AWSPENDING (version {version}) is for another login than AWSCURRENT: other {', '.join(different)}."
            )


@dataclass(frozen=True, slots=True)
class _Keys:
    """The secret's keys, read one at a time; what cannot be used raises InvalidSecretError by the key's name."""

    document: dict[str, object] = field(repr=False)

    def readers(self) -> dict[str, Callable[[], Any]]:
        """Return how each field of a Credential is read."""
        return {
            "host": lambda: self.host("host"),
            "port": lambda: self.port("port") or _DEFAULT_PORT,
            "dbname": lambda: self.name("dbname", default="postgres"),
            "username": lambda: self.name("username"),
            "password": lambda: self.text("password"),
            "sslmode": self.sslmode,
            "tls_server_name": lambda: self.host("tlsServerName", default="") or None,
            "rotation_host": lambda: self.host("rotationHost", default="") or None,
            "rotation_port": lambda: self.port("rotationPort"),
            "masterarn": lambda: self.text("masterarn", default="") or None,
            "usernames": self.usernames,
            "stale_copies": lambda: tuple(self.strings("allowStaleCopies")),
        }

    def text(self, key: str, *, default: str | None = None) -> str:
        if key not in self.document:
            if default is None:
                raise InvalidSecretError(f"`{key}` is missing from the secret.")
            return default
        value = self.document[key]
        if not isinstance(value, str):
            raise InvalidSecretError(f"`{key}` is {json_type(value)}, not a string.")
        if not value:
            raise InvalidSecretError(f"`{key}` is empty.")
        if _CONTROL.search(value):
            raise InvalidSecretError(f"`{key}` holds a control character (a line end, perhaps).")
        return value

    def name(self, key: str, *, default: str | None = None) -> str:
        value = self.text(key, default=default)
        if (size := len(value.encode())) > _MAX_NAME_BYTES:
            raise InvalidSecretError(f"`{key}` has {size} bytes; PostgreSQL's names have {_MAX_NAME_BYTES} at most.")
        return value

    def usernames(self) -> tuple[str, str] | None:
        """Read the names of two alternating users, one of which has to be the `username`."""
        if "usernames" not in self.document:
            return None
        names = self.strings("usernames")
        if len(names) != 2 or names[0] == names[1]:  # noqa: PLR2004
            raise InvalidSecretError("`usernames` is not a list of two different users.")
        first, second = (_Keys({"usernames": name}).name("usernames") for name in names)
        if self.document.get("username") not in names:
            raise InvalidSecretError("`username` is neither of the two in `usernames`.")
        return first, second

    def strings(self, key: str) -> list[str]:
        """Read a list of strings, or the text of one: the console of Secrets Manager stores nothing but strings."""
        value = self.document.get(key, [])
        with suppress(ValueError, RecursionError):
            value = json.loads(value) if isinstance(value, str) else value
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        raise InvalidSecretError(f"`{key}` is not a list of strings.")

    def host(self, key: str, *, default: str | None = None) -> str:
        """One host name or address: no list, socket directory, URL or connection string, all of which libpq takes."""
        value = self.text(key, default=default)
        if value == default or _HOST_NAME.fullmatch(value) or _is_ipv6(value):
            return value
        raise InvalidSecretError(
            f"`{key}` is not one host name or address.",
            hint=f"Give the bare name in `{key}`, and the port in `port`; no list, path, URL or connection string.",
        )

    def port(self, key: str) -> int | None:
        value = self.document.get(key)
        if value is None:
            return None
        if isinstance(value, str) and _PORT.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:  # noqa: PLR2004
            return value
        raise InvalidSecretError(f"`{key}` is not a port: a number from 1 to 65535, as a number or a string of digits.")

    def check_engine(self) -> None:
        if self.text("engine", default=_ENGINES[0]) not in _ENGINES:
            raise InvalidSecretError(
                f"`engine` is not one of {', '.join(_ENGINES)}: this function rotates PostgreSQL only."
            )

    def sslmode(self) -> SslMode | None:
        """Read `sslmode`, or else `ssl`, more strictly than AWS does: true or absent means no less than verify-full."""
        ssl = self.document.get("ssl", True)
        if isinstance(ssl, str):
            ssl = {"true": True, "false": False}.get(ssl.lower(), ssl)
        if not isinstance(ssl, bool):
            raise InvalidSecretError(
                f"`ssl` is {json_type(ssl)}, not true or false.",
                hint="Remove `ssl` and say what you mean in `sslmode`.",
            )
        if "sslmode" not in self.document:
            if "ssl" not in self.document:
                return None
            return SslMode.VERIFY_FULL if ssl else SslMode.DISABLE
        mode = self.text("sslmode")
        if mode not in set(SslMode):
            raise InvalidSecretError(f"`sslmode` is not one of {', '.join(SslMode)}; allow and prefer would downgrade.")
        return SslMode(mode)


def _tidy(document: dict[str, object]) -> dict[str, object]:
    """Return the document as its author meant it: without optional keys that say nothing, and blanks around a value.

    Blanks stay where PostgreSQL knows them, in names and passwords.
    """
    tidy = {
        key: value.strip(" ") if isinstance(value, str) and key not in _AS_IT_IS else value
        for key, value in document.items()
    }
    return {key: value for key, value in tidy.items() if key in _REQUIRED or value not in (None, "")}


def _is_ipv6(text: str) -> bool:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return address.scope_id is None  # a zone («fe80::1%eth0») may hold anything in Python's eyes, a second host too
