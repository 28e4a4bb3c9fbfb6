"""Every way to fail says what happened and what to do next, under a code that stays."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from botocore.exceptions import ClientError, ParamValidationError

from rotation_lambda import errors
from tests import ROOT
from tests.worlds import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERBS = {
    *("Add", "Ask", "Change", "Check", "Correct", "Create", "Do", "Drop", "Find", "Give", "Grant", "Let", "Look"),
    *("Name", "Pass", "Prepare", "Raise", "Read", "Remove", "Renew", "Report", "Restore", "Rotate", "Run", "Set"),
    *("Start", "Store", "Switch", "Use", "Wait", "Write"),
}
"""What a hint begins with: it is an instruction."""

# Alarms and runbooks hold on to these: a code may come, but none may change.
CODES = {
    "RotationError": "rotation-failed",
    "InvalidEventError": "invalid-event",
    "ConfigurationError": "invalid-configuration",
    "RotationRefusedError": "rotation-refused",
    "RotationDisabledError": "rotation-disabled",
    "SecretDeletedError": "secret-deleted",
    "SecretManagedError": "secret-managed",
    "VersionNotStagedError": "version-not-staged",
    "VersionNotPendingError": "version-not-pending",
    "SecretsManagerError": "secrets-manager-failed",
    "SecretNotFoundError": "secret-not-found",
    "AccessDeniedError": "access-denied",
    "InvalidSecretError": "invalid-secret",
    "MissingVersionError": "missing-version",
    "CredentialMismatchError": "credential-mismatch",
    "SuperuserMismatchError": "superuser-mismatch",
    "RdsError": "rds-failed",
    "DatabaseError": "database-failed",
    "DatabaseUnreachableError": "database-unreachable",
    "HostNotFoundError": "host-not-found",
    "ConnectionFailedError": "connection-failed",
    "DatabaseTimeoutError": "database-timeout",
    "TlsError": "tls-failed",
    "AuthenticationMethodError": "authentication-method",
    "NoHbaEntryError": "no-hba-entry",
    "DatabaseNotReadyError": "database-not-ready",
    "LoginRefusedError": "login-refused",
    "LoginNotAllowedError": "login-not-allowed",
    "PoolerError": "pooler-in-between",
    "DatabaseReadOnlyError": "database-read-only",
    "RoleLockedError": "role-locked",
    "RoleNotPreparedError": "role-not-prepared",
    "PasswordChangeError": "password-change-failed",
    "VerificationFailedError": "verification-failed",
    "UnprovenPasswordError": "unproven-password",
    "UnexpectedError": "unexpected",
}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RotationError)]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def make(kind: type[errors.RotationError], what: str, **arguments: Any) -> errors.RotationError:  # noqa: ANN401
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            arguments.setdefault(parameter.name, "42501")
    return kind(what, **arguments)


def draw(kind: type[errors.RotationError], indent: str = "") -> Iterator[str]:
    below = [other for other in KINDS if other.__bases__ == (kind,)]
    for other in below:
        last = other is below[-1]
        yield f"{indent}{'└' if last else '├'}── {other.__name__}"
        yield from draw(other, indent + ("    " if last else "│   "))


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^ {4}((?:[│ ]   )*(?:[├└]── )?\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert drawn == ["RotationError", *draw(errors.RotationError)]


def test_every_exception_of_the_module_is_a_rotation_error() -> None:
    raised = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert raised == KINDS


def test_codes_do_not_change() -> None:
    assert {kind.__name__: kind.code for kind in KINDS} == CODES


def test_what_waiting_may_help_does_not_change() -> None:
    unknown = {"DatabaseUnreachableError", "HostNotFoundError", "ConnectionFailedError", "DatabaseTimeoutError"}
    unknown |= {"NoHbaEntryError", "DatabaseNotReadyError"}
    assert {kind.__name__ for kind in KINDS if getattr(kind, "unknown", False)} == unknown
    assert {kind.__name__ for kind in KINDS if kind.critical} == {"UnprovenPasswordError"}


def test_no_two_errors_share_a_code() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


@each_kind
def test_has_a_code_of_its_own_in_kebab_case(kind: type[errors.RotationError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", vars(kind)["code"])


@each_kind
def test_has_a_hint_of_its_own_in_whole_sentences(kind: type[errors.RotationError]) -> None:
    assert "hint" in vars(kind), f"{kind.__name__} gives the hint of another class"
    assert re.fullmatch(r"[A-Z0-9].{15,}[.?)]", vars(kind)["hint"])


@each_kind
def test_has_a_hint_that_begins_with_what_to_do(kind: type[errors.RotationError]) -> None:
    assert kind.hint.partition(" ")[0].rstrip(":") in VERBS


@pytest.mark.parametrize("file", sorted((ROOT / "rotation_lambda").rglob("*.py")), ids=lambda file: file.stem)
def test_a_hint_given_on_the_spot_begins_so_too(file: Path) -> None:
    """Or with a command."""
    begun = re.findall(r"""(?<!what, )\bhint ?= ?f?["'](`|[\w]+)""", file.read_text(encoding="utf-8"))
    assert set(begun) <= {*VERBS, "`"}


def test_no_two_errors_share_a_hint() -> None:
    assert len({kind.hint for kind in KINDS}) == len(KINDS)


@each_kind
def test_has_a_docstring_of_its_own(kind: type[errors.RotationError]) -> None:
    assert re.match(r"\S.{15,}\.", vars(kind)["__doc__"] or "", re.DOTALL)


@each_kind
def test_its_name_ends_in_error(kind: type[errors.RotationError]) -> None:
    assert kind.__name__.endswith("Error")


@each_kind
def test_says_what_happened_and_what_to_do_next(kind: type[errors.RotationError]) -> None:
    error = make(kind, "Something happened.")
    assert error.what == "Something happened."
    said = "Something happened. Nothing was changed." if kind.changed else "Something happened."
    assert error.message == said
    assert str(error) == f"{said} Next: {kind.hint} See docs/errors.md#{kind.code}."
    assert error.args == ("Something happened.",)


@each_kind
def test_a_hint_given_on_the_spot_wins_and_goes_no_further(kind: type[errors.RotationError]) -> None:
    before = kind.hint
    error = make(kind, "Something happened.", hint="Do this.")
    assert f". Next: Do this. See {error.page}." in str(error)
    assert kind.hint == before == make(kind, "Again.").hint


def test_only_after_a_change_the_message_itself_says_what_was_changed() -> None:
    silent = {kind.__name__ for kind in KINDS if issubclass(kind, errors.DatabaseError) and not kind.changed}
    assert silent == {"PasswordChangeError", "VerificationFailedError", "UnprovenPasswordError"}


@pytest.mark.parametrize("sqlstate", ["42501", None])
def test_a_failed_change_keeps_the_sqlstate(sqlstate: str | None) -> None:
    assert errors.PasswordChangeError("No.", sqlstate=sqlstate).sqlstate == sqlstate


# The search for leaks is what the other tests rely on, so it must find one wherever it can hide.

MARKER = "xyzzy"


@dataclass
class Holder:
    hidden: str = field(default=MARKER, repr=False)


class Cursor:
    query = f"ALTER ROLE app PASSWORD '{MARKER}'".encode()


class Diagnostics:
    message_detail = f"The statement was {MARKER}"


class Keeper(Exception):  # noqa: N818 - not a failure but a place to hide something in
    def __init__(self, **kept: object) -> None:
        super().__init__("nothing to see")
        vars(self).update(kept)


class Slotted(Exception):  # noqa: N818
    __slots__ = ("kept",)
    kept: str


def from_cause() -> BaseException:
    error = Keeper()
    error.__cause__ = ValueError(MARKER)
    return error


def from_hidden_context() -> BaseException:
    try:
        try:
            raise ValueError(MARKER)  # noqa: TRY301
        except ValueError:
            raise Keeper from None
    except Keeper as error:
        return error


def from_json() -> BaseException:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(f'{{"password": "{MARKER}",}}')
    return caught.value


def from_encoding() -> BaseException:
    with pytest.raises(UnicodeEncodeError) as caught:
        f"{MARKER}\ud800".encode()
    return caught.value


def from_note() -> BaseException:
    error = Keeper()
    error.add_note(MARKER)
    return error


def from_slot() -> BaseException:
    error = Slotted()
    error.kept = MARKER
    return error


def from_circle() -> BaseException:
    first, second = Keeper(), Keeper(kept=MARKER)
    first.__cause__, second.__cause__ = second, first
    return first


PLACES = {
    "args": lambda: KeyError((1, {"a": [MARKER]})),
    "cause": from_cause,
    "hidden context": from_hidden_context,
    "group": lambda: ExceptionGroup("several", [Keeper(kept=MARKER)]),
    "note": from_note,
    "JSONDecodeError.doc": from_json,
    "UnicodeEncodeError.object": from_encoding,
    "OSError.filename": lambda: OSError(2, "No such file", MARKER),
    "psycopg2.Error": lambda: psycopg2.OperationalError(f'password "{MARKER}" is wrong'),
    "pgerror": lambda: Keeper(pgerror=f"ERROR: {MARKER}"),
    "cursor.query": lambda: Keeper(cursor=Cursor()),
    "diag.message_detail": lambda: Keeper(diag=Diagnostics()),
    "ClientError.response": lambda: ClientError({"Error": {"Code": "No", "Message": ""}, "Value": MARKER}, "Put"),  # type: ignore[typeddict-unknown-key]
    "botocore's kwargs": lambda: ParamValidationError(report=f"Invalid value: {MARKER}"),
    "attribute": lambda: Keeper(kept=MARKER),
    "private attribute": lambda: Keeper(_kept=MARKER),
    "slot": from_slot,
    "mapping's key": lambda: Keeper(kept={MARKER: 1}),
    "set": lambda: Keeper(kept=frozenset({MARKER})),
    "bytes": lambda: Keeper(kept=MARKER.encode()),
    "object": lambda: Keeper(kept=slice(MARKER)),
    "hidden field": lambda: Keeper(kept=Holder()),
    "circle": from_circle,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_leak_is_found_wherever_it_hides(place: str) -> None:
    assert MARKER in leaks.everything_in(PLACES[place]())


def test_a_leak_is_found_without_its_escapes() -> None:
    assert 'it\'s "quoted"\\\n' in leaks.everything_in(Keeper(kept='it\'s "quoted"\\\n'))


@each_kind
@pytest.mark.parametrize(
    "verifier", ["SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy", f"md5{'0a' * 16}", "\x1b", "\x9b", "\r"], ids=ascii
)
def test_an_error_tells_nothing_that_a_terminal_obeys_and_no_verifier_wherever_a_server_has_put_it(
    kind: type[errors.RotationError], verifier: str
) -> None:
    error = make(kind, f"Role 'app_{verifier}' is odd.", hint=f"Look for the role {verifier}.")
    assert verifier not in leaks.everything_in(error)
    assert error.what == "Role 'app_…' is odd."


@each_kind
def test_an_error_says_nothing_that_it_was_not_told(kind: type[errors.RotationError]) -> None:
    assert MARKER not in leaks.everything_in(make(kind, "Something happened."))
