"""The text of a secret: JSON that is read strictly, and changed in single places, so that all else stays as it was."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from rotation_lambda.errors import InvalidSecretError
from rotation_lambda.event import json_type

Edit = tuple[int, int, str]
"""A change of a text: from here to before there, and what stands there then."""
Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

_DEEPEST = 100  # in so many objects and arrays a string may stand: each has the path of all that it stands in

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"(\s*+:)?|[\[\]{},]')
_CHARACTER = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class String:
    """A string of a JSON text, where it begins there, and how it is written; a key has the path of its value."""

    path: Path
    value: str = field(repr=False)
    start: int
    token: str = field(repr=False)
    is_key: bool

    def place(self, edits: Sequence[Edit]) -> list[Edit]:
        """Turn edits of the value into edits of the JSON text."""
        characters = _CHARACTER.finditer(self.token, 1) if edits else ()  # the last one is the closing quote
        at = [self.start + found.start() for found in characters]
        return [(at[start], at[end], json.dumps(new, ensure_ascii=False)[1:-1]) for start, end, new in edits]


def strings(text: str) -> Iterator[String]:
    """Yield each string of what has been found to be JSON."""
    path: list[str | int] = []
    for found in _TOKEN.finditer(text):
        raw = found[0].removesuffix(found[1] or "")
        if raw in "{[":
            path.append("" if raw == "{" else 0)
        elif raw in "}]":
            path.pop()
        elif raw != ",":
            value = json.loads(raw)
            path[-1:] = [value] if found[1] else path[-1:]
            yield String(tuple(path), value, found.start(), raw, is_key=found[1] is not None)
        elif isinstance(path[-1], int):
            path[-1] += 1


def splice(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with the edits made, none of which overlaps another."""
    parts, done = [], 0
    for start, end, new in sorted(edits):
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


def read_object(text: str) -> dict[str, object]:
    """Return the JSON object; raise InvalidSecretError, which never quotes the text, where it is none."""
    if isinstance(document := read(text), dict):
        return document
    raise InvalidSecretError(f"The secret is {json_type(document)}, not a JSON object.")


def read(text: str) -> object:
    """Return what the JSON says, read strictly; raise InvalidSecretError."""
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        problem = f"is not JSON: line {error.lineno}, column {error.colno}"
        if text.startswith("\ufeff"):
            problem = "begins with a byte order mark, which JSON does not have"
    except UnicodeEncodeError:
        problem = "holds half of a surrogate pair, which is not a character"
    except (ValueError, RecursionError):
        problem = "holds a number or a nesting too large to read"
    else:
        if all(len(string.path) <= _DEEPEST for string in strings(text)):
            return document
        problem = f"holds a text that is more than {_DEEPEST} levels deep"
    # Raised here, not above: a JSONDecodeError holds the whole secret, and would go along as the cause.
    raise InvalidSecretError(f"The secret {problem}.")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise InvalidSecretError("The secret has a key twice, so that it is open which value counts.")
    return document


def _refuse_constant(constant: str) -> NoReturn:
    raise InvalidSecretError(f"The secret holds {constant}, which JSON does not have (RFC 8259, section 6).")
