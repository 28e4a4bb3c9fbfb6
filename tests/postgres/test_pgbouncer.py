"""A real PgBouncer in between is told from the server, refused, and got round by rotationHost."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from local.servers import rotation
from local.servers.pgbouncer import PGBOUNCER, is_open, run_pgbouncer
from rotation_lambda import errors
from tests import ROOT, conftest
from tests.local.test_servers import wait_until
from tests.promises.test_crashes import keeper, quick, server
from tests.worlds.crashes import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer

__all__ = ["keeper", "quick", "server"]

THERE = conftest.has(PGBOUNCER, "rotation through and around a pooler")


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


CHILD = """
import sys
from local.servers import pgbouncer, postgres
with postgres.run_postgres() as server, pgbouncer.run_pgbouncer(server, {"app": "secret"}) as port:
    print(port, server.data.parent, flush=True)
    sys.stdin.readline()
"""


class TestPooler:
    __test__ = THERE

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

    @pytest.mark.parametrize("killed", [False, True])
    def test_leaves_nothing_behind(self, *, killed: bool) -> None:
        command = [sys.executable, "-c", CHILD]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout
            port, folder = child.stdout.readline().split()
            [users] = Path(folder).glob("pgbouncer-*/users.txt")
            assert users.parent.stat().st_mode & 0o077 == 0, "passwords are in it"
            assert is_open(int(port))
            if killed:
                child.kill()
            child.communicate(None if killed else "go\n")
        assert wait_until(lambda: not is_open(int(port)) and not Path(folder).exists())


def test_the_list_of_what_was_left_out_is_right() -> None:
    assert any("PgBouncer" in sentence for sentence in conftest.LEFT_OUT) is not THERE
