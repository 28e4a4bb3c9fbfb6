"""docs/sql.md is what the server's log has of whole rotations: statements in their order, settings, catalogs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from rotation_lambda.postgres import session
from tests.worlds.pages import PAGES, first_cells
from tests.worlds.scenes import Scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.postgres import PostgresServer

__all__ = ["set_scene"]

PAGE = PAGES["docs/sql.md"]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def told(title: str) -> list[str]:
    """Return the statements of a section, each line one, without what is said about them."""
    lines = section(title).partition("```sql\n")[2].partition("```")[0].splitlines()
    return [line.removesuffix(";") for line in lines if line and not line.startswith("--")]


def logged(scene: Scene, log: str) -> list[str]:
    """Return what the function's sessions ran, in the page's words."""
    ours = set(re.findall(r"\[(\d+)\] LOG:  connection authorized: .* application_name=rotation_lambda ", log))
    found = re.findall(r"\[(\d+)\] LOG:  statement: (.*(?:\n\t.*)*)", log)
    statements = [text.replace("\n\t", "\n").replace(scene.role.name, "app") for pid, text in found if pid in ours]
    return [re.sub(r"(SCRAM-SHA-256\$)\S+'", r"\1…'", text) for text in statements]


def changing(statements: list[str]) -> list[str]:
    return [text for text in statements if not text.lstrip().startswith(("SELECT", "WITH"))]


@pytest.fixture
def watch(
    set_scene: Callable[..., Scene], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[list[str], list[str]]]:
    """Return what a rotation runs under a strategy, and then a preflight."""

    def run(strategy: str) -> tuple[list[str], list[str]]:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene, begin = set_scene(postgres), len(postgres.log())
        scene.rotate()
        middle = len(postgres.log())
        scene.invoke({"Step": "preflight", "SecretId": scene.secret.arn})
        log = postgres.log()
        return logged(scene, log[begin:middle]), logged(scene, log[middle:])

    return run


@pytest.mark.parametrize("strategy", ["single-user", "superuser", "alternating-users"])
def test_a_rotation_changes_what_the_page_says_in_that_order(
    strategy: str, watch: Callable[[str], tuple[list[str], list[str]]]
) -> None:
    rotation, preflight = watch(strategy)
    assert changing(rotation) == told(strategy)
    assert changing(preflight) == ([] if strategy == "single-user" else told("The preflight"))


def test_reads_the_catalogs_of_the_page_and_no_others(watch: Callable[[str], tuple[list[str], list[str]]]) -> None:
    ran = [*watch("alternating-users"), *watch("superuser"), *watch("single-user")]
    text = "\n".join([*(query for queries in ran for query in queries), session.HOLDERS])
    read = set(re.findall(r"(?:FROM|JOIN|,) (pg_\w+)\b(?! *\()", text))
    assert read == set(first_cells(section("What it reads")))


def test_a_session_begins_with_the_settings_of_the_page(
    watch: Callable[[str], tuple[list[str], list[str]]],
) -> None:
    first, second = section("Every session").split("The first query reads")
    options = re.findall(r"-c (\w+)=((?:\\ |\S)+)", session.OPTIONS)
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", first, re.MULTILINE)
    assert rows == [(name, value.replace("\\", "")) for name, value in options]
    rotation, _ = watch("single-user")
    assert set(first_cells(second)) == set(re.findall(r"set_config\('(\w+)'", "\n".join(rotation)))
