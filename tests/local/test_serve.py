"""`make local` says how to get to its servers, and what a person does there happens as on AWS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from local import events
from local.serve import address
from local.servers import rotation
from rotation_lambda.preflight.__main__ import main as preflight
from tests import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.costly("programs")

PROGRAM = """
import pathlib, sys
from local import __main__, events, terminal
events.FOLDER = pathlib.Path(sys.argv[1])
terminal.run(lambda: __main__.main(["--serve", *sys.argv[2:]]))
"""


@contextmanager
def serving(folder: object, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `make local`, which announces itself in the folder; Ctrl-C ends it."""
    command = [sys.executable, "-c", PROGRAM, str(folder), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(60)


def read_until(words: str, running: subprocess.Popen[str]) -> str:
    """Return what it prints up to a line with these words."""
    assert running.stdout
    said = ""
    for line in running.stdout:
        said += line
        if words in line:
            return said
    assert running.stderr
    raise AssertionError(said + running.stderr.read())


def exports(file: str) -> dict[str, str]:
    """Return what a shell has after it has read the file."""
    command = ["/bin/sh", "-c", '. "$0"; env', file]
    read = subprocess.run(command, env={"AWS_PROFILE": "prod"}, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in read.stdout.splitlines() if line.startswith(("AWS", "PG", "ROTA")))


def test_what_is_printed_can_be_followed_and_rotate_secret_rotates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a checkout that cannot be written, too."""
    with serving("/proc/nowhere", "--bind", "127.0.0.1") as running:
        said = read_until("tested", running)
        assert running.stderr
        assert re.match(r"`make events` will not find this: .*: /proc/nowhere\.\n", running.stderr.readline())
        [file] = re.findall(r"^  \. (\S+)$", said, re.MULTILINE)
        found = exports(file)
        assert "AWS_PROFILE" not in found
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("secretsmanager")
        for _ in range(2):
            version = client.rotate_secret(SecretId="local/app/postgres")["VersionId"]
            rows = read_until("rotated", running).splitlines()
            assert [row.split()[1:] for row in rows] == [
                ["local/app/postgres", version[:4], what] for what in (*rotation.STEPS, "rotated")
            ]
            assert rotation.labels(client, "local/app/postgres").versions["AWSCURRENT"] == version
        assert preflight(["local/app/postgres", "--quiet"]) == 0, capsys.readouterr().out
    assert running.returncode == 0
    assert max(map(len, said.splitlines())) <= 80


def test_a_rotation_that_fails_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path, "--bind", "127.0.0.1") as running:
        said = read_until("tested", running)
        [file] = re.findall(r"^  \. (\S+)$", said, re.MULTILINE)
        client = client_of(exports(file))
        value = json.loads(client.get_secret_value(SecretId="local/app/postgres")["SecretString"])
        client.put_secret_value(SecretId="local/app/postgres", SecretString=json.dumps({**value, "host": "127.0.0.1"}))
        client.rotate_secret(SecretId="local/app/postgres")
        assert "setSecret: TlsError (tls-failed): " in read_until("setSecret", running)
        assert "retry" in read_until("retry", running)


def client_of(found: dict[str, str]) -> Any:  # noqa: ANN401 - boto3 makes the classes
    return boto3.client(
        "secretsmanager",
        endpoint_url=found["AWS_ENDPOINT_URL_SECRETS_MANAGER"],
        region_name=found["AWS_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def test_a_program_reads_one_object_and_make_events_finds_the_secret_for_containers(tmp_path: Path) -> None:
    with serving(tmp_path, "--bind", "127.0.0.1", "--json", "--strategy", "alternating-users") as running:
        found = json.loads(read_until("}", running) + read_until("}", running) + read_until("}", running))
        state = events.find_stack(tmp_path)
        assert os.path.exists(found["environment_file"])  # noqa: PTH110 - a string
        assert exports(found["environment_file"]) == {
            name: value for name, value in found["environment"].items() if name.lower() != "no_proxy"
        }
        client = client_of(found["environment"])
        secret = json.loads(client.get_secret_value(SecretId=state["secret_arn"])["SecretString"])
        assert secret["rotationHost"] == events.HOST
        assert "rotationHost" not in client.get_secret_value(SecretId=found["secret_id"])["SecretString"]
        assert found["environment"]["ROTATION_STRATEGY"] == state["strategy"] == "alternating-users"
    assert running.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["nonsense", "::1", "192.0.2.1", ""])
def test_an_address_of_another_machine_is_refused(wrong: str) -> None:
    assert address("127.0.0.1") == "127.0.0.1"
    with pytest.raises(ValueError, match=r"is not an IPv4 address|cannot listen on"):
        address(wrong)
