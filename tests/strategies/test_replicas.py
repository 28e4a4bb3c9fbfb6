"""A secret whose host is a replica, a real one: the writer has to take the new password first, then the replica."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Timer
from typing import TYPE_CHECKING

import psycopg2
import pytest

from local.servers import postgres
from local.servers.stack import LOGGED
from rotation_lambda import errors, steps
from rotation_lambda.rds import Rds, Server
from rotation_lambda.settings import PasswordPolicy, Strategy
from tests.worlds.scenes import Scene, assemble, lets_in, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from rotation_lambda.rotation import Rotation

__all__ = ["set_scene"]

DOMAIN = "abc.us-east-1.rds.amazonaws.com"
STRATEGIES = [Strategy.ALTERNATING_USERS, Strategy.SUPERUSER]


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
    with postgres.run_postgres(server_names=names, settings=LOGGED) as primary, run_replica(primary) as replica:
        yield primary, replica


@dataclass(frozen=True, slots=True)
class Pair:
    """A secret for the replica, and one of a superuser for the writer."""

    scene: Scene
    replica: PostgresServer
    word: Word

    def at(self, token: str, strategy: Strategy, *, seconds: float = 60) -> Rotation:
        return assemble(self.scene, token, strategy, seconds=seconds, open_rds=lambda: self.word)

    def replay(self, *, how: str) -> None:
        self.replica.query(f"SELECT pg_wal_replay_{how}()")


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
    for _ in range(500):
        if replica.query("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (end,)) == [(True,)]:
            return
        replica.query("SELECT pg_sleep(0.02)")
    pytest.fail("The replica does not replay.")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_replica_is_waited_for_after_the_writer_has_let_the_new_password_in(strategy: Strategy, pair: Pair) -> None:
    scene = pair.scene
    token = scene.begin()
    steps.create_secret(pair.at(token, strategy), PasswordPolicy())
    pair.replay(how="pause")
    logged, replicas = len(scene.server.log()), len(pair.replica.log())
    timer = Timer(0.7, pair.replay, kwargs={"how": "resume"})
    timer.start()
    steps.set_secret(pair.at(token, strategy))
    timer.join()
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
    pair.replay(how="pause")
    with pytest.raises(errors.VerificationFailedError, match="was not touched"):
        steps.set_secret(pair.at(token, strategy, seconds=14))
    assert lets_in(scene, {**scene.secret.document(), "dbname": "postgres"})
    with pytest.raises(psycopg2.OperationalError):
        pair.replica.connect(scene.clone, scene.secret.document("AWSPENDING")["password"])


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
