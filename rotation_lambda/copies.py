"""Where else in a secret its login stands, and how each copy is renewed: found by parsing, never by replacing text."""

import json
import re
from base64 import b64decode
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, unquote_plus

from rotation_lambda.connection_strings import TextLogin, logins_in
from rotation_lambda.secret_text import Edit, Path, String, splice, strings

LONG = 12
"""From so many characters on, what holds the password is taken for a copy of it; a shorter one may be a word."""
_SURE = 16
"""From so many characters on, a key with the very password is a copy, whatever its name is."""

_NEVER = {"engine", "host", "port", "dbname", "owner", "masterarn", "usernames", "sslmode", "tlsservername"} | {
    *("rotationhost", "allowstalecopies", "dbinstanceidentifier", "dbclusteridentifier")
}
_USER, _USER_AT_END = re.compile("username|user|login"), re.compile("(?:username|user|login)$")
_PASSWORD, _PASSWORD_AT_END = (
    re.compile(f"(?:password|passwd|passphrase|pass|pwd|secret){end}") for end in ("", "[0-9]*$")
)
_BASE64 = re.compile("[A-Za-z0-9+/]{4,}")


_Named = list[tuple[str, str]]
"""The keys of an object, in small letters and digits alone, and their strings."""


class Kind(StrEnum):
    """What becomes of a string that holds the password, or that is the name of a user who changes."""

    RENEWED = "renewed, as copies of the login"
    OTHER_USER = "left as it is: the same password, but of another user"
    OLD_USER = "left as it is: the name of a user who changes"
    ALLOWED = "left as it is, as `allowStaleCopies` says"
    WORD = "left as it is: it holds the password, which is so short that it may be a word"
    UNKNOWN = "holds the password in a form that is not renewed"


Login = tuple[str, str]
"""A user and a password."""


@dataclass(frozen=True, slots=True)
class Copies:
    """The text of a secret with another login in it, and what was found there: the paths of each kind."""

    text: str = field(repr=False)
    found: dict[Kind, list[str]]

    def paths(self, *kinds: Kind) -> str:
        """Return the paths of these kinds in backticks, each once."""
        return ", ".join(dict.fromkeys(f"`{path}`" for kind in kinds for path in self.found.get(kind, [])))

    def notes(self, *kinds: Kind) -> list[str]:
        """Return a sentence for each of these kinds that was found."""
        return [f"{self.paths(kind)}: {kind}." for kind in kinds if kind in self.found]


def renew(text: str, login: Login, allowed: tuple[str, ...] = (), old: Login | None = None) -> Copies:
    """Put a login in the place of the secret's own, or of the `old` one, wherever it stands in a form that is known.

    Known are `username` and `password`; URLs, libpq's keyword=value, lists of Key=Value; and lines of .pgpass that have
    this user or none; keys with the very password; and beside any of these, keys that by name and value are the user's.
    JSON in a string is read, one level deep. `allowed` are paths to leave alone. All else stays byte for byte.
    """
    own = {string.path: string.value for string in strings(text) if not string.is_key}
    search = _Search(*(old or (own["username",], own["password",])), *login, allowed, own["password",])
    return Copies(splice(text, search.examine(text)), search.found)


def show(path: Path, *passwords: str) -> str:
    """Return a path as it may be told: a key that holds a password is hidden, a long one cut off."""
    parts = ["".join(one if one.isprintable() else "?" for one in str(part)[:80]) for part in path]
    hidden = [any(_is_copy(str(part), one) for one in passwords) for part in path]
    return ".".join("…" if hide else part for part, hide in zip(parts, hidden, strict=True))


@dataclass(frozen=True, slots=True)
class _Search:
    user: str
    password: str = field(repr=False)
    new_user: str
    new_password: str = field(repr=False)
    allowed: tuple[str, ...]
    own_password: str = field(repr=False)
    found: dict[Kind, list[str]] = field(default_factory=dict)

    def examine(self, text: str, above: Path = ()) -> list[Edit]:
        """Return the edits of a JSON text, the secret's or one that stands in its string at `above`."""
        edits: list[Edit] = []
        objects: dict[Path, list[String]] = {}
        for string in strings(text):
            objects.setdefault(string.path[:-1], []).append(string)
        for members in objects.values():
            named = [(_name(string.path), string.value) for string in members if not string.is_key]
            before = len(edits)
            for string in members:
                edits += string.place(self._renew(string, above, named))
            renewed = len(edits) > before
            for string in members:
                edits += string.place(self._rename(string, above, named, renewed=renewed))
        return edits

    def _renew(self, string: String, above: Path, named: _Named) -> list[Edit]:
        """Return the edits of a string that holds the password."""
        text, path = string.value, above + string.path
        if string.is_key:
            return self._note(Kind.UNKNOWN, path) if _is_copy(text, self.password) else []
        if path == ("password",):
            return [(0, len(text), self.new_password)]
        if not above and _is_json(text):
            return self.examine(text, path)
        if not _holds(text, self.password) or path == ("username",):
            return []
        logins = logins_in(text, self.password)
        return self._renew_in_text(text, path, logins) if logins else self._renew_by_key(text, path, named)

    def _renew_in_text(self, text: str, path: Path, logins: list[TextLogin]) -> list[Edit]:
        edits, others = list[Edit](), list[Edit]()
        for login in logins:
            same = login.with_password(self.password)
            if not all(self.user in slot.readings for slot in login.users):
                others += [(slot.start, slot.end, "") for slot in login.passwords]
                if same:
                    self._note(Kind.OTHER_USER, path)
            elif same:
                edits += [(slot.start, slot.end, slot.write(self.new_password)) for slot in same]
                if self.new_user != self.user:
                    edits += [(slot.start, slot.end, slot.write(self.new_user)) for slot in login.users]
        if _is_copy(splice(text, edits + others), self.password):
            self._note(Kind.UNKNOWN, path)
        return self._note(Kind.RENEWED, path, *edits) if edits else []

    def _renew_by_key(self, text: str, path: Path, named: _Named) -> list[Edit]:
        name, password = _name(path), self.password
        if name in _NEVER or (text == self.user and _USER_AT_END.search(name)):
            return []
        if _PASSWORD_AT_END.search(name) or (text == password and len(password) >= _SURE):
            # Whose it is says a user whose key pairs with this one (`ro_user`, `ro_password`), or else any beside it.
            users = _paired(name, _PASSWORD, _USER, named)
            users = users or [value for key, value in named if _USER_AT_END.search(key)]
            if users and self.user not in users:
                return self._note(Kind.OTHER_USER, path) if text == password else []
            if text == password:
                return self._note(Kind.RENEWED, path, (0, len(text), self.new_password))
        if len(password) >= LONG:
            return self._note(Kind.UNKNOWN, path)
        word = password not in text or re.search(rf"(?<!\w){re.escape(password)}(?!\w)", text)
        return self._note(Kind.WORD, path) if word else []

    def _rename(self, string: String, above: Path, named: _Named, *, renewed: bool) -> list[Edit]:
        """Return the edits of a string that is the name of a user who changes."""
        path, name = above + string.path, _name(string.path)
        edit = (0, len(string.value), self.new_user)
        if string.value != self.user or self.new_user == self.user or string.is_key or name in _NEVER:
            return []
        if path == ("username",):
            return [edit]
        passwords = _paired(name, _USER, _PASSWORD, named)
        ours = self.password in passwords or (not passwords and renewed and _USER_AT_END.search(name))
        return self._note(Kind.RENEWED, path, edit) if ours else self._note(Kind.OLD_USER, path)

    def _note(self, kind: Kind, path: Path, *edits: Edit) -> list[Edit]:
        """Note what a string is, and return its edits, unless it is to be left alone."""
        shown = show(path, self.password, self.own_password)
        allowed = shown in self.allowed
        self.found.setdefault(Kind.ALLOWED if allowed else kind, []).append(shown)
        return [] if allowed else list(edits)


def _paired(name: str, word: re.Pattern[str], other: re.Pattern[str], named: _Named) -> list[str]:
    """Return what the keys have that are called alike, but for the word: for `db_user` those called `db_password`."""
    alike = word.sub("", name, count=1) if word.search(name) else None
    return [value for key, value in named if other.search(key) and other.sub("", key, count=1) == alike]


def _is_json(text: str) -> bool:
    """Tell whether a text is a JSON object or array."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _name(path: Path) -> str:
    """Return the last key of a path, in small letters and digits alone."""
    return re.sub("[^a-z0-9]", "", next((part.lower() for part in reversed(path) if isinstance(part, str)), ""))


def _is_copy(text: str, password: str) -> bool:
    """Tell whether a text holds a password that is too long for a word."""
    return len(password) >= LONG and _holds(text, password)


def _holds(text: str, password: str) -> bool:
    """Tell whether a text holds the password: as it is, percent-encoded, escaped, with doubled quotes, or in base64."""
    readings = [text, unquote(text), unquote_plus(text), re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)]
    readings += [text.replace(mark * 2, mark) for mark in "'\"}"]
    for run in _BASE64.findall(text.replace("-", "+").replace("_", "/")):
        readings.append(b64decode(run[: len(run) - (len(run) % 4 == 1)] + "==").decode(errors="replace"))
    return any(password in reading for reading in readings)
