"""A real PgBouncer before a server, where the machine has one: what a `host` is that is not the database itself."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from local import CannotRunError
from local.servers.installation import Part
from local.servers.postgres import give

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from local.servers.postgres import PostgresServer

_PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
PGBOUNCER = Part(
    "PgBouncer",
    Path(_PROGRAM) if _PROGRAM else None,
    "`apt-get install pgbouncer`, `dnf install pgbouncer` or `brew install pgbouncer`",
)


@contextmanager
def run_pgbouncer(
    server: PostgresServer, users: Mapping[str, str], options: str = "", mode: str = "session"
) -> Iterator[int]:
    """Run PgBouncer before the server, with a list of users and their passwords of its own; yield its port.

    Where the server has TLS, PgBouncer shows the same certificate. `options` are those of its connection to the
    server. NotInstalledError where the machine has none. Afterwards nothing of it is left, even if we are killed: it is
    swept with the server, in whose folder it has its own.
    """
    program = PGBOUNCER.find()
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    parent = server.data.parent
    with TemporaryDirectory(prefix="pgbouncer-", dir=parent) as name:
        folder = Path(name)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "pidfile": folder / "pid",
            "pool_mode": mode,
            "auth_type": "scram-sha-256",
            "ignore_startup_parameters": "options",
            "auth_file": folder / "users.txt",
        }
        if server.ca_file:
            settings |= {"client_tls_sslmode": "allow", "client_tls_key_file": parent / "server.key"}
            settings |= {"client_tls_cert_file": parent / "server.pem"}
            settings |= {"server_tls_sslmode": "verify-ca", "server_tls_ca_file": server.ca_file}
        (folder / "users.txt").write_text("".join(f"{_quoted(user)} {_quoted(users[user])}\n" for user in users))
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.port} {options}\n[pgbouncer]\n"
            + "".join(f"{key} = {value}\n" for key, value in settings.items())
        )
        give(server.surroundings, folder, *folder.iterdir())  # and to no other: mkdtemp has made it so
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                [program, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, **server.surroundings
            )
        try:
            deadline = time.monotonic() + 10
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CannotRunError(f"PgBouncer did not start on port {port}:\n{(folder / 'log').read_text()}")
                time.sleep(0.01)
            yield port
        finally:
            process.kill()  # what the gentler signals mean, and what they wait for, differs from version to version
            process.wait()


def is_open(port: int) -> bool:
    """Tell whether a server listens."""
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


def _quoted(text: str) -> str:
    """Quote as PgBouncer's list of users has it."""
    return '"' + text.replace('"', '""') + '"'
