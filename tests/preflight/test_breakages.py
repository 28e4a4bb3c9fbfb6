"""Each way to break a stack: the preflight finds it and changes nothing, the error names it, its hint ends it."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from local.breakages import BREAKAGES, Breakage, demonstrate
from local.terminal import Screen
from tests.conftest import LEFT_OUT, has
from tests.preflight.conftest import is_an_instruction, lets_in, look

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.stack import Stack

POSSIBLE = {
    name: one for name, one in BREAKAGES.items() if one.part is None or has(one.part, f"a stack broken by `{name}`")
}
CASES = {
    f"{name}: {words}" if words else name: (one, words)
    for name, one in POSSIBLE.items()
    for words in (one.remedies or [""])
}
"""Each breakage with each of its remedies; with none where its hints need none, since nothing goes wrong."""
REFUSED = "password authentication failed"


def state(stack: Stack) -> list[object]:
    """Return labels, values, and the roles where the server runs: what nobody but a rotation may change."""
    client = stack.secrets_manager.client()
    versions = client.describe_secret(SecretId=stack.secret_arn)["VersionIdsToStages"]
    found: list[object] = [versions, values(stack)]
    if stack.postgres.pid is not None:
        with closing(
            stack.postgres.connect("postgres", stack.postgres.password, sslmode="prefer", sslrootcert="")
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT pg_authid::text FROM pg_authid ORDER BY rolname")
            found += cursor.fetchall()
    return found


def values(stack: Stack) -> dict[str, str]:
    client, found = stack.secrets_manager.client(), {}
    for version in client.describe_secret(SecretId=stack.secret_arn)["VersionIdsToStages"]:
        try:
            found[version] = client.get_secret_value(SecretId=stack.secret_arn, VersionId=version)["SecretString"]
        except client.exceptions.ResourceNotFoundException:
            continue
    return found


@pytest.mark.costly
@pytest.mark.parametrize(("breakage", "words"), CASES.values(), ids=CASES)
def test_is_found_before_it_hurts_named_when_it_does_and_over_after_what_the_hint_says(
    breakage: Breakage,
    words: str,
    stack: Stack,
    function: Callable[[dict[str, str]], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a person sees it, who asks for the demonstration."""
    current = stack.credential()["password"]

    def watched(event: dict[str, str]) -> object:
        if event["Step"] != "preflight":
            return function(event)
        before, logged = state(stack), len(stack.postgres.log())
        stack.secrets_manager.calls.clear()
        report = function(event)
        assert state(stack) == before
        assert not {"PutSecretValue", "UpdateSecretVersionStage", "RotateSecret"} & {*stack.secrets_manager.calls}
        known = {json.loads(value)["password"] for value in values(stack).values()}
        assert stack.postgres.log()[logged:].count(REFUSED) <= len(known)
        assert not [password for password in known if password in json.dumps(report)]
        return report

    with ExitStack() as kept:  # until the stack is looked at once more

        def apply(stack: Stack) -> None:
            opened = breakage.apply(stack)
            if isinstance(opened, ExitStack):
                kept.enter_context(opened)

        found = demonstrate(replace(breakage, apply=apply), stack, watched, Screen(), words)
        assert lets_in(stack)
        assert stack.credential()["password"] != current
        assert look(stack, function)["status"] in {"ok", "warning"}
    shown = capsys.readouterr().out
    findings = {finding["check"]: finding for finding in found["preflight"]["findings"]}
    finding, status = findings[breakage.check], found["preflight"]["status"]
    assert (finding["status"], status) == (breakage.status, breakage.status)
    assert bool(finding.get("action")) is (status != "ok")
    assert finding.get("code") == breakage.code
    others = [finding["check"] for finding in findings.values() if finding["status"] == "failed"]
    assert set(others) <= {breakage.check}, [finding["seen"] for finding in findings.values()]
    assert found["rotation"]["code"] == breakage.code, found["rotation"]
    assert found["as_expected"] is True
    hints = [told for told in (finding.get("action"), found["rotation"]["hint"]) if told]
    assert all(words in hint and is_an_instruction(hint) for hint in hints), hints

    assert shown.startswith(f"{breakage.name}: {breakage.what}\n\nThe preflight, in ")
    told = "nothing is in the way" if status == "ok" else rf"{status} +{breakage.check}: .+\n +→ .+"
    assert re.search(f"^{told}", shown, re.MULTILINE)
    if breakage.code:
        assert re.search(rf"^failed +\w+ \({breakage.code}\): .+\n +→ .+", shown, re.MULTILINE)
        assert f"{found['rotation']['step']:<14}failed\n" in shown
        assert f"\nA rotation after what the hint says ({words}):\n" in shown
    assert shown.endswith("\nfinishSecret  done\nall four steps succeeded\n")


def test_the_list_of_what_was_left_out_is_right() -> None:
    for name, breakage in BREAKAGES.items():
        told = any(f"`{name}`" in sentence for sentence in LEFT_OUT)
        assert told is (name not in POSSIBLE) is bool(breakage.part and breakage.part.missing)


def test_a_healthy_stack_has_neither_warnings_nor_failures(
    stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    before, logged = state(stack), len(stack.postgres.log())
    report = look(stack, function)
    assert report["status"] == "ok"
    assert {finding["check"] for finding in report["findings"] if finding["status"] == "not reached"} == {
        "PutSecretValue",
        "UpdateSecretVersionStage",
        "rotation",
        "login AWSPENDING",
        "login AWSPREVIOUS",
        "superuser secret",
        "superuser login",
    }
    log = stack.postgres.log()[logged:]
    assert log.count("connection authenticated") == 1
    assert log.count(REFUSED) == 0
    assert state(stack) == before


@pytest.mark.parametrize("breakage", [replace(BREAKAGES["no-login"], code="login-refused")], ids=["no-login"])
def test_the_demonstration_tells_when_something_else_comes_out(
    breakage: Breakage, stack: Stack, function: Callable[[dict[str, str]], Any]
) -> None:
    assert demonstrate(breakage, stack, function, Screen())["as_expected"] is False
