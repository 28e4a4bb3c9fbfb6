"""What a measured function meets: Secrets Manager over HTTPS, some milliseconds away, and PostgreSQL with TLS."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import botocore
import trustme

from benchmarks import share
from local import ROOT
from local.servers.postgres import run_postgres
from local.servers.secrets_manager import REGION, run_secrets_manager
from local.servers.stack import add_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import Quota, SecretsManagerServer

DATABASE = f"benchmark.{REGION}.rds.amazonaws.com"
"""The name in the database's certificate: as on RDS, the function reads the roots of one Region."""

OWN_HANDLER = "rotation_lambda.handler.lambda_handler"
SETTINGS = {"log_connections": "on", "track_commit_timestamp": "on", "max_connections": "400"}


@dataclass(slots=True)
class Distance:
    """How far away Secrets Manager is, and how many writes it takes; notes when a label was asked to move."""

    seconds: float = 0.0
    quota: Quota | None = None
    moved: float = 0.0

    def __call__(self, operation: str) -> tuple[int, str] | None:
        """Let an operation arrive; throttled is what is over the quota."""
        time.sleep(self.seconds)
        if operation == "UpdateSecretVersionStage":
            self.moved = time.time()
        return self.quota(operation) if self.quota else None


@dataclass(frozen=True, slots=True)
class Function:
    """A function to measure: the folder with its code, and its handler, MODULE.FUNCTION."""

    name: str
    folder: Path
    handler: str


@dataclass(slots=True)
class World:
    """Both servers, and how a function is run: with which Python, which SDK, and whose certificates."""

    postgres: PostgresServer
    keeper: SecretsManagerServer
    distance: Distance
    folder: Path
    authority: bytes = field(repr=False)
    python: str
    sdk: Path
    groups: Path | None

    def install(self, name: str, source: Path, handler: str) -> Function:
        """Return the function in a copy of its folder, where each file of certificates has this world's as well."""
        folder = self.folder / name
        shutil.copytree(source, folder)
        for file in folder.rglob("*.pem"):
            file.write_bytes(file.read_bytes() + self.authority)
        return Function(name, folder, handler)

    def add_secret(self, username: str) -> str:
        """Make a user and its secret; return the secret's ARN."""
        return add_secret(self.postgres, self.keeper, username, tlsServerName=DATABASE)

    @contextmanager
    def run(self, function: Function, memory_mb: int | None = None) -> Iterator[Process]:
        """Run the function in a process of its own, under the share of that memory size; None: without a limit."""
        endpoint = f"https://localhost:{self.keeper.tls_port}"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ},
            **self.keeper.environment,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": endpoint,
            "SECRETS_MANAGER_ENDPOINT": endpoint,  # the AWS sample's
            "AWS_CA_BUNDLE": str(self.folder / "authorities.pem"),
            "AWS_LAMBDA_FUNCTION_NAME": "rotation",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "LAMBDA_TASK_ROOT": str(function.folder),
            "PYTHONPATH": f"{function.folder}{os.pathsep}{self.sdk}",
            "PYTHONDONTWRITEBYTECODE": "1",  # Lambda's file system is read-only
        }
        program = [self.python, "-S", "-P", str(Path(__file__).with_name("function.py")), function.handler]
        groups = None if memory_mb is None else self.groups
        with (
            share.of(memory_mb or 0, groups) as prefix,
            subprocess.Popen(  # noqa: S603 - what the command line names
                [*prefix, *program, str(time.monotonic())],
                env=environment,
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            try:
                yield Process(process)
            finally:
                if process.stdin:
                    process.stdin.close()


@dataclass(slots=True)
class Process:
    """A running function."""

    process: subprocess.Popen[str]

    def order(self, order: object) -> None:
        """Hand over an event, or a fleet's."""
        if self.process.stdin:
            print(json.dumps(order), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Return what it tells next; RuntimeError where it has ended."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError("The measured function has ended; what it wrote to standard error says why.")
        told: dict[str, Any] = json.loads(line)
        return told


def version_of(python: str) -> str:
    """Return major and minor version of a Python."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.check_output([python, "-c", asked], text=True).strip()  # noqa: S603


def build(folder: Path, python: str) -> None:
    """Build the function as `make build` does, for this machine and that Python."""
    folder.mkdir()
    machine = "arm64" if os.uname().machine in {"aarch64", "arm64"} else "x86_64"
    words = [f"ARTIFACTS_DIR={folder}", f"PYTHON={sys.executable}", f"RUNTIME={version_of(python)}"]
    command = ["make", "--silent", "--makefile", str(ROOT / "Makefile"), "build-RotationFunction", *words]
    subprocess.check_call(command, cwd=ROOT / "lambda" / machine)  # noqa: S603


@contextmanager
def run_world(*, python: str, sdk: Path | None) -> Iterator[World]:
    """Run both servers; afterwards nothing is left of them."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    distance = Distance()
    with (
        TemporaryDirectory(prefix="benchmark-") as folder,
        run_postgres(settings=SETTINGS, server_names=("localhost", DATABASE)) as postgres,
        run_secrets_manager(refuse=distance, tls=context) as keeper,
    ):
        certificates = authority.cert_pem.bytes()
        if postgres.ca_file:
            certificates += postgres.ca_file.read_bytes()
        world = World(
            postgres=postgres,
            keeper=keeper,
            distance=distance,
            folder=Path(folder),
            authority=certificates,
            python=python,
            sdk=(sdk or Path(botocore.__file__).parent.parent).resolve(),
            groups=share.find_root(),
        )
        usual = Path(botocore.__file__).with_name("cacert.pem").read_bytes()
        (world.folder / "authorities.pem").write_bytes(usual + certificates)  # as long as the list that it replaces
        yield world
