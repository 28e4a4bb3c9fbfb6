"""A real PgBouncer in between is told from the server, refused, and got round by rotationHost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg2
import pytest

from local import rotation
from rotation_lambda import errors
from tests import conftest
from tests.crashes import World, world_of
from tests.test_crashes import keeper, quick, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from local.postgres import PostgresServer
    from local.secrets_manager import SecretsManagerServer

__all__ = ["keeper", "quick", "server"]

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
if PROGRAM is None:
    assert "REQUIRE_PGBOUNCER" not in os.environ, "PgBouncer is not on this machine."
    conftest.LEFT_OUT.append(
        "PgBouncer is not on this machine: rotation through and around a pooler was not looked at."
    )


@contextmanager
def run_pgbouncer(
    server: PostgresServer, users: Mapping[str, str], options: str = "", mode: str = "session"
) -> Iterator[int]:
    """Run PgBouncer before the server, with a list of users and their passwords of its own; yield its port."""
    assert PROGRAM is not None
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users.txt").write_text("".join(f'"{user}" "{password}"\n' for user, password in users.items()))
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.port} {options}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = {mode}\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [PROGRAM, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, **server.surroundings
            )
        try:
            deadline = time.monotonic() + 10
            while not _is_open(port):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _is_open(port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


@dataclass(slots=True)
class Pooled:
    """A world whose secret's host is the pooler."""

    world: World
    port: int

    def lets_in(self, password: str) -> bool:
        """Log in as an application would."""
        try:
            self.world.server.connect(self.world.role, password, port=self.port, sslmode="disable").close()
        except psycopg2.OperationalError as error:
            if "SASL authentication failed" in str(error):
                return False
            raise
        return True


@contextmanager
def pooled(
    server: PostgresServer, keeper: SecretsManagerServer, *, around: bool, shared: str = "", mode: str = "session"
) -> Iterator[Pooled]:
    with world_of(server, keeper) as world:
        password = world.credential("AWSCURRENT").password
        users = {world.role: password}
        if shared:
            users[shared] = "shared"
            world.query(f"CREATE ROLE {shared} LOGIN PASSWORD 'shared'")
        try:
            with run_pgbouncer(server, users, f"user={shared}" if shared else "", mode) as port:
                address = {"rotationHost": "127.0.0.1", "rotationPort": server.port} if around else {}
                world.amend({"port": port, **address})
                yield Pooled(world, port)
        finally:
            if shared:
                world.query(f"DROP ROLE {shared}")


class TestPooler:
    __test__ = PROGRAM is not None

    @pytest.mark.parametrize("mode", ["session", "transaction"])
    def test_is_refused_as_host_before_anything_is_changed(
        self, mode: str, server: PostgresServer, keeper: SecretsManagerServer
    ) -> None:
        with pooled(server, keeper, around=False, mode=mode) as pooler:
            failure = pooler.world.go_on(pooler.world.begin())
            assert isinstance(failure, errors.PoolerError)
            assert "rotationHost" in failure.hint
            assert pooler.world.current_logs_in()

    def test_is_refused_with_a_server_user_of_its_own_whose_password_stays(
        self, server: PostgresServer, keeper: SecretsManagerServer
    ) -> None:
        with pooled(server, keeper, around=False, shared="shared_by_all") as pooler:
            failure = pooler.world.go_on(pooler.world.begin())
            assert isinstance(failure, errors.PoolerError)
            assert "shared_by_all" in failure.what
            assert "rotationHost" in failure.hint
            assert pooler.world.current_logs_in()
            server.connect("shared_by_all", "shared").close()

    @pytest.mark.parametrize("shared", ["", "shared_by_all"])
    def test_is_got_round_by_rotation_host(
        self, shared: str, server: PostgresServer, keeper: SecretsManagerServer
    ) -> None:
        with pooled(server, keeper, around=True, shared=shared) as pooler:
            world = pooler.world
            old = world.credential("AWSCURRENT")
            assert pooler.lets_in(old.password)
            for step in rotation.STEPS:
                token = world.begin() if step == "createSecret" else world.labels["AWSPENDING"]
                assert world.take(step, token) is None
            assert world.current_logs_in()
            new = world.credential("AWSCURRENT")
            assert (new.host, new.port) == (old.host, pooler.port)
            assert not pooler.lets_in(new.password), "its list is its own, and somebody has to bring it up to date"

    def test_that_does_not_know_the_password_refuses_it_and_nothing_is_changed(
        self, server: PostgresServer, keeper: SecretsManagerServer
    ) -> None:
        with pooled(server, keeper, around=False) as pooler:
            world = pooler.world
            world.put_by_hand(works=True)
            failure = world.go_on(world.begin())
            assert isinstance(failure, errors.LoginRefusedError)
            assert world.current_logs_in()


def test_the_list_of_what_was_left_out_is_right() -> None:
    assert any("PgBouncer" in sentence for sentence in conftest.LEFT_OUT) is (PROGRAM is None)
