"""Logins in texts, URLs or connection strings: where user and password stand, and how others are written there."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, unquote_plus

_USERS, _PASSWORDS = {"user", "username", "userid", "uid"}, {"password", "pwd", "pass", "psw"}
_URL = r"\s*(?:[a-z][\w+.:-]*://|jdbc:[\w:-]*:)(?:([^:@/?#]*)(?::(%s))?@)?[^?]*(?:\?(.*))?"
_URLS = [  # a password as RFC 3986 has it, and one up to the first @, as libpq and SQLAlchemy read it
    re.compile(_URL % password, re.IGNORECASE | re.DOTALL) for password in ("[^/?#]*", "[^@]*")
]
_PARAMETER = re.compile(r"([^&=]*)=([^&]*)")
_LINE = re.compile(r"[^\r\n]+")
_PASS_LINE = re.compile(r"(?:[^:\\]|\\.)*+:(?:\d+|\*):(?:[^:\\]|\\.)*+:(?:\*|((?:[^:\\]|\\.)*+)):(.*)")
_KEYWORD = re.compile(r"\s*+(\w++)\s*+=\s*+('(?:[^'\\]|\\.)*+'|(?!')(?:[^\s\\]|\\.)*+)\s*+", re.ASCII | re.DOTALL)
_PAIR = re.compile(
    r"""\s*+([^=;]++)=\s*+("(?:[^"]|"")*+"|'(?:[^']|'')*+'|\{(?:[^}]|\}\})*+\}|[^;]*+)\s*+(?:;[;\s]*+|\Z)"""
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BARE = re.compile(r"[\w.~-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in a text a user or a password stands, what it may be read as there, and how another one is written."""

    start: int
    end: int
    readings: tuple[str, ...] = field(repr=False)
    write: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class TextLogin:
    """One login in a text, whose user and password may stand there more than once, or not at all."""

    users: list[Slot] = field(default_factory=list)
    passwords: list[Slot] = field(default_factory=list)

    def add(self, name: str, slot: Slot) -> None:
        """Take a slot in, if by its name it is the user's or the password's."""
        name = re.sub(r"[\s_]", "", name.lower())
        if slot.start < slot.end and name in _USERS | _PASSWORDS:
            (self.users if name in _USERS else self.passwords).append(slot)

    def with_password(self, password: str) -> list[Slot]:
        """Return where the password is this one."""
        return [slot for slot in self.passwords if password in slot.readings]


def logins_in(text: str, password: str) -> list[TextLogin]:
    """Return the logins with a password, read in the form in which this password is one of them, if there is one."""
    pairs = [_semicolons, _keywords] if ";" in text else [_keywords, _semicolons]
    read = [*(_url(pattern, text) for pattern in _URLS), _pass_lines(text), *(form(text) for form in pairs)]
    forms = [[login for login in logins if login.passwords] for logins in read]
    likely = [logins for logins in forms if any(login.with_password(password) for login in logins)]
    return next(filter(None, likely + forms), [])


def _url(pattern: re.Pattern[str], text: str) -> list[TextLogin]:
    """Read a URL of any scheme, JDBC's included: its login stands before the host, or among the parameters."""
    login = TextLogin()

    def add(name: str, start: int, end: int) -> None:
        raw = text[start:end]
        login.add(name, Slot(start, end, (raw, unquote(raw), unquote_plus(raw)), lambda new: quote(new, safe="")))

    if found := pattern.fullmatch(text):
        add("user", *found.span(1))
        add("password", *found.span(2))
        for one in _PARAMETER.finditer(text, *found.span(3)) if found[3] else ():
            add(one[1], *one.span(2))
    return [login]


def _pass_lines(text: str) -> list[TextLogin]:
    """Read lines of .pgpass (PostgreSQL 32.16, The Password File)."""
    logins = []
    for line in _LINE.finditer(text):
        if line[0].strip() and not line[0].startswith("#"):
            if not (found := _PASS_LINE.fullmatch(text, *line.span())):
                return []
            logins.append(TextLogin())
            for name, group in (("user", 1), ("password", 2)):
                reading = _ESCAPED.sub(r"\1", found[group] or "")
                slot = Slot(*found.span(group), (reading,), lambda new: re.sub(r"([\\:])", r"\\\1", new))
                logins[-1].add(name, slot)
    return logins


def _keywords(text: str) -> list[TextLogin]:
    """Read libpq's keyword=value (PostgreSQL 32.1.1, Connection Strings)."""
    login = TextLogin()
    for found in _whole(_KEYWORD, text):
        login.add(found[1], _slot(found[2], found.start(2), "'", "\\"))
    alien = any(text[: slot.end].endswith(",") for slot in login.users)  # user=app, password=…: not libpq's
    return [] if alien else [login]


def _semicolons(text: str) -> list[TextLogin]:
    """Read Key=Value; as ADO.NET has it (DbConnectionStringBuilder), and ODBC, which quotes by braces."""
    login, pairs = TextLogin(), _whole(_PAIR, text)
    odbc = any(found[1].strip().lower() in {"driver", "dsn"} for found in pairs)
    for found in pairs:
        login.add(found[1], _slot(found[2].rstrip(), found.start(2), "{" if odbc else "\"'"))
    return [login]


def _slot(raw: str, start: int, marks: str, escape: str = "") -> Slot:
    """Return the slot of a value that may stand in quotes, which are doubled within it unless there is an escape."""
    quoted = len(raw) > 1 and raw[0] in marks and raw[-1] == raw[0].replace("{", "}")
    opening = raw[0] if quoted else marks[0]
    closing = opening.replace("{", "}")
    body = raw[1:-1] if quoted else raw
    reading = _ESCAPED.sub(r"\1", body) if escape else body.replace(closing * 2, closing) if quoted else body

    def write(new: str) -> str:
        if not quoted and _BARE.fullmatch(new):
            return new
        inside = re.sub(r"([\\'])", r"\\\1", new) if escape else new.replace(closing, closing * 2)
        return f"{opening}{inside}{closing}"

    return Slot(start, start + len(raw), (reading,), write)


def _whole(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Return the matches that follow one another through the text; none where anything else is in between."""
    found, end = list[re.Match[str]](), 0
    while end < len(text):
        if not (match := pattern.match(text, end)):
            return []
        found.append(match)
        end = match.end()
    return found
