"""The pages say what the program does: transcript, variables and the secret's keys are held against the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from rotation_lambda import credential, errors, settings, trust
from rotation_lambda.postgres import roles
from tests.worlds.pages import PAGES, first_cells


def normalised(transcript: str) -> str:
    """Put letters for version ids, in their order, and hide the seconds."""
    ids: dict[str, str] = {}
    for found in re.findall(r"\b[0-9a-f]{4}\b", transcript):
        ids.setdefault(found, f"id-{len(ids)}")
    for found, name in ids.items():
        transcript = re.sub(rf"\b{found}\b", name, transcript)
    return re.sub(r"\d+\.\d+ seconds", "… seconds", transcript).strip()


def test_the_transcript_is_what_a_rotation_prints() -> None:
    shown = PAGES["README.md"].partition("$ make rotate\n")[2].partition("```")[0]
    ran = subprocess.run([sys.executable, "-m", "local"], capture_output=True, text=True, check=True, timeout=60)
    assert normalised(ran.stdout) == normalised(shown)
    assert ran.stderr == ""


def test_the_table_of_variables_names_each_that_is_read() -> None:
    class Recorder(dict[str, str]):
        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            asked.append(name)
            return default

        def __missing__(self, name: str) -> str:
            asked.append(name)
            raise KeyError(name)

    asked: list[str] = []
    settings.Settings.from_environment(Recorder())
    assert sorted(first_cells(PAGES["docs/configuration.md"])) == sorted(asked)


@pytest.mark.parametrize("key", sorted(first_cells(PAGES["docs/secret-format.md"])))
def test_the_table_of_keys_names_each_that_is_read(key: str) -> None:
    """A number in the key's place is read, and refused by the key's name; a port is read as one, and changes."""
    document: dict[str, object] = {"host": "db.example.com", "username": "app", "password": "old"}
    plain = credential.Credential.parse(json.dumps(document))
    if key.lower().endswith("port"):
        assert credential.Credential.parse(json.dumps({**document, key: 6432})).address != plain.address
        return
    with pytest.raises(errors.InvalidSecretError) as caught:
        credential.Credential.parse(json.dumps({**document, key: 1}))
    assert caught.value.what.startswith(f"`{key}` ")


def test_the_sql_for_a_clone_is_what_the_code_would_run() -> None:
    shown = PAGES["docs/alternating-users.md"].split("<!-- clone -->")[1].partition("```sql\n")[2].partition("```")[0]
    given = {("", "search_path"): '"$user", public', ("shop", "work_mem"): "64MB"}
    original = roles.Role("app", [], True, True, 20, "2030-01-01 00:00:00+00", given)  # noqa: FBT003 - a row's columns
    current = credential.Credential("h", 5432, "shop", "app", "old")
    found = roles.Roles({"app": original}, "master", 160000)
    plan = roles.make_plan(found, current.with_password("new", "app_clone"), trust.Trust(current, lambda _: True))
    assert [str(change) for change in plan.changes] == shown.splitlines()
