"""The runbook's commands run as they stand, and lead from each failure to a rotation that has succeeded."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import subprocess
import sys
import time
from contextlib import closing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from botocore.response import StreamingBody

from local.servers import rotation, rotator
from rotation_lambda import handler, preflight
from rotation_lambda.postgres import login, session
from tests.worlds.aws_cli import FAILED, aws_cli
from tests.worlds.clocks import Hasty
from tests.worlds.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Role, Secret

PAGE = PAGES["docs/runbook.md"]
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE))
BLOCKS = [re.findall(r"^```(?:sh|sql)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for text in SECTIONS.values()]
# A block that comes to the page has no name here yet, and no test: then this line fails.
(
    [VARIABLES],
    [LOCKED_OUT],
    [WHY, AGAIN],
    [RESUME, LABELS, SHOW],
    [GO_ON],
    [ANEW],
    [CHANGE],
    [UNPROVEN],
    [],
    [LOOK, END],
) = BLOCKS
CODES = set(re.findall(r"^## ([\w-]+)$", PAGES["docs/errors.md"], re.MULTILINE))


class Operator:
    """Who follows the runbook, in one shell; what the function logs is in CloudWatch Logs."""

    def __init__(self, secret: Secret, role: Role, function: Callable[[dict[str, Any]], Any], folder: Path) -> None:
        self.secret, self.role, self.function, self.folder = secret, role, function, folder
        self.log: list[tuple[int, str]] = []
        self.done: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self.name = str(secret.server.client().describe_secret(SecretId=secret.arn)["Name"])
        self.variables = VARIABLES.replace("ID=prod/shop/orders", f"ID={self.name}")

    def tell(self, name: str, version: str, what: str, _: Exception | None) -> None:
        if name == self.name and what in {"tested", "rotated", "failed"}:
            self.done.put((version, what))

    def run(self, block: str, *, status: int = 0, **variables: str) -> str:
        """Run a block of the page after its first one, in one shell; return what they print."""
        ended = subprocess.run(
            ["/bin/sh", "-eu", "-c", self.variables + block],
            cwd=self.folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == status, ended.stderr
        return ended.stdout + ended.stderr

    def wait(self) -> tuple[str, str]:
        """Wait until a rotation has ended; return its version, and whether it has `rotated` or `failed`."""
        return self.done.get(timeout=60)

    def rotate(self) -> str:
        self.secret.server.client().rotate_secret(SecretId=self.secret.arn)
        return self.wait()[1]

    def value(self) -> dict[str, Any]:
        return self.secret.document()

    def logs_in(self) -> bool:
        return self.role.lets_in(self.value()["password"])

    def put(self, **changes: object) -> None:
        value = json.dumps({**self.value(), **changes})
        self.secret.server.client().put_secret_value(SecretId=self.secret.arn, SecretString=value)


class Lines(io.TextIOBase):
    """Keeps each line with its time, as CloudWatch Logs does."""

    def __init__(self, kept: list[tuple[int, str]]) -> None:
        self.kept = kept

    def write(self, text: str) -> int:
        if text.strip():
            self.kept.append((int(time.time() * 1000), text))
        return len(text)


@pytest.fixture
def operator(
    postgres: PostgresServer,
    secrets_manager: SecretsManagerServer,
    make_role: Callable[..., Role],
    make_secret: Callable[[object], Secret],
    invoke: Callable[[object], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Operator]:
    """An application's secret with rotation on, and a shell in which `aws` is there."""
    role = make_role(postgres)
    one = Operator(make_secret(role.document), role, invoke, tmp_path)
    for module in (handler, sys.modules[preflight.run.__module__]):
        monkeypatch.setattr(module, "Deadline", Hasty)
    monkeypatch.setattr(rotator, "PAUSE_S", 0.0)
    monkeypatch.setattr(rotator, "ATTEMPTS", 1)
    monkeypatch.setattr(login, "OPTIONS", session.OPTIONS.replace("lock_timeout=3s", "lock_timeout=50ms"))
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    [writer] = handler.logger.handlers
    usual = writer.setStream(Lines(one.log))  # type: ignore[attr-defined]
    function = secrets_manager.function_arn

    def configuration(**asked: str) -> Mapping[str, Any]:
        assert asked == {"FunctionName": function}
        return {"LoggingConfig": {"LogGroup": "/aws/lambda/rotation"}}

    def call(**asked: Any) -> Mapping[str, Any]:  # noqa: ANN401 - bytes and text
        assert asked["FunctionName"] == function
        told = json.dumps(invoke(json.loads(asked["Payload"]))).encode()
        return {"StatusCode": 200, "Payload": StreamingBody(io.BytesIO(told), len(told))}

    def events(**asked: Any) -> Mapping[str, Any]:  # noqa: ANN401 - numbers and text
        assert asked["logGroupName"] == "/aws/lambda/rotation"
        found = [{"timestamp": at, "message": line} for at, line in one.log if at >= asked["startTime"]]
        return {"events": found}

    instead = {
        "lambda get-function-configuration": configuration,
        "lambda invoke": call,
        "logs filter-log-events": events,
    }
    programs = tmp_path / "bin"
    programs.mkdir()
    with (
        aws_cli(programs, secrets_manager.client, instead) as path,
        rotator.rotating(secrets_manager, invoke, one.tell),
    ):
        monkeypatch.setenv("PATH", path)
        secrets_manager.client().rotate_secret(
            SecretId=one.secret.arn, RotationLambdaARN=function, RotateImmediately=False
        )
        assert one.wait()[1] == "tested"
        yield one
        if rotation.labels(secrets_manager.client(), one.secret.arn).empty:
            rotation.cancel(secrets_manager.client(), one.secret.arn)
    writer.setStream(usual)  # type: ignore[attr-defined]


def test_says_that_nobody_is_locked_out(operator: Operator) -> None:
    assert re.search(r'"login AWSCURRENT", "status": "ok"', operator.run(LOCKED_OUT))


def interrupt(operator: Operator, *steps: str) -> str:
    """Leave a rotation behind after these steps, which Secrets Manager has given up; return its version."""
    server, arn = operator.secret.server, operator.secret.arn
    carry_out = server.carried_out.pop("RotateSecret")
    token = rotation.begin(server.client(), arn, server.function_arn)
    server.carried_out["RotateSecret"] = carry_out
    rotation.invoke_steps(operator.function, arn, token, steps=steps)
    assert operator.logs_in() is ("setSecret" not in steps)
    return token


class TestApplicationsAreLockedOut:
    def test_by_an_interrupted_rotation(self, operator: Operator) -> None:
        token = interrupt(operator, "createSecret", "setSecret")
        [told] = re.findall(
            r'^"check": "login AWSCURRENT", "status": "failed".*$', operator.run(LOCKED_OUT), re.MULTILINE
        )
        assert '"code"' not in told
        assert "A previous rotation isn't complete" in operator.run(RESUME, status=FAILED)
        assert operator.wait() == (token, "rotated")
        assert re.search(rf'"{token}": \[[^]]*"AWSCURRENT"', operator.run(LABELS))
        assert operator.logs_in()

    def test_by_a_password_that_no_version_has(self, operator: Operator) -> None:
        operator.role.alter("PASSWORD 'set elsewhere'")
        [told] = re.findall(
            r'^"check": "login AWSCURRENT", "status": "failed".*$', operator.run(LOCKED_OUT), re.MULTILINE
        )
        assert '"code": "login-refused"' in told
        operator.run(RESUME)
        assert operator.wait()[1] == "failed"
        assert '"code":"login-refused"' in operator.run(WHY)
        shown = json.loads(operator.run(SHOW))
        operator.role.alter(f"PASSWORD '{shown['password']}'")  # as \password does
        assert operator.logs_in()
        assert "A previous rotation isn't complete" in operator.run(AGAIN, status=FAILED)
        assert operator.wait()[1] == "rotated"


@pytest.mark.parametrize("block", [GO_ON, UNPROVEN], ids=["not-complete", "unproven"])
def test_a_rotation_is_resumed(operator: Operator, block: str) -> None:
    token = interrupt(operator, "createSecret", "setSecret")
    operator.run(block, status=FAILED)
    assert operator.wait() == (token, "rotated")
    assert operator.logs_in()


def test_a_new_version_is_begun(operator: Operator) -> None:
    """After the secret has changed under a rotation."""
    token = interrupt(operator, "createSecret")
    operator.put(dbname="template1")
    assert "A previous rotation isn't complete" in operator.run(AGAIN, status=FAILED)
    assert operator.wait() == (token, "failed")
    assert '"code":"credential-mismatch"' in operator.run(WHY)
    operator.run(ANEW)
    version, what = operator.wait()
    assert (version != token, what) == (True, "rotated")
    assert operator.value()["dbname"] == "template1"


@pytest.mark.parametrize("pending", [True, False])
def test_the_secret_is_changed(operator: Operator, pending: bool) -> None:  # noqa: FBT001
    """With a rotation that has begun, and without: the second command is left out then."""
    operator.put(host="nowhere.invalid")
    assert operator.rotate() == "failed"
    assert '"code":"host-not-found"' in operator.run(WHY)
    if not pending:
        rotation.cancel(operator.secret.server.client(), operator.secret.arn)
    editor = operator.folder / "bin" / "editor"
    editor.write_text('#!/bin/sh\nexec sed -i s/nowhere.invalid/localhost/ "$1"\n')
    editor.chmod(0o755)
    assert "Leave out the second command if `VERSION` is empty" in SECTIONS["Change the secret"]
    first, second, *others = CHANGE.splitlines(keepends=True)
    operator.run("".join([first, *([second] if pending else []), *others]), EDITOR="editor")
    assert operator.wait()[1] == "rotated"
    assert operator.value()["host"] == "localhost"
    assert operator.logs_in()
    assert not (operator.folder / "secret.json").exists()


def test_a_session_that_holds_the_lock_is_found_and_ended(operator: Operator) -> None:
    server, stranger = operator.role.server, f"stranger_{secrets.token_hex(4)}"
    server.query(f"CREATE ROLE {stranger} LOGIN PASSWORD '{stranger}'")
    with closing(server.connect(stranger, stranger)) as holder:
        holder.cursor().execute(f"ALTER ROLE {operator.role.name}")
        assert operator.rotate() == "failed"
        told = operator.run(WHY)
        assert '"code":"role-locked"' in told
        named = re.search(rf"process (\d+) of user '{stranger}'", told)
        assert named
        [(user, *_)] = server.query(LOOK.replace("4711", named[1]))
        assert user == stranger
        assert server.query(END.replace("4711", named[1])) == [(True,)]
        operator.run(AGAIN, status=FAILED)
        assert operator.wait()[1] == "rotated"
        with pytest.raises(psycopg2.OperationalError):
            holder.cursor().execute("SELECT 1")
    server.query(f"DROP ROLE {stranger}")


def test_every_code_that_needs_more_leads_to_a_section() -> None:
    table = re.findall(r"^\| (`[\w`, -]+`) \| (.+) \|$", SECTIONS["3. Why did it fail?"], re.MULTILINE)
    assert {code for codes, _ in table for code in re.findall(r"`([\w-]+)`", codes)} - {"code"} <= CODES
    assert len(table) > 5
