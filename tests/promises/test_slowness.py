"""A slow server is not an absent one: what may pass is waited for, and behind a failed step nothing is left at work.

Holds and budgets are a twentieth of what they are in life, since only their proportion counts; but a server that is
awake has as much time to answer as in life.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from threading import Timer
from typing import TYPE_CHECKING, Any

import pytest

from local.servers import postgres as servers
from local.servers.proxy import Passage, Proxy, Stall, cut_at, run_proxy
from local.servers.rotation import STEPS
from rotation_lambda import deadline, errors, steps
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import BEFORE_CHANGE_S, Deadline
from rotation_lambda.postgres import Postgres, login
from rotation_lambda.postgres.session import OPTIONS
from rotation_lambda.settings import SHIPPED_BUNDLE, PasswordPolicy, Strategy
from tests.strategies.test_replicas import run_replica, wait_for_replay
from tests.worlds.clocks import Clock
from tests.worlds.scenes import Scene, assemble, lets_in, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer

__all__ = ["set_scene"]

STRATEGIES = [strategy for strategy in Strategy if strategy is not Strategy.AUTO]
each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
HOLDS_S = [0.1, 0.8]
USUAL_S, SHORT_S = login.CONNECT_TIMEOUT_S, 0.25


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what falls_asleep() changes changed back at the end."""
    monkeypatch.setattr(login, "CONNECT_TIMEOUT_S", USUAL_S)


def move(scene: Scene, port: int) -> None:
    """Have the secret, and its superuser's, lead to another port of this machine."""
    scene.put({**scene.secret.document(), "port": port})
    client = scene.secret.server.client()
    client.put_secret_value(
        SecretId=scene.master.arn, SecretString=json.dumps({**scene.master.document(), "port": port})
    )


def falls_asleep(proxy: Proxy, seconds: float) -> None:
    """Hold every connection that is made from now on, for so long, as a paused Aurora cluster does.

    Logins have little time meanwhile, so that some fail, and all that they need afterwards.
    """
    awake = time.monotonic() + seconds
    login.CONNECT_TIMEOUT_S = SHORT_S

    def rule(_: Passage) -> None:
        time.sleep(max(0.0, awake - time.monotonic()))
        login.CONNECT_TIMEOUT_S = USUAL_S

    proxy.rule = rule


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with run_proxy("127.0.0.1", postgres.port) as proxy:
        yield proxy


class TestAsleep:
    @each_strategy
    @pytest.mark.parametrize("hold", HOLDS_S)
    def test_is_waited_for_by_every_step(
        self,
        hold: float,
        strategy: Strategy,
        proxy: Proxy,
        set_scene: Callable[..., Scene],
        postgres: PostgresServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene = set_scene(postgres)
        move(scene, proxy.port)
        token = scene.begin()
        for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
            falls_asleep(proxy, hold)
            scene.take(token, step)
        assert scene.secret.labels["AWSCURRENT"] == token
        assert lets_in(scene, scene.secret.document())
        assert hold < SHORT_S or "Trying again for" in scene.notes()

    @pytest.mark.parametrize("hold", HOLDS_S)
    def test_is_waited_for_by_the_preflight(
        self, hold: float, proxy: Proxy, set_scene: Callable[..., Scene], postgres: PostgresServer
    ) -> None:
        scene = set_scene(postgres)
        move(scene, proxy.port)
        falls_asleep(proxy, hold)
        report = scene.invoke({"Step": "preflight", "SecretId": scene.secret.arn})
        assert isinstance(report, dict)
        assert {one["check"] for one in report["findings"] if one["status"] == "failed"} == set()

    def test_is_waited_for_while_it_answers_no_pg_hba_entry(
        self, set_scene: Callable[..., Scene], postgres: PostgresServer
    ) -> None:
        scene = set_scene(postgres)
        token = scene.begin()
        scene.take(token, "createSecret")
        postgres.use_hba()
        wakes = Timer(1.0, postgres.use_hba, [postgres.default_hba])
        wakes.start()
        try:
            scene.take(token, "setSecret")
        finally:
            wakes.join()
            postgres.use_hba(postgres.default_hba)
        scene.take(token, "testSecret", "finishSecret")
        assert "no pg_hba.conf entry" in scene.notes()

    def test_is_waited_for_while_dns_does_not_answer(
        self, set_scene: Callable[..., Scene], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene, look_up, failures = set_scene(postgres), socket.getaddrinfo, [0] * 2
        token = scene.begin()
        scene.take(token, "createSecret")

        def fail(host: str, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - the standard library's
            if host == scene.secret.document()["host"] and failures:
                failures.pop()
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return look_up(host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        scene.take(token, "setSecret", "testSecret", "finishSecret")
        assert not failures
        assert "Temporary failure in name resolution" in scene.notes()

    def test_is_named_with_how_long_it_was_waited_for(
        self,
        proxy: Proxy,
        set_scene: Callable[..., Scene],
        postgres: PostgresServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(deadline, "MOST_WAIT_S", 2.0)
        login.CONNECT_TIMEOUT_S = SHORT_S
        scene = set_scene(postgres)
        move(scene, proxy.port)
        proxy.rule = cut_at("ask", 0, Stall)
        error = scene.fail(errors.DatabaseTimeoutError)
        assert "Waited for" in error.what
        assert "Aurora at 0 ACU" in error.hint
        assert "security group" in error.hint


class TestWhatCannotPass:
    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"tlsServerName": "elsewhere.example"}, errors.TlsError),
            ({"ssl": False}, errors.NoHbaEntryError),
            ({"host": "no-such-host.invalid"}, errors.HostNotFoundError),
        ],
    )
    def test_stops_at_once(
        self,
        change: dict[str, object],
        error: type[errors.DatabaseError],
        set_scene: Callable[..., Scene],
        postgres: PostgresServer,
    ) -> None:
        scene = set_scene(postgres)
        scene.put({**scene.secret.document(), **change})
        failure = scene.fail(error)
        assert "Waited" not in failure.what or error is errors.HostNotFoundError  # which is asked for twice
        assert scene.notes().count("Trying again") == (error is errors.HostNotFoundError)


class TestBudget:
    def test_is_one_for_all_addresses_of_a_host(self, postgres: PostgresServer) -> None:
        """Twenty addresses that swallow what comes take no longer than one, and leave the reserve alone."""
        with closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as silent:
            many = [f"127.0.0.{number}" for number in range(1, 21)]
            with ExitStack() as stack:
                for address in many[1:]:
                    stack.enter_context(closing(socket.create_server((address, silent.getsockname()[1]), backlog=9)))
                deadline = Deadline(time.monotonic() + 30)
                door = Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, deadline, lambda _: many)
                login.CONNECT_TIMEOUT_S = SHORT_S
                began = time.monotonic()
                with pytest.raises(errors.DatabaseTimeoutError, match="within 0"):
                    door.log_in(Credential("host", silent.getsockname()[1], "postgres", "app", "password"))
        assert time.monotonic() - began < 20 * SHORT_S

    def test_leaves_each_address_its_share(self, postgres: PostgresServer) -> None:
        """The second one answers, though the first takes all the time that it gets."""
        login.CONNECT_TIMEOUT_S = 2.0
        with closing(socket.create_server(("127.0.0.2", postgres.port), backlog=50)):
            deadline = Deadline(time.monotonic() + 60)
            door = Postgres(SslMode.VERIFY_FULL, str(postgres.ca_file), deadline, lambda _: ["127.0.0.2", "127.0.0.1"])
            with pytest.raises(errors.LoginRefusedError):
                door.log_in(Credential("localhost", postgres.port, "postgres", "nobody", "password"))

    def test_is_used_up_before_the_reserve(self, postgres: PostgresServer) -> None:
        door = Postgres(SslMode.VERIFY_FULL, str(postgres.ca_file), Deadline(time.monotonic() + BEFORE_CHANGE_S))
        with pytest.raises(errors.DatabaseTimeoutError, match="only 24 seconds for what follows"):
            door.log_in(Credential("localhost", postgres.port, "postgres", "app", "password"), reserve=BEFORE_CHANGE_S)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A primary whose COMMIT waits for a real standby, and where the application finds whichever is the writer."""

    primary: PostgresServer
    standby: PostgresServer
    writer: Proxy

    def fail_over(self) -> None:
        """The primary is lost, with what it has not streamed, and the standby is promoted."""
        self.primary.stop("immediate")
        if self.standby.pid is None:
            self.standby.start()
        self.standby.query("SELECT pg_promote()")
        self.writer.target = ("127.0.0.1", self.standby.port)

    def come_back(self) -> None:
        """The old primary is a standby now, and the name leads to it still."""
        (self.primary.data / "standby.signal").touch()
        self.primary.start()
        self.writer.target = ("127.0.0.1", self.primary.port)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with (
        servers.run_postgres(settings={"synchronous_commit": "on", "hot_standby": "on"}) as primary,
        run_replica(primary) as standby,
        run_proxy("127.0.0.1", primary.port) as writer,
    ):
        wait_for_replay(primary, standby)
        yield Cluster(primary, standby, writer)


@contextmanager
def synchronous(server: PostgresServer) -> Iterator[None]:
    server.configure(synchronous_standby_names="*")
    try:
        yield
    finally:
        server.configure(synchronous_standby_names=None)


class TestSynchronousStandby:
    """COMMIT would wait for it without end, and no timeout of the server's reaches that wait."""

    @each_strategy
    def test_that_is_away_is_not_waited_for(
        self,
        strategy: Strategy,
        cluster: Cluster,
        set_scene: Callable[..., Scene],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene = set_scene(cluster.primary)
        scene.rotate()
        wait_for_replay(cluster.primary, cluster.standby)
        with synchronous(cluster.primary):
            cluster.standby.stop()
            document = scene.rotate()
            [waiting] = cluster.primary.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            assert waiting == (0,)
            back = Timer(0.2, cluster.standby.start)
            back.start()
            document = scene.rotate()
            back.join()
        wait_for_replay(cluster.primary, cluster.standby)
        for server in (cluster.primary, cluster.standby):
            server.connect(document["username"], document["password"]).close()

    def test_changes_no_password_after_a_step_has_failed(
        self, cluster: Cluster, set_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody holds the role's row; once that and the standby are back, the old password is in force still."""
        monkeypatch.setattr(login, "OPTIONS", OPTIONS.replace("lock_timeout=3s", "lock_timeout=50ms"))
        scene = set_scene(cluster.primary)
        wait_for_replay(cluster.primary, cluster.standby)
        with synchronous(cluster.primary):
            cluster.standby.stop()
            token = scene.begin()
            single = Strategy.SINGLE_USER
            steps.create_secret(assemble(scene, token, single), PasswordPolicy())
            other = cluster.primary.connect(cluster.primary.superuser, cluster.primary.password)
            with closing(other), other.cursor() as cursor:
                cursor.execute(f'ALTER ROLE "{scene.role.name}" CONNECTION LIMIT 9')
                with pytest.raises(errors.RoleLockedError, match="Nothing was changed"):
                    steps.set_secret(assemble(scene, token, single, deadline=Clock().deadline()))
            cluster.standby.start()
        wait_for_replay(cluster.primary, cluster.standby)
        for server in (cluster.primary, cluster.standby):
            server.connect(scene.role.name, scene.role.password).close()
        for step in (steps.set_secret, steps.test_secret, steps.finish_secret):
            step(assemble(scene, token, single))
        assert lets_in(scene, scene.secret.document())

    @each_strategy
    def test_a_change_that_a_failover_loses_is_found_out_and_made_again(
        self,
        strategy: Strategy,
        cluster: Cluster,
        set_scene: Callable[..., Scene],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene = set_scene(cluster.primary)
        move(scene, cluster.writer.port)
        wait_for_replay(cluster.primary, cluster.standby)
        token = scene.begin()
        cluster.standby.stop()
        scene.take(token, "createSecret", "setSecret", "testSecret")
        cluster.fail_over()
        scene.fail(errors.LoginRefusedError, "finishSecret", token=token)
        assert scene.secret.labels["AWSCURRENT"] != token
        scene.take(token)
        document = scene.secret.document()
        cluster.standby.connect(document["username"], document["password"]).close()

    @pytest.mark.parametrize(
        ("strategy", "first"), [(Strategy.SINGLE_USER, "setSecret"), (Strategy.ALTERNATING_USERS, "finishSecret")]
    )
    def test_an_old_primary_that_comes_back_as_a_standby_is_waited_out(
        self,
        strategy: Strategy,
        first: str,
        cluster: Cluster,
        set_scene: Callable[..., Scene],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also where it alone has the new password: AWSCURRENT does not move to what the new primary refuses."""
        monkeypatch.setenv("ROTATION_STRATEGY", strategy)
        scene = set_scene(cluster.primary)
        move(scene, cluster.writer.port)
        wait_for_replay(cluster.primary, cluster.standby)
        token = scene.begin()
        cluster.standby.stop()
        scene.take(token, *STEPS[: STEPS.index(first)])
        cluster.fail_over()
        cluster.come_back()
        follows = Timer(1.0, lambda: setattr(cluster.writer, "target", ("127.0.0.1", cluster.standby.port)))
        follows.start()
        if first == "finishSecret":
            scene.fail(errors.LoginRefusedError, first, token=token)
        scene.take(token)
        follows.join()
        assert scene.secret.labels["AWSCURRENT"] == token
        document = scene.secret.document()
        cluster.standby.connect(document["username"], document["password"]).close()
        cluster.primary.query("SELECT pg_promote()")  # for who clears up
