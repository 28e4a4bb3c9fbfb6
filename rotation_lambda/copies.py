"""Where else in a secret its login stands, and how each copy is renewed: found by parsing, never by replacing text."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, unquote_plus

from rotation_lambda.connection_strings import TextLogin, logins_in
from rotation_lambda.secret_text import Edit, Path, String, splice, strings

LONG = 12
"""From so many characters on, what holds the password is taken for a copy of it; a shorter one may be a word."""
_SURE = 16
"""From so many characters on, a key with the very password is a copy, whatever its name is."""

_OWN = {"engine", "host", "port", "dbname", "username", "password", "ssl", "sslmode", "masterarn", "usernames"} | {
    *("tlsServerName", "rotationHost", "rotationPort", "allowStaleCopies")
}
_NEVER = {"engine", "host", "port", "dbname", "usernames", "owner", "masterarn", "sslmode", "tlsservername"} | {
    *("rotationhost", "dbinstanceidentifier", "dbclusteridentifier", "allowstalecopies")
}
_USER, _USER_AT_END = re.compile("username|user|login"), re.compile("(?:username|user|login)$")
_PASSWORD, _PASSWORD_AT_END = (
    re.compile(f"(?:password|passwd|passphrase|pass|pwd|secret){end}") for end in ("", "[0-9]*$")
)
_BASE64 = re.compile("[A-Za-z0-9+/]{4,}")
_HIDDEN = "…"


class Kind(StrEnum):
    """What becomes of a string that holds the password, or that is the name of a user who changes."""

    RENEWED = "renewed, as copies of the login"
    OTHER_USER = "left as it is: the same password, but of another user"
    OLD_USER = "left as it is: the name of a user who changes"
    ALLOWED = "left as it is, as `allowStaleCopies` says"
    WORD = "left as it is: it holds the password, which is so short that it may be a word"
    UNKNOWN = "holds the password in a form that is not renewed"


_Kinds = dict[Kind | None, list[Edit]]
"""What a string is, and its edits; None where it is the secret's own `username` or `password`."""
_Found = Iterator[tuple[Kind | None, str, list[Edit]]]
"""What there is in a JSON text: kind, path, and edits of the text."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Copies:
    """The text of a secret with another login in it, and what was found there: the paths of each kind."""

    text: str = field(repr=False)
    found: dict[Kind, list[str]]

    def paths(self, kind: Kind) -> str:
        """Return the paths of a kind in backticks, each once."""
        return ", ".join(f"`{path}`" for path in dict.fromkeys(self.found.get(kind, [])))

    def notes(self, *kinds: Kind) -> list[str]:
        """Return a sentence for each of these kinds that was found."""
        return [f"{self.paths(kind)}: {kind}." for kind in kinds if kind in self.found]


def renew(text: str, new: Login, allowed: tuple[str, ...] = (), old: Login | None = None) -> Copies:
    """Put a login in the place of the secret's own, or of the `old` one, wherever it stands in a form that is known.

    Known are `username` and `password`; URLs, libpq's keyword=value, lists of Key=Value; and lines of .pgpass that have
    this user or none; keys with the very password; and beside any of these, keys that by name and value are the user's.
    JSON in a string is read, one level deep. `allowed` are paths to leave alone. All else stays byte for byte.
    """
    own = {string.path[0]: string.value for string in strings(text) if len(string.path) == 1 and not string.is_key}
    search = _Search(old or Login(own["username"], own["password"]), new, allowed)
    changes, found = list[Edit](), dict[Kind, list[str]]()
    for kind, path, edits in search.examine(text):
        changes += edits
        if kind:
            found.setdefault(kind, []).append(path)
    return Copies(splice(text, changes), found)


def show(path: Path, *passwords: str) -> str:
    """Return a path as it may be told: a key that holds a password is hidden, a long one cut off."""
    hidden = [any(len(one) >= LONG and _holds(str(part), one) for one in passwords) for part in path]
    plain = ["".join(one if one.isprintable() else "?" for one in str(part)[:80]) for part in path]
    return ".".join(_HIDDEN if hide else part for part, hide in zip(plain, hidden, strict=True))


@dataclass(frozen=True, slots=True)
class _Search:
    old: Login
    new: Login
    allowed: tuple[str, ...]

    def examine(self, text: str, above: Path = ()) -> _Found:
        """Yield what is in a JSON text: the secret's, or one that stands in its string at `above`."""
        objects: dict[Path, list[String]] = {}
        for string in strings(text):
            objects.setdefault(string.path[:-1], []).append(string)
        for members in objects.values():
            named = [(_name(string), string.value) for string in members if not string.is_key]
            found = [one for string in members for one in self._password_in(string, named, above)]
            yield from found
            if self.new.username != self.old.username:
                renewed = any(edits for _, _, edits in found)
                for string in members:
                    yield from self._user_in(string, named, above, renewed=renewed)

    def _password_in(self, string: String, named: list[tuple[str, str]], above: Path) -> _Found:
        kinds: _Kinds = {}
        if _is_own(string, above):
            new = {"username": self.new.username, "password": self.new.password}.get(str(string.path[0]), string.value)
            if not string.is_key and new != string.value:
                kinds = {None: [(0, len(string.value), new)]}
        elif string.is_key:
            if show(string.path[-1:], self.old.password) == _HIDDEN:
                kinds = {Kind.UNKNOWN: []}
        elif not above and _is_json(string.value):
            for kind, path, edits in self.examine(string.value, string.path):
                yield kind, path, [*string.place(edits)]
        elif _holds(string.value, self.old.password):
            logins = logins_in(string.value, self.old.password)
            kinds = self._in_text(string.value, logins) if logins else self._at_key(_name(string), string.value, named)
        yield from self._tell(string, above, kinds)

    def _user_in(self, string: String, named: list[tuple[str, str]], above: Path, *, renewed: bool) -> _Found:
        name = _name(string)
        if string.value == self.old.username and not (string.is_key or name in _NEVER or _is_own(string, above)):
            passwords = _paired(name, _USER, _PASSWORD, named)
            ours = self.old.password in passwords or (not passwords and renewed and _USER_AT_END.search(name))
            edit = (0, len(string.value), self.new.username)
            yield from self._tell(string, above, {Kind.RENEWED: [edit]} if ours else {Kind.OLD_USER: []})

    def _tell(self, string: String, above: Path, kinds: _Kinds) -> _Found:
        path = show(above + string.path, self.old.password)
        for kind, edits in kinds.items():
            yield (Kind.ALLOWED, path, []) if path in self.allowed and kind else (kind, path, [*string.place(edits)])

    def _in_text(self, text: str, logins: list[TextLogin]) -> _Kinds:
        """Return what a text with logins in it is."""
        kinds, known = _Kinds(), list[Edit]()
        for login in logins:
            same = login.with_password(self.old.password)
            ours = all(self.old.username in slot.readings for slot in login.users)
            known += [(slot.start, slot.end, "\n") for slot in (same if ours else login.passwords)]
            if ours and same:
                edits = [(slot.start, slot.end, slot.write(self.new.password)) for slot in same]
                if self.new.username != self.old.username:
                    edits += [(slot.start, slot.end, slot.write(self.new.username)) for slot in login.users]
                kinds[Kind.RENEWED] = [*kinds.get(Kind.RENEWED, []), *edits]
            elif same:
                kinds[Kind.OTHER_USER] = []
        if len(self.old.password) >= LONG and _holds(splice(text, known), self.old.password):
            kinds[Kind.UNKNOWN] = []
        return kinds

    def _at_key(self, name: str, text: str, named: list[tuple[str, str]]) -> _Kinds:
        """Return what a text without a login in it is, by the name of its key and what stands beside it."""
        password = self.old.password
        if name in _NEVER or (text == self.old.username and _USER_AT_END.search(name)):
            return {}
        if _PASSWORD_AT_END.search(name) or (text == password and len(password) >= _SURE):
            # Whose it is says a user whose key pairs with this one (`ro_user`, `ro_password`), or else any beside it.
            users = _paired(name, _PASSWORD, _USER, named)
            users = users or [value for key, value in named if _USER_AT_END.search(key)]
            if users and self.old.username not in users:
                return {Kind.OTHER_USER: []} if text == password else {}
            if text == password:
                return {Kind.RENEWED: [(0, len(text), self.new.password)]}
        if len(password) >= LONG:
            return {Kind.UNKNOWN: []}
        word = password not in text or re.search(rf"(?<!\w){re.escape(password)}(?!\w)", text)
        return {Kind.WORD: []} if word else {}


def _paired(name: str, word: re.Pattern[str], other: re.Pattern[str], named: list[tuple[str, str]]) -> list[str]:
    """Return what the keys have that are called alike, but for the word: for `db_user` those called `db_password`."""
    alike = word.sub("", name, count=1) if word.search(name) else None
    return [value for key, value in named if other.search(key) and other.sub("", key, count=1) == alike]


def _is_own(string: String, above: Path) -> bool:
    """Tell whether a string is one of the keys that a rotation reads, or its value."""
    return not above and len(string.path) == 1 and string.path[0] in _OWN


def _is_json(text: str) -> bool:
    """Tell whether a text is a JSON object or array."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _name(string: String) -> str:
    """Return the last key on the way to a string, in small letters and digits alone."""
    return re.sub("[^a-z0-9]", "", next((part.lower() for part in reversed(string.path) if isinstance(part, str)), ""))


def _holds(text: str, password: str) -> bool:
    """Tell whether a text holds the password: as it is, percent-encoded, escaped, with doubled quotes, or in base64."""
    readings = [text, unquote(text), unquote_plus(text), re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)]
    readings += [text.replace(mark * 2, mark) for mark in "'\"}"]
    for run in _BASE64.findall(text.replace("-", "+").replace("_", "/")):
        readings.append(b64decode(run[: len(run) - (len(run) % 4 == 1)] + "==").decode(errors="replace"))
    return any(password in reading for reading in readings)
