"""Logins in texts, URLs or connection strings: where user and password stand, and how others are written there."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, unquote_plus

from rotation_lambda.secret_text import Edit

_USERS, _PASSWORDS = {"user", "username", "userid", "uid"}, {"password", "pwd", "pass", "psw"}
_URL = r"\s*(?:[a-z][\w+.:-]*://|jdbc:[\w:-]*:)(?:([^:@/?]*)(?::(%s))?@|(?![^/]*@))[^?]*(?:\?(.*))?"
_URLS = [  # a password as RFC 3986 has it, and one up to the first @, as libpq and SQLAlchemy read it
    re.compile(_URL % password, re.IGNORECASE | re.DOTALL) for password in ("[^/?#]*", "[^@]*")
]
_POSTGRES = re.compile(
    r"postgres|pgsql|psql|\b(?:host|server|data ?source|service|dbname|database)\s*+=", re.IGNORECASE
)
_PARAMETER = re.compile(r"([^&=]*+)(?:=([^&]*+))?+(?:&|\Z)")
_LINE = re.compile(r"^(?!#|[ \t]*\r?$).+?(?=\r?$)", re.MULTILINE)
_PASS_LINE = re.compile(r"(?:[^:\\]|\\.)*+:(?:\d+|\*):(?:[^:\\]|\\.)*+:(?:\*|((?:[^:\\]|\\.)*+)):(.*)")
_KEYWORD = re.compile(r"\s*+(\w++)\s*+=\s*+('(?:[^'\\]|\\.)*+'|(?!')(?:[^\s\\]|\\.)*+)\s*+", re.ASCII | re.DOTALL)
_PAIR = re.compile(
    r"""\s*+([\w\s.-]++)=\s*+("(?:[^"]|"")*+"|'(?:[^']|'')*+'|\{(?:[^}]|\}\})*+\}|[^;]*+)\s*+(?:;[;\s]*+|\Z)"""
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BARE = re.compile(r"[\w.~-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in a text a user or a password stands, what it may be read as there, and how another one is written."""

    start: int
    end: int
    readings: Sequence[str] = field(repr=False)
    write: Callable[[str], str]

    def put(self, new: str) -> Edit:
        """Return the edit that writes another one there."""
        return self.start, self.end, self.write(new)


@dataclass(frozen=True, slots=True)
class TextLogin:
    """One login in a text, whose user and password may stand there more than once, or not at all."""

    users: list[Slot]
    passwords: list[Slot]

    def likeness(self, user: str, password: str) -> int:
        """Return how often the user and the password are these."""
        read = [user in slot.readings for slot in self.users] + [password in slot.readings for slot in self.passwords]
        return sum(read)


def logins_in(text: str, user: str, password: str) -> list[TextLogin]:
    """Return the logins with a password, read in the form in which they are most like this one."""
    forms = [[login for login in logins if login.passwords] for logins in _forms(text)]
    return max(forms, key=lambda logins: (sum(login.likeness(user, password) for login in logins), len(logins)))


def users_in(text: str) -> list[Slot]:
    """Return where a text for PostgreSQL has the user of a login whose password stands elsewhere."""
    if not _POSTGRES.search(text.partition("://")[0]):
        return []
    logins = [login for form in _forms(text) for login in form]
    if any(login.passwords for login in logins):
        return []
    return next((login.users for login in logins if login.users), [])


def _forms(text: str) -> list[list[TextLogin]]:
    """Return the logins in a text, as each form has them."""
    pairs = [_semicolons, _keywords] if ";" in text else [_keywords, _semicolons]
    return [*(_url(pattern, text) for pattern in _URLS), _pass_lines(text), *(form(text) for form in pairs)]


def _login(named: Iterable[tuple[str, Slot]]) -> TextLogin:
    """Return the login that is in slots of these names."""
    plain = [(re.sub(r"[\s_]", "", name.lower()), slot) for name, slot in named if slot.start < slot.end]
    return TextLogin(*([slot for name, slot in plain if name in names] for names in (_USERS, _PASSWORDS)))


def _url(pattern: re.Pattern[str], text: str) -> list[TextLogin]:
    """Read a URL of any scheme, JDBC's included: its login stands before the host, or among the parameters."""
    if not (found := pattern.fullmatch(text)):
        return []

    def slot(start: int, end: int) -> Slot:
        raw = text[start:end]
        return Slot(start, end, (raw, unquote(raw), unquote_plus(raw)), lambda new: quote(new, safe=""))

    parameters = ((one[1], slot(*one.span(2))) for one in _PARAMETER.finditer(text, *found.span(3)))
    return [_login([("user", slot(*found.span(1))), ("password", slot(*found.span(2))), *parameters])]


def _pass_lines(text: str) -> list[TextLogin]:
    """Read lines of .pgpass (PostgreSQL 32.16, The Password File)."""

    def slot(found: re.Match[str], group: int) -> Slot:
        reading = _ESCAPED.sub(r"\1", found[group] or "")
        return Slot(*found.span(group), (reading,), lambda new: re.sub(r"([\\:]|^\*$)", r"\\\1", new))

    lines = [_PASS_LINE.fullmatch(text, *line.span()) for line in _LINE.finditer(text)]
    logins = [_login([("user", slot(found, 1)), ("password", slot(found, 2))]) for found in lines if found]
    return logins if all(lines) else []


def _keywords(text: str) -> list[TextLogin]:
    """Read libpq's keyword=value (PostgreSQL 32.1.1, Connection Strings)."""
    return [_login((one[1], _slot(one[2], one.start(2), "'", "\\")) for one in _whole(_KEYWORD, text))]


def _semicolons(text: str) -> list[TextLogin]:
    """Read Key=Value; as ADO.NET has it (DbConnectionStringBuilder), and ODBC, which quotes by braces."""
    pairs = _whole(_PAIR, text)
    marks = "{" if any(one[1].strip().lower() in {"driver", "dsn", "filedsn"} for one in pairs) else "\"'"
    return [_login((one[1], _slot(one[2].rstrip(), one.start(2), marks)) for one in pairs)]


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
    while end < len(text) and (match := pattern.match(text, end)):
        found.append(match)
        end = match.end()
    return found if end == len(text) else []
