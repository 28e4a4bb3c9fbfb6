"""A secret whose host is a replica, a real one: the writer has to take the new password first, then the replica."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from local.servers import postgres
from local.servers.proxy import run_proxy
from local.servers.stack import LOGGED
from rotation_lambda import errors, steps
from rotation_lambda.rds import Rds, Server
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import PasswordPolicy, Strategy
from tests.worlds.clocks import Clock, wait_until
from tests.worlds.fakes import FakeClock
from tests.worlds.scenes import Scene, assemble, lets_in, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from rotation_lambda.rotation import Rotation

__all__ = ["set_scene"]

DOMAIN = "abc.us-east-1.rds.amazonaws.com"
STRATEGIES = [Strategy.ALTERNATING_USERS, Strategy.SUPERUSER]
SETTINGS = {**LOGGED, "synchronous_commit": "on"}  # so that what is committed lies before the flushed position


@contextmanager
def run_replica(primary: PostgresServer) -> Iterator[PostgresServer]:
    """Run a standby that was copied from the primary's files and streams from it."""
    primary.use_hba("hostssl replication postgres 127.0.0.1/32 scram-sha-256", primary.default_hba)
    primary.stop()
    data = primary.data.with_name("replica")
    shutil.copytree(primary.data, data)
    primary.start()
    (data / "standby.signal").touch()
    (data / "postmaster.pid").unlink(missing_ok=True)
    conninfo = f"host=127.0.0.1 port={primary.port} user=postgres password={primary.password} sslmode=require"
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"primary_conninfo = '{conninfo}'\n")
    data.chmod(0o700)
    postgres.give(primary.surroundings, data, *data.rglob("*"))
    replica = replace(primary, data=data, log_file=data.with_name("replica.log"))
    replica.log_file.touch()
    try:
        postgres._start_on_a_free_port(replica)
        yield replica
    finally:
        replica.stop("immediate")


@dataclass(frozen=True, slots=True)
class Word(Rds):
    """RDS, which says that the second server is a replica of the first."""

    servers: dict[str, Server]

    def describe_db_instances(self, identifier: str) -> Server | None:
        return self.servers.get(identifier)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    names = ("localhost", f"writer.{DOMAIN}", f"reader.{DOMAIN}")
    with (
        postgres.run_postgres(server_names=names, settings=SETTINGS) as primary,
        run_replica(primary) as replica,
    ):
        yield primary, replica


@dataclass(frozen=True, slots=True)
class Pair:
    """A secret for the replica, and one of a superuser for the writer."""

    scene: Scene
    replica: PostgresServer
    word: Word

    def at(self, token: str, strategy: Strategy, clock: Clock | None = None) -> Rotation:
        """Put the rotation together; by the clock, if there is one, its deadline comes."""
        deadline = clock.deadline() if clock else None
        return assemble(self.scene, token, strategy, deadline=deadline, open_rds=lambda: self.word)

    def pause_replay(self) -> None:
        """Have the replica stay as it is now, and what is committed from now on streamed to it only."""
        self.replica.query("SELECT pg_wal_replay_pause()")
        paused = "SELECT pg_get_wal_replay_pause_state()"  # until then it may be at work on the next record
        wait_until(lambda: self.replica.query(paused) == [("paused",)], "the replica pauses")

    def resume_replay(self) -> None:
        """Have the replica go on, and wait until it is where the writer is."""
        self.replica.query("SELECT pg_wal_replay_resume()")
        wait_for_replay(self.scene.server, self.replica)


@pytest.fixture
def pair(set_scene: Callable[..., Scene], servers: tuple[PostgresServer, PostgresServer]) -> Iterator[Pair]:
    primary, replica = servers
    scene = set_scene(primary)
    writer, reader = ((f"{name}.{DOMAIN}", server.port) for name, server in (("writer", primary), ("reader", replica)))
    client = scene.secret.server.client()
    master = {**scene.superuser.document, "host": writer[0], "port": writer[1]}
    client.put_secret_value(SecretId=scene.master.arn, SecretString=json.dumps(master))
    scene.put({**scene.secret.document(), "host": reader[0], "port": reader[1]})
    word = Word(
        None,  # type: ignore[arg-type]
        FakeClock().deadline(),
        {
            "writer": Server("writer", "arn:writer", [writer]),
            "reader": Server("reader", "arn:reader", [reader], sources=frozenset({"writer"})),
        },
    )
    wait_for_replay(primary, replica)
    yield Pair(scene, replica, word)
    replica.query("SELECT pg_wal_replay_resume()")


def wait_for_replay(primary: PostgresServer, replica: PostgresServer) -> None:
    [(end,)] = primary.query("SELECT pg_current_wal_flush_lsn()::text")
    replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    wait_until(lambda: replica.query(replayed, (end,)) == [(True,)], f"the replica replays up to {end}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_replica_is_waited_for_after_the_writer_has_let_the_new_password_in(strategy: Strategy, pair: Pair) -> None:
    scene = pair.scene
    token = scene.begin()
    steps.create_secret(pair.at(token, strategy), PasswordPolicy())
    pair.pause_replay()
    logged, replicas = len(scene.server.log()), len(pair.replica.log())
    clock = Clock(meanwhile=pair.resume_replay)
    steps.set_secret(pair.at(token, strategy, clock))
    assert clock.slept > 0
    user = scene.secret.document("AWSPENDING")["username"]
    assert f"connection authorized: user={user}" in scene.server.log()[logged:]
    assert f'password authentication failed for user "{user}"' in pair.replica.log()[replicas:]
    steps.test_secret(pair.at(token, strategy))
    steps.finish_secret(pair.at(token, strategy))
    assert scene.secret.labels["AWSCURRENT"] == token
    login = scene.secret.document()
    pair.replica.connect(login["username"], login["password"]).close()


def test_a_replica_that_does_not_replay_leaves_awscurrent_as_it_was(pair: Pair) -> None:
    scene, strategy = pair.scene, Strategy.ALTERNATING_USERS
    token = scene.begin()
    steps.create_secret(pair.at(token, strategy), PasswordPolicy())
    pair.pause_replay()
    with pytest.raises(errors.VerificationFailedError, match="was not touched"):
        steps.set_secret(pair.at(token, strategy, Clock()))
    assert lets_in(scene, {**scene.secret.document(), "dbname": "postgres"})
    with pytest.raises(psycopg2.OperationalError):
        pair.replica.connect(scene.clone, scene.secret.document("AWSPENDING")["password"])


def test_awscurrent_stays_where_the_standby_that_takes_over_is_still_behind(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary is lost while AWSCURRENT moves; the standby refuses the new password until it has replayed all."""
    scene, move = pair.scene, SecretsManager.update_secret_version_stage
    with run_proxy("127.0.0.1", scene.server.port) as proxy:

        def fail_over(*arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as in the house
            proxy.target = ("127.0.0.1", pair.replica.port)
            ends = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = %s"
            scene.server.query(ends, (scene.role.name,))
            move(*arguments, **named)

        scene.put({**scene.secret.document(), "host": "localhost", "port": proxy.port})
        wait_for_replay(scene.server, pair.replica)
        token, strategy = scene.begin(), Strategy.SINGLE_USER
        steps.create_secret(pair.at(token, strategy), PasswordPolicy())
        pair.pause_replay()
        steps.set_secret(pair.at(token, strategy))
        monkeypatch.setattr(SecretsManager, "update_secret_version_stage", fail_over)
        with pytest.raises(errors.UnprovenPasswordError, match="AWSPREVIOUS logs in on a standby"):
            steps.finish_secret(pair.at(token, strategy, Clock()))
    assert scene.secret.labels["AWSCURRENT"] == token
    pair.resume_replay()
    pair.replica.connect(scene.role.name, scene.secret.document()["password"]).close()


def test_a_host_of_which_rds_says_nothing_gets_no_superuser(pair: Pair) -> None:
    scene, strategy = pair.scene, Strategy.ALTERNATING_USERS
    pair.word.servers.pop("reader")
    token = scene.begin()
    steps.create_secret(pair.at(token, strategy), PasswordPolicy())
    logged, replicas = len(scene.server.log()), len(pair.replica.log())
    with pytest.raises(errors.SuperuserMismatchError):
        steps.set_secret(pair.at(token, strategy))
    for words in (scene.server.log()[logged:], pair.replica.log()[replicas:]):
        assert scene.superuser.name not in words
