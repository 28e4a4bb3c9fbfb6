"""The house keeps its order: imports never turn back, and the outside world comes in by its own doors only."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUSE = "rotation_lambda"
FOLDER = ROOT / HOUSE
ORDER = [
    "errors",
    "event",
    "staging",
    "secret_text",
    "connection_strings",
    "copies",
    "credential",
    "settings",
    "deadline",
    "trust",
    "rotation",
    "strategies",
    "steps",
    "clients",
    "secrets_manager",
    "rds",
    "superuser",
    "postgres.answers",
    "postgres.roles",
    "postgres.survey",
    "postgres.tls",
    "postgres.wire",
    "postgres.session",
    "postgres.login",
    "postgres",
    "preflight.findings",
    "preflight.secret",
    "preflight.database",
    "preflight.session",
    "preflight.run",
    "preflight.fleet",
    "preflight",
    "preflight.__main__",
    "metrics",
    "handler",
]
"""Every room, each of which imports only what stands before it; a wing is its face, which comes after its rooms."""
PURE = [
    "errors",
    "event",
    "staging",
    "secret_text",
    "connection_strings",
    "copies",
    "credential",
    "settings",
    "deadline",
    "trust",
    "postgres.roles",
]
WINGS = ["postgres", "preflight"]
ADAPTERS = {"secrets_manager", "postgres", "rds"}
BOTOCORE_ERRORS = {"botocore.exceptions"}
OUTSIDE = {  # what a module may import that is neither Python's nor the house's; all others: nothing
    "clients": {"botocore", "urllib3", "mypy_boto3_secretsmanager", "mypy_boto3_rds"},
    "secrets_manager": BOTOCORE_ERRORS | {"mypy_boto3_secretsmanager"},
    "postgres.login": {"psycopg2"},
    "postgres.session": {"psycopg2"},
    "postgres.wire": {"psycopg2"},
    "rds": BOTOCORE_ERRORS | {"mypy_boto3_rds"},
    "metrics": {"aws_lambda_powertools"},
    "handler": {"aws_lambda_powertools"},
}
FILES = sorted(FOLDER.rglob("*.py"))


def room(path: Path) -> str:
    """Return the dotted name of a file inside the house, which for a wing's face is the wing's."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(filter(None, map(room, FILES)))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: room(path) or HOUSE)
each_module = pytest.mark.parametrize("module", MODULES)
each_wing = pytest.mark.parametrize("wing", WINGS)


def imports(source: str) -> set[str]:
    """Return the dotted names that the source imports, wherever it does so, with relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=origin, names=names, level=level):
                base = ".".join(filter(None, [HOUSE if level else "", origin]))
                found |= {f"{base}.{alias.name}" for alias in names}
            case _:
                pass
    return found


def file_of(module: str) -> Path:
    path = FOLDER.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module: str) -> set[str]:
    return imports(file_of(module).read_text())


def rooms(names: set[str]) -> set[str]:
    """Return the modules of the house among the imported names: of each the longest that is a room."""
    found = set()
    for name in names:
        house, *parts = name.split(".")
        ways = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        if house == HOUSE and ways:
            found |= {next((way for way in ways if way in {*ORDER, *MODULES}), "*" if "*" in parts else "")}
    return found - {""}


def strangers(names: set[str]) -> set[str]:
    """Return the imported names that are neither Python's nor the house's."""
    return {name for name in names if name.split(".")[0] not in {HOUSE, *sys.stdlib_module_names}}


def dataclasses_of(module: str) -> Iterator[type]:
    for value in vars(importlib.import_module(f"{HOUSE}.{module}")).values():
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            yield value


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a", {"a"}),
        ("import a.b as c, d", {"a.b", "d"}),
        ("from a import b, c", {"a.b", "a.c"}),
        ("from . import steps", {"rotation_lambda.steps"}),
        ("from .steps import set_secret", {"rotation_lambda.steps.set_secret"}),
        ("if TYPE_CHECKING:\n    from a import b", {"a.b"}),
        ("def f():\n    import a", {"a"}),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}),
        ("'import a'", set()),
    ],
)
def test_an_import_is_found_wherever_it_stands(source: str, found: set[str]) -> None:
    assert imports(source) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import rotation_lambda.steps as s", {"steps"}),
        ("from rotation_lambda.steps import set_secret", {"steps"}),
        ("from rotation_lambda import steps, __version__", {"steps"}),
        ("from rotation_lambda import *", {"*"}),
        ("import steps", set()),
    ],
)
def test_a_room_of_the_house_is_known_by_its_full_name(source: str, found: set[str]) -> None:
    assert rooms(imports(source)) == found


def test_the_house_has_one_floor_and_two_wings() -> None:
    assert {path.parent for path in FILES} == {FOLDER, *(FOLDER / wing for wing in WINGS)}


def test_there_are_modules_to_look_at() -> None:
    assert set(MODULES) >= {*PURE, *WINGS, "steps", "secrets_manager", "handler"}


@each_module
def test_every_module_has_its_place_in_the_order(module: str) -> None:
    assert module in ORDER


@each_module
def test_imports_only_what_stands_before_it(module: str) -> None:
    assert rooms(imports_of(module)) <= set(ORDER[: ORDER.index(module)])


def test_the_package_itself_imports_nothing() -> None:
    assert imports((FOLDER / "__init__.py").read_text()) == set()


@each_wing
def test_a_wing_is_entered_by_its_face_which_defines_nothing(wing: str) -> None:
    """The house outside names the wing; only its tests, and another wing, may name a room of it."""
    face = ast.parse(file_of(wing).read_text())
    assert {type(node) for node in face.body[1:]} <= {ast.ImportFrom, ast.Assign}
    assert rooms(imports_of(wing)) <= {module for module in MODULES if module.startswith(f"{wing}.")}
    outside = [module for module in MODULES if module.partition(".")[0] not in WINGS]
    entered = {room for module in outside for room in rooms(imports_of(module)) if room.startswith(f"{wing}.")}
    assert entered == set()


@each_wing
def test_a_room_of_a_wing_does_not_look_at_its_own_face(wing: str) -> None:
    inside = [module for module in MODULES if module.startswith(f"{wing}.") and not module.endswith("__main__")]
    assert not {module for module in inside if wing in rooms(imports_of(module))}


def wing_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", ["steps", "strategies", "rotation"])
def test_what_is_decided_knows_no_adapter(module: str) -> None:
    assert not {wing_of(room) for room in rooms(imports_of(module))} & ADAPTERS


@pytest.mark.parametrize("module", [module for module in MODULES if wing_of(module) in ADAPTERS])
def test_an_adapter_knows_neither_the_steps_nor_another_adapter(module: str) -> None:
    known = {wing_of(room) for room in rooms(imports_of(module))}
    assert not known & ((ADAPTERS | {"steps", "strategies", "rotation", "preflight"}) - {wing_of(module)})


@each_module
def test_lets_in_no_more_of_the_outside_world_than_its_place_allows(module: str) -> None:
    allowed = OUTSIDE.get(module, set())
    unexpected = {
        name
        for name in strangers(imports_of(module))
        if not any(name == one or name.startswith(f"{one}.") for one in allowed)
    }
    assert unexpected == set()


@pytest.mark.parametrize(
    ("package", "doors"),
    [
        ("psycopg2", {"postgres.login", "postgres.session", "postgres.wire"}),
        ("botocore", {"clients", "secrets_manager", "rds"}),
        ("urllib3", {"clients"}),
        ("boto3", set()),
        ("aws_lambda_powertools", {"handler", "metrics"}),
        ("local", set()),
        ("tests", set()),
        ("examples", set()),
        ("importlib", set()),
    ],
)
def test_has_its_own_door(package: str, doors: set[str]) -> None:
    assert {module for module in MODULES if package in {name.split(".")[0] for name in imports_of(module)}} <= doors


@each_file
def test_says_in_the_first_line_and_in_one_sentence_what_the_module_is_for(path: Path) -> None:
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    assert re.fullmatch(r"[A-Z].{10,}\.", first)
    assert ". " not in first


@each_module
def test_bears_a_name_that_says_what_is_in_it(module: str) -> None:
    name = module.rpartition(".")[2]
    assert not re.search(r"(^|_)(utils?|helpers?|commons?|managers?|base)($|_)", name.replace("secrets_manager", ""))
    assert name == "__main__" or name not in sys.stdlib_module_names


@each_file
def test_no_group_of_a_pattern_is_repeated_possessively(path: Path) -> None:
    """Before 3.11.5 a possessive group loses its place where a part of it matches (python/cpython, issue 106052)."""
    assert not re.findall(r"\)[*+?}]\+", path.read_text())


@pytest.mark.parametrize("module", PURE)
def test_a_value_does_not_change(module: str) -> None:
    for kind in dataclasses_of(module):
        assert vars(kind)["__dataclass_params__"].frozen, kind.__name__
        assert "__slots__" in vars(kind), kind.__name__


@pytest.mark.parametrize("module", PURE)
def test_a_value_hides_what_may_be_secret(module: str) -> None:
    secret = {
        "password",
        "document",
        "rotation_token",
        "environment",
        "text",
        "value",
        "token",
        "readings",
        "edits",
        "new_password",
        "own_password",
    }
    shown = {
        f"{kind.__name__}.{field.name}"
        for kind in dataclasses_of(module)
        for field in dataclasses.fields(kind)
        if field.repr and field.name in secret
    }
    assert shown == set()
