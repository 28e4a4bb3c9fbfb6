"""What a container needs to rotate on the stack of `make local`: a way in, whom to trust, a rotation's events."""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import socket
import struct
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from local import ROOT, StoppedError
from local.servers import rotation
from local.servers.secrets_manager import SecretsManagerServer
from local.terminal import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from local.servers.stack import Stack

HOST = "host.docker.internal"  # this machine, as a container knows it: by itself on Docker Desktop, else by --add-host
BUILD = ROOT / ".aws-sam" / "build"
FOLDER = ROOT / "build" / "local"
CA_FILE = "local-ca.pem"
_SIOCGIFADDR = 0x8915  # netdevice(7)


def bridge_address() -> str | None:
    """Return the address of this machine in Docker's network; None where Docker Desktop hands over to the loopback.

    To listen there instead of everywhere keeps the rest of the network out: moto asks for no password.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            interface = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", b"docker0"))
        except OSError:
            return None
    return socket.inet_ntoa(interface[20:24])


@contextmanager
def announced(stack: Stack, folder: Path) -> Iterator[None]:
    """Let prepare() find the stack in the same `folder`, as long as it runs; each stack has a file of its own there.

    OSError where the folder cannot be written.
    """
    server = stack.secrets_manager
    where = {"port": server.port, "address": server.address, "function_arn": server.function_arn}
    state = {"secrets_manager": where, "secret_arn": stack.container_arn, "strategy": stack.strategy}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"stack-{server.port}.json"
    file.write_text(json.dumps({**state, "ca_file": str(stack.postgres.ca_file)}))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def find_stack(folder: Path, port: int | None = None) -> dict[str, Any]:
    """Return what the stack that was started last, or the one with this port, has announced in `folder`.

    The file of a stack that does not answer any more, since it was killed, is removed. StoppedError where none is left.
    """
    files = sorted(folder.glob(f"stack-{port or '*'}.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        stack: dict[str, Any] = json.loads(file.read_text())
        try:
            client = SecretsManagerServer(**stack["secrets_manager"]).client(retries={"total_max_attempts": 1})
            client.describe_secret(SecretId=stack["secret_arn"])
        except (BotoCoreError, ClientError):  # no server listens, or another one
            file.unlink()
        else:
            return stack
    which = f"No local stack is running on port {port}" if port else "No local stack is running"
    raise StoppedError(f"{which}: type `make local` in another terminal.")


def prepare(stack: Mapping[str, Any], folder: Path, build: Path) -> list[Path]:
    """Begin a rotation on the stack; return the events of its steps, which `folder` has with all the rest.

    The built function goes there as a copy with the stack's CA added: `sam local` has no other way to give a container
    a file, and what is deployed must not have it.
    """
    server = SecretsManagerServer(**stack["secrets_manager"])
    token = rotation.begin(server.client(), stack["secret_arn"], server.function_arn)
    shutil.rmtree(folder / "RotationFunction", ignore_errors=True)
    shutil.copytree(build, folder, dirs_exist_ok=True)
    shutil.copy(stack["ca_file"], folder / "RotationFunction" / CA_FILE)
    environment = {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://{HOST}:{server.port}",
        "PGSSLROOTCERT": f"/var/task/{CA_FILE}",
        "ROTATION_STRATEGY": stack["strategy"],
    }
    (folder / "environment.json").write_text(json.dumps({"Parameters": environment}, indent=2))
    return [_fill_in(file, folder, stack["secret_arn"], token) for file in sorted((ROOT / "events").glob("*.json"))]


def _fill_in(file: Path, folder: Path, secret_arn: str, token: str) -> Path:
    event = json.loads(file.read_text())
    values = {"SecretId": secret_arn, "ClientRequestToken": token}
    filled = folder / file.name
    filled.write_text(json.dumps(event | {key: values[key] for key in event.keys() & values}, indent=2))
    return filled


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what `make events` asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="make events", description=__doc__)
    parser.add_argument("--stack", type=int, metavar="PORT", help="of several, the one with this Secrets Manager")
    options = parser.parse_args(arguments)
    stack = find_stack(FOLDER, options.stack)
    events = prepare(stack, FOLDER, BUILD)
    sys.stdout.write(f"On the stack whose Secrets Manager has port {stack['secrets_manager']['port']}:\n")
    sys.stdout.write("A rotation has begun: AWSPENDING is on a version without a value. Its steps, in their order:\n\n")
    order = ("create_secret", "set_secret", "test_secret", "finish_secret")
    for event in sorted((event for event in events if event.stem in order), key=lambda event: order.index(event.stem)):
        sys.stdout.write(f"  sam local invoke --event {event.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    run(main)
