"""The function's environment, read once an invocation: the password policy, the strategy, the defaults for TLS."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from rotation_lambda.credential import SslMode
from rotation_lambda.errors import ConfigurationError

SHIPPED_BUNDLE = str(Path(__file__).parent / "roots" / "all.pem")
PLATFORM_ROOTS = "system"  # libpq's word for the certificates of the platform (PostgreSQL 32.19.1)

_SAFE_PUNCTUATION = "-._~"  # RFC 3986, section 2.3: unreserved in a URL, and plain in a DSN and in a shell
_UNSAFE_PUNCTUATION = "".join(sorted(set(string.punctuation) - set(_SAFE_PUNCTUATION)))
_SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@!-]+-[A-Za-z0-9]{6}")
_PEM = "-----BEGIN CERTIFICATE-----"
_TYPES = {
    "NUMBERS": string.digits,
    "PUNCTUATION": string.punctuation,
    "UPPERCASE": string.ascii_uppercase,
    "LOWERCASE": string.ascii_lowercase,
}
_TRUE, _FALSE = ("true", "1", "yes", "y"), ("false", "0", "no", "n")


class Strategy(StrEnum):
    """Whose password changes, and who changes it."""

    AUTO = "auto"
    SINGLE_USER = "single-user"
    ALTERNATING_USERS = "alternating-users"
    SUPERUSER = "superuser"


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", value):
        raise ConfigurationError(f"{name} is {value[:40]!a}, not a whole number.")
    return int(value)


def _boolean(environment: Mapping[str, str], name: str, default: bool) -> bool:  # noqa: FBT001
    value = (environment.get(name) or str(default)).lower()
    if value not in (*_TRUE, *_FALSE):
        raise ConfigurationError(f"{name} is {value[:40]!a}, not true or false.")
    return value in _TRUE


def _choice(environment: Mapping[str, str], name: str, default: StrEnum) -> StrEnum:
    choices, value = type(default), environment.get(name) or default
    if value not in set(choices):
        raise ConfigurationError(f"{name} is {value[:40]!a}, not one of {', '.join(choices)}.")
    return choices(value)


def _secret_arns(environment: Mapping[str, str], name: str, default: None) -> frozenset[str] | None:
    """Read ARNs separated by spaces or commas, of which the word `none` is none; the default where there is nothing."""
    arns = set(environment.get(name, "").replace(",", " ").split())
    if bad := sorted(arn for arn in arns - {"none"} if not _SECRET_ARN.fullmatch(arn)):
        raise ConfigurationError(f"{name} has {bad[0][:200]!a}, which is not the complete ARN of a secret.")
    return frozenset(arns - {"none"}) if arns else default


def _certificates(environment: Mapping[str, str], name: str, default: str) -> str:
    value, problem = environment.get(name) or default, ""
    try:
        if value != PLATFORM_ROOTS and _PEM not in Path(value).read_text(encoding="utf-8", errors="replace"):
            problem = "holds no certificate in PEM form"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or 'not a path'}"
    if problem:
        raise ConfigurationError(f"{name} is {value[:200]!a}, which {problem}.")
    return value


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """What GetRandomPassword is asked for (AWS: GetRandomPassword)."""

    length: int = field(default=32, metadata={"PASSWORD_LENGTH": _number})
    exclude_characters: str = field(default=_UNSAFE_PUNCTUATION, metadata={"EXCLUDE_CHARACTERS": Mapping.get})
    exclude_numbers: bool = field(default=False, metadata={"EXCLUDE_NUMBERS": _boolean})
    exclude_punctuation: bool = field(default=False, metadata={"EXCLUDE_PUNCTUATION": _boolean})
    exclude_uppercase: bool = field(default=False, metadata={"EXCLUDE_UPPERCASE": _boolean})
    exclude_lowercase: bool = field(default=False, metadata={"EXCLUDE_LOWERCASE": _boolean})
    require_each_included_type: bool = field(default=True, metadata={"REQUIRE_EACH_INCLUDED_TYPE": _boolean})

    def __post_init__(self) -> None:
        """Refuse a policy that no password satisfies, by the variable's name."""
        if not 8 <= self.length <= 4096:  # noqa: PLR2004
            raise ConfigurationError(f"PASSWORD_LENGTH is {self.length}; it must be from 8 to 4096.")
        if len(self.characters) < 10:  # noqa: PLR2004
            raise ConfigurationError("EXCLUDE_CHARACTERS and other EXCLUDE_ variables leave fewer than 10 characters.")
        for name, characters in self._types().items():
            if self.require_each_included_type and not characters:
                what = f"EXCLUDE_CHARACTERS leaves nothing of {name.lower()}, which REQUIRE_EACH_INCLUDED_TYPE asks for"
                raise ConfigurationError(f"{what}: set EXCLUDE_{name}=true as well.")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of GetRandomPassword, whose names are those of the variables in CamelCase."""
        return {name.title().replace("_", ""): getattr(self, one.name) for one in fields(self) for name in one.metadata}

    @property
    def characters(self) -> frozenset[str]:
        """The characters that a new password is made of."""
        return frozenset().union(*self._types().values())

    def _types(self) -> dict[str, frozenset[str]]:
        """Return what is left of each type that is not excluded as a whole."""
        return {
            name: frozenset(characters) - frozenset(self.exclude_characters)
            for name, characters in _TYPES.items()
            if not getattr(self, f"exclude_{name.lower()}")
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the environment decides. A secret's own `sslmode` wins over the one here."""

    password_policy: PasswordPolicy
    strategy: Strategy = field(default=Strategy.AUTO, metadata={"ROTATION_STRATEGY": _choice})
    sslmode: SslMode = field(default=SslMode.VERIFY_FULL, metadata={"PGSSLMODE": _choice})
    sslrootcert: str = field(default=SHIPPED_BUNDLE, metadata={"PGSSLROOTCERT": _certificates})
    superuser_secret_arns: frozenset[str] | None = field(default=None, metadata={"SUPERUSER_SECRET_ARNS": _secret_arns})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables of docs/configuration.md; raise ConfigurationError, naming the variable, for a bad one.

        An empty variable counts as absent, except EXCLUDE_CHARACTERS, where it excludes nothing.
        """
        return cls(PasswordPolicy(**_read(PasswordPolicy, environment)), **_read(cls, environment))


def _read(kind: type[Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields whose metadata say from which variable they are read, and how."""
    return {it.name: read(environment, name, it.default) for it in fields(kind) for name, read in it.metadata.items()}
