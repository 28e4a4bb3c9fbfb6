"""The function's environment, read once an invocation: the password policy, the strategy, the defaults for TLS."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self, TypeVar

from rotation_lambda.credential import SslMode
from rotation_lambda.errors import ConfigurationError

SHIPPED_BUNDLE = str(Path(__file__).parent / "roots" / "all.pem")
PLATFORM_ROOTS = "system"  # libpq's word for the certificates of the platform (PostgreSQL 32.19.1)

_SAFE_PUNCTUATION = "-._~"  # RFC 3986, section 2.3: unreserved in a URL, and plain in a DSN and in a shell
_UNSAFE_PUNCTUATION = "".join(sorted(set(string.punctuation) - set(_SAFE_PUNCTUATION)))
_SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@!-]+-[A-Za-z0-9]{6}")
_Choice = TypeVar("_Choice", bound=StrEnum)
_TRUE, _FALSE = ("true", "1", "yes", "y"), ("false", "0", "no", "n")


class Strategy(StrEnum):
    """Whose password changes, and who changes it."""

    AUTO = "auto"
    SINGLE_USER = "single-user"
    ALTERNATING_USERS = "alternating-users"
    SUPERUSER = "superuser"


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """What GetRandomPassword is asked for (AWS: GetRandomPassword)."""

    length: int = 32
    exclude_characters: str = _UNSAFE_PUNCTUATION
    exclude_numbers: bool = False
    exclude_punctuation: bool = False
    exclude_uppercase: bool = False
    exclude_lowercase: bool = False
    require_each_included_type: bool = True

    def __post_init__(self) -> None:
        """Refuse a policy that no password satisfies, by the variable's name."""
        if not 8 <= self.length <= 4096:  # noqa: PLR2004
            raise ConfigurationError(f"PASSWORD_LENGTH is {self.length}; it must be from 8 to 4096.")
        if len(self.characters) < 10:  # noqa: PLR2004
            raise ConfigurationError(
                "EXCLUDE_CHARACTERS and the other EXCLUDE_ variables leave fewer than 10 characters."
            )
        for name, characters in self._types().items():
            if self.require_each_included_type and not characters:
                raise ConfigurationError(
                    f"EXCLUDE_CHARACTERS leaves nothing of {name.lower()}, which REQUIRE_EACH_INCLUDED_TYPE asks for: "
                    f"set EXCLUDE_{name}=true as well."
                )

    @property
    def characters(self) -> frozenset[str]:
        """The characters that a new password is made of."""
        return frozenset().union(*self._types().values())

    def _types(self) -> dict[str, frozenset[str]]:
        """Return what is left of each type that is not excluded as a whole."""
        types = {
            "NUMBERS": (self.exclude_numbers, string.digits),
            "PUNCTUATION": (self.exclude_punctuation, string.punctuation),
            "UPPERCASE": (self.exclude_uppercase, string.ascii_uppercase),
            "LOWERCASE": (self.exclude_lowercase, string.ascii_lowercase),
        }
        return {
            name: frozenset(characters) - frozenset(self.exclude_characters)
            for name, (excluded, characters) in types.items()
            if not excluded
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the environment decides. A secret's own `sslmode` wins over the one here."""

    password_policy: PasswordPolicy
    strategy: Strategy
    sslmode: SslMode
    sslrootcert: str
    superuser_secret_arns: frozenset[str] | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables of docs/configuration.md; raise ConfigurationError, naming the variable, for a bad one.

        An empty variable counts as absent, except EXCLUDE_CHARACTERS, where it excludes nothing.
        """
        read = _Variables(environment)
        return cls(
            password_policy=PasswordPolicy(
                length=read.number("PASSWORD_LENGTH", default=32),
                exclude_characters=environment.get("EXCLUDE_CHARACTERS", _UNSAFE_PUNCTUATION),
                exclude_numbers=read.boolean("EXCLUDE_NUMBERS", default=False),
                exclude_punctuation=read.boolean("EXCLUDE_PUNCTUATION", default=False),
                exclude_uppercase=read.boolean("EXCLUDE_UPPERCASE", default=False),
                exclude_lowercase=read.boolean("EXCLUDE_LOWERCASE", default=False),
                require_each_included_type=read.boolean("REQUIRE_EACH_INCLUDED_TYPE", default=True),
            ),
            strategy=read.choice("ROTATION_STRATEGY", Strategy, default=Strategy.AUTO),
            sslmode=read.choice("PGSSLMODE", SslMode, default=SslMode.VERIFY_FULL),
            sslrootcert=read.certificates("PGSSLROOTCERT", default=SHIPPED_BUNDLE),
            superuser_secret_arns=read.secret_arns("SUPERUSER_SECRET_ARNS"),
        )


@dataclass(frozen=True, slots=True)
class _Variables:
    """The environment, read one variable at a time."""

    environment: Mapping[str, str] = field(repr=False)

    def number(self, name: str, *, default: int) -> int:
        value = self.environment.get(name) or str(default)
        if not (value.isascii() and value.isdigit()) or len(value) > 9:  # noqa: PLR2004
            raise ConfigurationError(f"{name} is {value[:40]!a}, not a whole number.")
        return int(value)

    def boolean(self, name: str, *, default: bool) -> bool:
        value = (self.environment.get(name) or str(default)).lower()
        if value not in (*_TRUE, *_FALSE):
            raise ConfigurationError(f"{name} is {value[:40]!a}, not true or false.")
        return value in _TRUE

    def choice(self, name: str, choices: type[_Choice], *, default: _Choice) -> _Choice:
        value = self.environment.get(name) or default
        if value not in set(choices):
            raise ConfigurationError(f"{name} is {value[:40]!a}, not one of {', '.join(choices)}.")
        return choices(value)

    def secret_arns(self, name: str) -> frozenset[str] | None:
        """Read ARNs separated by spaces or commas, of which the word `none` is none; None where there is nothing."""
        arns = set(self.environment.get(name, "").replace(",", " ").split())
        if bad := sorted(arn for arn in arns - {"none"} if not _SECRET_ARN.fullmatch(arn)):
            raise ConfigurationError(f"{name} has {bad[0][:200]!a}, which is not the complete ARN of a secret.")
        return frozenset(arns - {"none"}) if arns else None

    def certificates(self, name: str, *, default: str) -> str:
        value = self.environment.get(name) or default
        if value == PLATFORM_ROOTS:
            return value
        try:
            text = Path(value).read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise ConfigurationError(f"{name} is {value[:200]!a}, which cannot be read: {reason}.") from None
        if "-----BEGIN CERTIFICATE-----" not in text:
            raise ConfigurationError(f"{name} is {value[:200]!a}, which holds no certificate in PEM form.")
        return value
