"""Logins in texts, URLs or connection strings: where user and password stand, and how others are written there."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import quote, unquote, unquote_plus

from rotation_lambda.secret_text import Edit

_LOGIN = {"user", "username", "userid", "uid"}, {"password", "pwd", "pass", "psw"}
_KNOWN = {*_LOGIN[0], *_LOGIN[1], "host", "server", "datasource", "port", "dbname", "database", "initialcatalog"} | {
    *("service", "schema", "currentschema", "searchpath", "role", "applicationname", "driver", "sslmode")
}
_URL = (
    r"(?is)\s*+((?:[a-z][\w+.:-]*://|jdbc:(?:[\w-]++:)+(?![\w-]++:))(?:([^:@/?]*)(?::(%s))?@|(?![^/]*@))"
    r"(?:[^\s/?#@]*+(?!@)(?:/[^\s/?#@:,;]*+)?)?)[^?]*(?:\?(.*))?"
)
# A password as RFC 3986 has it, and one up to the first @, as libpq and SQLAlchemy read it.
_URLS = [re.compile(_URL % password) for password in ("[^/?#]*", "[^@]*")]
_BETWEEN_URLS = re.compile(r"(?i)(?<=[^\s,;])[\s,;]++(?=[a-z][\w+.:-]*://|jdbc:)")
_POSTGRES = re.compile(r"(?i)postgres|pgsql|psql|\b(?:host|server|data ?source|service|dbname|database)\s*+=")
_PARAMETER = re.compile(r"(?!&)([^&=]*+)(?:=([^&]*+))?")
_LINE = re.compile(r"^(?!#|[ \t]*\r?$).+?(?=\r?$)", re.MULTILINE)
_FIELD = r"[^:\\]*+(?:\\.[^:\\]*+)*"
_PASS_LINE = re.compile(rf"{_FIELD}:(?:\d+|\*):{_FIELD}:(?:\*|({_FIELD})):(.*)")
_WORD = r"'[^'\\]*+(?:\\.[^'\\]*+)*'|(?!')[^\s\\]*+(?:\\.[^\s\\]*+)*"
_KEYWORD = re.compile(rf"\s*+(\w++)\s*+=\s*+({_WORD})\s*+", re.ASCII | re.DOTALL)
_PAIR = r"\s*+([\w\s.-]++)=\s*+(%s)\s*+(?:;[;\s]*+|\Z)"
_ADO = re.compile(_PAIR % r"""\"[^"]*+(?:""[^"]*+)*"|'[^']*+(?:''[^']*+)*'|[^;]*+""")
_ODBC = re.compile(_PAIR % r"\{[^}]*+(?:\}\}[^}]*+)*\}|(?!\{)[^;]*+")
_IS_ODBC = re.compile(r"(?i)(?:\A|;)\s*+(?:driver|dsn|filedsn)\s*+=")
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
    """One login in a text, whose user and password may stand there more than once, or not at all.

    `blanks` are the edits that take it out of the text, and with it the names of its host, its database and the like.
    """

    users: list[Slot]
    passwords: list[Slot]
    blanks: list[Edit]

    def likeness(self, user: str, password: str) -> int:
        """Return how often the user and the password are these."""
        read = [(user, slot) for slot in self.users] + [(password, slot) for slot in self.passwords]
        return sum(one in slot.readings for one, slot in read)


def logins_in(text: str, user: str, password: str) -> list[TextLogin]:
    """Return the logins with a password, read in the form in which they are most like this one."""
    forms = [[login for login in logins if login.passwords] for logins in _forms(text)]
    return max(forms, key=lambda logins: (sum(login.likeness(user, password) for login in logins), len(logins)))


def users_in(text: str) -> list[Slot]:
    """Return where a text for PostgreSQL has the user of a login whose password stands elsewhere."""
    forms = _forms(text) if _POSTGRES.search(text.partition("://")[0]) else []
    if any(login.passwords for logins in forms for login in logins):
        return []
    return next((users for logins in forms if (users := [slot for login in logins for slot in login.users])), [])


def _forms(text: str) -> list[list[TextLogin]]:
    """Return the logins in a text, as each form has them."""
    pairs = [_semicolons, _keywords] if ";" in text else [_keywords, _semicolons]
    return [*(_urls(pattern, text) for pattern in _URLS), _pass_lines(text), *(form(text) for form in pairs)]


def _login(found: Iterable[re.Match[str]], slot: Callable[[re.Match[str]], Slot]) -> TextLogin:
    """Return the login that is in matches of a name and a value."""
    named = [(re.sub(r"[\s_]", "", one[1].lower()), one) for one in found]
    users, passwords = ([slot(one) for name, one in named if name in names and one[2]] for names in _LOGIN)
    return TextLogin(users, passwords, [(*one.span(), "\n") for name, one in named if name in _KNOWN])


def _urls(pattern: re.Pattern[str], text: str) -> list[TextLogin]:
    """Read URLs of any scheme, JDBC's included: a login stands before the host, or among the parameters."""

    def slot(found: re.Match[str], group: int = 2) -> Slot:
        raw = found[group]
        return Slot(*found.span(group), (raw, unquote(raw), unquote_plus(raw)), lambda new: quote(new, safe=""))

    between = [(0, 0), *(one.span() for one in _BETWEEN_URLS.finditer(text)), (len(text), len(text))]
    urls = [pattern.fullmatch(text, before[1], after[0]) for before, after in pairwise(between)]
    logins = []
    for url in filter(None, urls):
        more = _login(_PARAMETER.finditer(text, *url.span(4)), slot)
        users, passwords = ([slot(url, group)] if url[group] else [] for group in (2, 3))
        logins.append(TextLogin(users + more.users, passwords + more.passwords, [(*url.span(1), "\n"), *more.blanks]))
    return logins if all(urls) else []


def _pass_lines(text: str) -> list[TextLogin]:
    """Read lines of .pgpass (PostgreSQL 32.16, The Password File)."""

    def slots(found: re.Match[str], group: int) -> list[Slot]:
        reading = _ESCAPED.sub(r"\1", found[group] or "")
        slot = Slot(*found.span(group), (reading,), lambda new: re.sub(r"([\\:]|^\*$)", r"\\\1", new))
        return [slot] if reading else []

    lines = [_PASS_LINE.fullmatch(text, *line.span()) for line in _LINE.finditer(text)]
    logins = [TextLogin(slots(line, 1), slots(line, 2), [(*line.span(), "\n")]) for line in lines if line]
    return logins if all(lines) else []


def _keywords(text: str) -> list[TextLogin]:
    """Read libpq's keyword=value (PostgreSQL 32.1.1, Connection Strings)."""
    return [_login(_whole(_KEYWORD, text), lambda one: _slot(one[2], one.start(2), "'", "\\"))]


def _semicolons(text: str) -> list[TextLogin]:
    """Read Key=Value; as ADO.NET has it (DbConnectionStringBuilder), and ODBC, which quotes by braces."""
    pattern, marks = (_ODBC, "{") if _IS_ODBC.search(text) else (_ADO, "\"'")
    return [_login(_whole(pattern, text), lambda one: _slot(one[2].rstrip(), one.start(2), marks))]


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
