"""A rotation under the real Lambda runtime: AWS's runtime interface emulator and client, without a container."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import samcli

from local.servers import rotation
from tests import ROOT
from tests.worlds.clocks import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from local.servers.postgres import PostgresServer
    from tests.conftest import Role, Secret

MACHINE = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
EMULATOR = Path(samcli.__file__).parent / "local" / "rapid" / f"aws-lambda-rie-{MACHINE}"


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def lambda_runtime(environment: Mapping[str, str]) -> Iterator[Callable[[object], Any]]:
    """Run the function under the emulator; yield what invokes it and returns its answer."""
    address, api = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    command = [str(EMULATOR), "--runtime-interface-emulator-address", address, "--runtime-api-address", api]
    runtime = [sys.executable, "-m", "awslambdaric", "rotation_lambda.handler.lambda_handler"]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [*command, *runtime],
        env={**kept, **environment, "PYTHONPATH": str(ROOT), "AWS_LAMBDA_FUNCTION_TIMEOUT": "60"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
    )

    def invoke(event: object) -> Any:  # noqa: ANN401 - JSON
        url = f"http://{address}/2015-03-31/functions/function/invocations"
        with urllib.request.urlopen(url, json.dumps(event).encode(), timeout=60) as answer:
            return json.loads(answer.read())

    try:
        wait_for(address, process)
        yield invoke
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the emulator does not listen"
            time.sleep(0.02)
        else:
            return
    raise AssertionError(process.communicate()[0].decode())


def test_a_rotation_succeeds_and_a_failure_has_our_class_as_its_error_type(
    postgres: PostgresServer, make_role: Callable[..., Role], make_secret: Callable[[object], Secret]
) -> None:
    role = make_role(postgres)
    secret = make_secret(role.document)
    environment = {**secret.server.environment, "PGSSLROOTCERT": str(postgres.ca_file)}
    token = rotation.begin(secret.server.client(), secret.arn, secret.server.function_arn)
    event = {"SecretId": secret.arn, "ClientRequestToken": token}
    with lambda_runtime(environment) as invoke:
        report = invoke({"Step": "preflight", "SecretId": secret.arn})
        assert report["status"] == "warning"  # the rotation that has begun
        failure = invoke({**event, "Step": "setSecret"})
        assert failure["errorType"] == "MissingVersionError"
        assert failure["errorMessage"].startswith(f"Version {token} has no value. Next: ")
        assert role.lets_in(role.password)
        for step in rotation.STEPS:
            assert invoke({**event, "Step": step}) is None
    assert secret.labels["AWSCURRENT"] == token
    assert role.lets_in(secret.document()["password"])
