"""The house keeps its order: imports never turn back, and the outside world comes in by its own doors only."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUSE = "rotation_lambda"
FOLDER = Path(__file__).resolve().parent.parent / HOUSE
ORDER = [
    "errors",
    "event",
    "staging",
    "credential",
    "settings",
    "deadline",
    "roles",
    "rotation",
    "strategies",
    "steps",
    "secrets_manager",
    "rds",
    "superuser",
    "answers",
    "survey",
    "tls",
    "postgres",
    "findings",
    "secret_checks",
    "session_checks",
    "superuser_checks",
    "database_checks",
    "preflight",
    "handler",
]
PURE = ["errors", "event", "staging", "credential", "settings", "deadline", "roles"]
ADAPTERS = {"secrets_manager", "postgres", "rds"}
BOTOCORE_ERRORS = {"botocore.exceptions"}
OUTSIDE = {  # what a module may import that is neither Python's nor the house's; all others: nothing
    "secrets_manager": BOTOCORE_ERRORS | {"mypy_boto3_secretsmanager"},
    "postgres": {"psycopg2"},
    "rds": BOTOCORE_ERRORS | {"mypy_boto3_rds"},
    "preflight": {"aws_lambda_powertools", "boto3", "botocore", "mypy_boto3_secretsmanager", "mypy_boto3_rds"},
    "handler": {"aws_lambda_powertools", "boto3", "botocore", "mypy_boto3_secretsmanager", "mypy_boto3_rds"},
}
FILES = sorted(FOLDER.rglob("*.py"))
MODULES = [path.stem for path in FILES if path.stem != "__init__"]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
each_module = pytest.mark.parametrize("module", MODULES)


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


def imports_of(module: str) -> set[str]:
    return imports((FOLDER / f"{module}.py").read_text())


def rooms(names: set[str]) -> set[str]:
    """Return the modules of the house among the imported names."""
    parts = [name.split(".") for name in names]
    seconds = {part[1] for part in parts if part[0] == HOUSE and len(part) > 1}
    return seconds & {*ORDER, *MODULES} | {"*" for second in seconds if second == "*"}


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


def test_the_house_is_one_flat_package() -> None:
    assert {path.parent for path in FILES} == {FOLDER}


def test_there_are_modules_to_look_at() -> None:
    assert set(MODULES) >= {*PURE, "steps", "secrets_manager", "postgres", "handler"}


@each_module
def test_every_module_has_its_place_in_the_order(module: str) -> None:
    assert module in ORDER


@each_module
def test_imports_only_what_stands_before_it(module: str) -> None:
    assert rooms(imports_of(module)) <= set(ORDER[: ORDER.index(module)])


def test_the_package_itself_imports_nothing() -> None:
    assert imports_of("__init__") == set()


@pytest.mark.parametrize("module", sorted({"steps", "strategies"} & set(MODULES)))
def test_what_is_decided_knows_no_adapter(module: str) -> None:
    assert not rooms(imports_of(module)) & ADAPTERS


@pytest.mark.parametrize("module", sorted(ADAPTERS & set(MODULES)))
def test_an_adapter_knows_neither_the_steps_nor_another_adapter(module: str) -> None:
    assert not rooms(imports_of(module)) & (ADAPTERS | {"steps", "strategies"})


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
        ("psycopg2", {"postgres"}),
        ("boto3", {"handler", "preflight"}),
        ("aws_lambda_powertools", {"handler", "preflight"}),
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
    assert not re.search(r"(^|_)(utils?|helpers?|commons?|managers?|base)($|_)", module.replace("secrets_manager", ""))
    assert module not in sys.stdlib_module_names


@pytest.mark.parametrize("module", PURE)
def test_a_value_does_not_change(module: str) -> None:
    for kind in dataclasses_of(module):
        assert vars(kind)["__dataclass_params__"].frozen, kind.__name__
        assert "__slots__" in vars(kind), kind.__name__


@pytest.mark.parametrize("module", PURE)
def test_a_value_hides_what_may_be_secret(module: str) -> None:
    secret = {"password", "document", "rotation_token", "environment"}
    shown = {
        f"{kind.__name__}.{field.name}"
        for kind in dataclasses_of(module)
        for field in dataclasses.fields(kind)
        if field.repr and field.name in secret
    }
    assert shown == set()
