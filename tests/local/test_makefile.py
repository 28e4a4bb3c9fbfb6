"""The make targets hand over what a person gives them, and their list fits a terminal."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^([a-z]+):[^\n]*## [^\n]*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE))


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make with an environment that is taken for ready, and where nothing can be run."""
    ready = [f"--old-file=/nowhere/{file}" for file in (".local", ".ready")]
    command = ["make", "--no-print-directory", *ready, "VENV=/nowhere", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_list_of_commands_has_them_all_and_fits_a_terminal() -> None:
    listed = make("help").stdout
    assert re.findall(r"^  make ([a-z]+) ", listed, re.MULTILINE) == re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if "$(RUN) -m " in recipe])
def test_a_command_gets_the_arguments(name: str) -> None:
    """All but `make docs`, which has none, and what is not the last command of a recipe."""
    assert "--seen" in make("-n", name, "ARGS=--seen", "SECRET=x").stdout.splitlines()[-1] or name == "docs"


def test_a_bucket_may_have_the_region_in_its_name() -> None:
    assert "--bucket 'code-${AWS::Region}'" in make("-n", "package", "BUCKET=code-${AWS::Region}").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["preflight"], "Name the secret: make preflight SECRET=prod/shop/orders"),
        (["build", "ARCHITECTURE=foo"], "ARCHITECTURE=foo: say x86_64 or arm64"),
        (["build", "ENV=foo"], "samconfig.toml has no foo. To add it: make deploy ENV=foo ARGS=--guided"),
        (["deploy", "ENV=foo"], "samconfig.toml has no foo. To add it: make deploy ENV=foo ARGS=--guided"),
    ],
    ids=lambda words: "-".join(words) if isinstance(words, list) else "",
)
def test_a_slip_is_named_before_anything_is_done(words: list[str], told: str) -> None:
    ended = make(*words)
    assert (ended.stdout, ended.stderr.splitlines()[0], ended.returncode) == ("", told, 2)


def test_a_new_environment_is_no_slip_where_sam_asks_for_it() -> None:
    assert "/nowhere/bin/python" in make("deploy", "ENV=foo", "ARGS=--guided").stderr
