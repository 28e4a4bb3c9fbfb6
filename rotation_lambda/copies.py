"""Where else in a secret its login stands, and how each copy is renewed: found by parsing, never by replacing text."""

import html
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, unquote_plus

from rotation_lambda.connection_strings import Slot, TextLogin, logins_in, users_in
from rotation_lambda.errors import InvalidSecretError
from rotation_lambda.secret_text import Edit, Path, String, read, splice, strings

LONG = 12
"""From so many characters on, what holds the password is taken for a copy of it; a shorter one may be a word."""
_SURE = 16  # from so many characters on, a key with the very password is a copy, whatever its name is

_NEVER = {"engine", "host", "port", "dbname", "owner", "masterarn", "usernames", "sslmode", "tlsservername"} | {
    *("rotationhost", "allowstalecopies", "dbinstanceidentifier", "dbclusteridentifier")
}
_USER, _PASSWORD = "username|userid|user|login|^uid", "password|passwd|passphrase|pass|pwd|secret"
_IS_USER, _IS_PASSWORD = re.compile(f"(?:{_USER})$"), re.compile(f"(?:{_PASSWORD})[0-9]*$")
_HAS_USER, _HAS_PASSWORD = re.compile(_USER), re.compile(_PASSWORD)
_WORDS = re.compile(f"{_USER}|{_PASSWORD}|url|uri|dsn|conninfo|connectionstring")


class Kind(StrEnum):
    """What becomes of a string that holds the password, or that is the name of a user who changes."""

    RENEWED = "renewed, as copies of the login"
    NO_USER = "renewed, but no user name stands beside it, and the user changes: applications must read `username` too"
    OTHER_USER = "left as it is: the login of another user, with the same password in it"
    OLD_USER = "left as it is: the name of a user who changes"
    ALLOWED = "left as it is, as `allowStaleCopies` says"
    WORD = "left as it is: it holds the password, which may be a word or a name"
    UNKNOWN = "holds the password in a form that is not renewed"


Login = tuple[str, str]
"""A user and a password."""
_Beside = defaultdict[tuple[str, str | None], list[str]]


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
    names = {own.get((key,)) for key in ("username", "dbname", "host")}
    search = _Search(*(old or (own["username",], own["password",])), *login, allowed, own["password",], names)
    return Copies(splice(text, search.examine(text)), search.found)


def show(path: Path, *passwords: str) -> str:
    """Return a path as it may be told: a key that holds a password is hidden, a long one cut off."""
    hidden = {part for part in path for one in passwords if _is_copy(str(part), one)}
    told = ("…" if part in hidden else str(part)[:80] for part in path)
    return "".join(one if one.isprintable() else "?" for one in ".".join(told))


@dataclass(frozen=True, slots=True)
class _Search:
    user: str
    password: str = field(repr=False)
    new_user: str
    new_password: str = field(repr=False)
    allowed: tuple[str, ...]
    own_password: str = field(repr=False)
    names: set[str | None] = field(repr=False)
    found: dict[Kind, list[str]] = field(default_factory=dict)
    shown: dict[str | int, str] = field(default_factory=dict, repr=False)

    def examine(self, text: str, above: Path = ()) -> list[Edit]:
        """Return the edits of a JSON text, the secret's or one that stands in its string at `above`."""
        edits, objects = list[Edit](), defaultdict[Path, list[String]](list)
        for string in strings(text):
            objects[string.path[:-1]].append(string)
        for members in objects.values():
            beside = _beside(members)
            found = [(string, string.place(self._renew(string, above, beside))) for string in members]
            renewed = {_name(string.path) for string, renewal in found if renewal}
            for string, renewal in found:
                edits += renewal or string.place(self._rename(string, above, beside, renewed))
        return edits

    def _renew(self, string: String, above: Path, beside: _Beside) -> list[Edit]:
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
        logins, name = logins_in(text, self.user, self.password), _name(path)
        if not logins:
            if name in _NEVER or (text == self.user and _IS_USER.search(name)):
                return []
            if _IS_PASSWORD.search(name) or (text == self.password and len(text) >= _SURE and text not in self.names):
                logins = [TextLogin([], [_whole(text)], [(0, len(text), "")])]
        return self._renew_in(text, path, logins, beside)

    def _renew_in(self, text: str, path: Path, logins: list[TextLogin], beside: _Beside) -> list[Edit]:
        edits, blanks, unclear = list[Edit](), list[Edit](), False
        around = beside["user", _stem(_name(path))] or beside["user", None]  # for a login without a user of its own
        for login in logins:
            users = [slot.readings for slot in login.users] or [around] * bool(around)
            same = [self.password in slot.readings for slot in login.passwords]
            if all(same) and all(self.user in user for user in users):
                edits += [slot.put(self.new_password) for slot in login.passwords]
                blanks += login.blanks
                if self.new_user != self.user:
                    edits += [slot.put(self.new_user) for slot in login.users]
                    _ = users or self._note(Kind.NO_USER, path)
            elif users and _plain(self.user) not in {_plain(one) for user in users for one in user}:
                blanks += [(slot.start, slot.end, "") for slot in login.passwords]
                if any(same) or any(_is_copy(one, self.password) for slot in login.passwords for one in slot.readings):
                    self._note(Kind.OTHER_USER, path)
            else:
                unclear |= any(same)
        rest = splice(text, blanks)
        if unclear or _is_copy(rest, self.password) or ((edits or not blanks) and _has_word(rest, self.password)):
            is_word = len(self.password) < LONG or text in self.names
            self._note(Kind.WORD if is_word and not edits else Kind.UNKNOWN, path)
        return self._note(Kind.RENEWED, path, *edits) if edits else []

    def _rename(self, string: String, above: Path, beside: _Beside, renewed: set[str]) -> list[Edit]:
        """Return the edits of a string that has the name of a user who changes, and no password."""
        text, path = string.value, above + string.path
        name = _name(path)
        if self.new_user == self.user or string.is_key or name in _NEVER:
            return []
        slots = [_whole(text)] if text == self.user else [] if _holds(text, self.password) else users_in(text)
        if not slots or not all(self.user in slot.readings for slot in slots):
            return []
        edits = [slot.put(self.new_user) for slot in slots]
        if path == ("username",):
            return edits
        paired = {*beside["password", _stem(name)]}
        is_user = text != self.user or (_HAS_USER if paired else _IS_USER).search(name)
        ours = is_user and (paired & renewed if paired else renewed)
        return self._note(Kind.RENEWED, path, *edits) if ours else self._note(Kind.OLD_USER, path)

    def _note(self, kind: Kind, path: Path, *edits: Edit) -> list[Edit]:
        """Note what a string is, and return its edits, unless it is to be left alone."""
        for part in path:
            if part not in self.shown:
                self.shown[part] = show((part,), self.password, self.own_password)
        shown = ".".join(self.shown[part] for part in path)
        allowed = shown in self.allowed
        self.found.setdefault(Kind.ALLOWED if allowed else kind, []).append(shown)
        return [] if allowed else list(edits)


def _beside(members: list[String]) -> _Beside:
    """Return the users in an object, and the names of the keys that have passwords, by the stem of their names.

    Those whose key says nothing but that it is a user are by None, too.
    """
    named = [(_name(one.path), one.value) for one in members if one.value and not one.is_key]
    named += [(f"{name}user", one) for name, text in named for slot in users_in(text) for one in slot.readings]
    beside: _Beside = defaultdict(list)
    for name, value in named:
        if _HAS_USER.search(name):
            beside["user", _stem(name)].append(value)
        if _IS_USER.search(name):
            beside["user", None].append(value)
        if _HAS_PASSWORD.search(name):
            beside["password", _stem(name)].append(name)
    return beside


def _whole(text: str) -> Slot:
    """Return the slot of a user or a password that is the whole text."""
    return Slot(0, len(text), (text,), str)


def _is_json(text: str) -> bool:
    """Tell whether a text is a JSON object or array."""
    try:
        return isinstance(read(text), dict | list)
    except InvalidSecretError:
        return False


def _plain(user: str) -> str:
    """Return a user's name as it is in quotes or a list of a syntax that is not known, too."""
    return user.strip("\"',; ")


def _has_word(text: str, password: str) -> bool:
    """Tell whether a text has the password as a word, in whatever writing."""
    return any(re.search(rf"(?<!\w){re.escape(password)}(?!\w)", reading) for reading in _readings(text))


def _name(path: Path) -> str:
    """Return the last key of a path, in small letters and digits alone."""
    return re.sub("[^a-z0-9]", "", next((part.lower() for part in reversed(path) if isinstance(part, str)), ""))


def _stem(name: str) -> str:
    """Return what is the same in the names of a user and its password: that of `db_user` and `db_url` is `db`."""
    return _WORDS.sub("", name)


def _is_copy(text: str, password: str) -> bool:
    """Tell whether a text holds a password that is too long for a word."""
    return len(password) >= LONG and _holds(text, password)


def _holds(text: str, password: str) -> bool:
    """Tell whether a text holds the password, in whatever writing, none of which is shorter than what it says."""
    return len(password) <= len(text) and any(password in reading for reading in _readings(text))


def _readings(text: str) -> Iterator[str]:
    """Yield a text as it is, percent-encoded once or twice, escaped, in quotes, of HTML, and what is base64 in it."""
    yield from (text, html.unescape(text), re.sub(r"(?s)\\(.)", r"\1", text), re.sub(r"""'(\\'|"'")'""", "'", text))
    yield from (decode(one) for decode in (unquote, unquote_plus) for one in (text, decode(text)))
    yield from (text.replace(mark * 2, mark) for mark in "'\"}")
    for run in re.findall("[A-Za-z0-9+/]{4,}", "".join(text.split()).replace("-", "+").replace("_", "/")):
        for part in (run[start:] for start in range(4)):  # other letters may stand before it, or a slash
            yield b64decode(part[: len(part) - (len(part) % 4 == 1)] + "==").decode(errors="replace")
