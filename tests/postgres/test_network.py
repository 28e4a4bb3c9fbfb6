"""Connections that are really cut, stalled or delayed, and a server on its bad days: an error says so, in time."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from local.servers.postgres import run_postgres
from local.servers.proxy import Cut, Passage, Stall, cut_at, delay, run_proxy
from rotation_lambda import clients, errors
from rotation_lambda.credential import SslMode
from rotation_lambda.deadline import Deadline
from rotation_lambda.postgres import Postgres
from rotation_lambda.postgres.login import CONNECT_TIMEOUT_S
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import SHIPPED_BUNDLE
from tests.promises.test_crashes import GOODBYE, keeper, quick, server
from tests.worlds.clocks import Clock
from tests.worlds.crashes import FASTEST, World, world_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.servers.postgres import PostgresServer
    from local.servers.proxy import Direction, Proxy
    from local.servers.secrets_manager import SecretsManagerServer
    from rotation_lambda.credential import Credential

__all__ = ["keeper", "quick", "server"]

SHORT_S = 0.4


@dataclass(frozen=True)
class Hasty(Deadline):
    """A deadline that keeps nothing back, so that a test need not wait out what comes before a reserve."""

    def left(self, reserve: float = 0.0) -> float:
        return Deadline.left(self)


def soon() -> Deadline:
    return Hasty(time.monotonic() + SHORT_S)


@dataclass(frozen=True, slots=True)
class Line:
    """A world whose secret leads to the database by a proxy, and a rotation that has come to setSecret."""

    world: World
    proxy: Proxy
    token: str

    def set_password(self) -> errors.RotationError | None:
        failure = self.world.take("setSecret", self.token)
        assert failure is None or isinstance(failure, errors.RotationError)
        return failure

    def recover(self) -> None:
        self.proxy.rule = None
        self.world.deadline = Clock().deadline
        self.world.end_sessions()
        assert self.world.go_on(self.token) is None
        assert self.world.current_logs_in()


@pytest.fixture
def line(server: PostgresServer, keeper: SecretsManagerServer) -> Iterator[Line]:
    with run_proxy("127.0.0.1", server.port) as proxy, world_of(server, keeper, port=proxy.port) as world:
        token = world.begin()
        assert world.take("createSecret", token) is None
        yield Line(world, proxy, token)


def lengths(line: Line) -> dict[Direction, int]:
    """Tell how many bytes the longest connection of a setSecret passes each way."""
    found: dict[Direction, int] = {"ask": 0, "answer": 0}

    def rule(passage: Passage) -> None:
        found[passage.direction] = max(found[passage.direction], passage.position + len(passage.data))

    before = line.world.snapshot()
    line.proxy.rule = rule
    assert line.set_password() is None
    line.proxy.rule = None
    line.world.restore(before)
    return found


class TestDatabaseConnection:
    @pytest.mark.parametrize(("how", "places"), [(Cut, 25), (Stall, 5)])
    @pytest.mark.parametrize("direction", ["ask", "answer"])
    def test_broken_off_anywhere_leaves_somebody_who_logs_in(
        self, direction: Direction, how: type[Cut], places: int, line: Line
    ) -> None:
        total = lengths(line)[direction] - len(GOODBYE)  # it may get lost
        before = line.world.snapshot()
        for position in range(0, total, total // places)[:places]:
            line.world.restore(before)
            line.proxy.rule = cut_at(direction, position, how)
            line.world.deadline = soon
            failure = line.set_password()
            assert isinstance(failure, errors.DatabaseError), position
            line.recover()

    def test_slow_is_good_enough(self, line: Line) -> None:
        line.proxy.rule = delay(0.005)
        line.recover()

    @pytest.mark.parametrize("direction", ["ask", "answer"])
    @pytest.mark.parametrize("what", [b"BEGIN", b"ALTER ROLE"])
    def test_lost_before_commit_is_no_failure(self, what: bytes, direction: Direction, line: Line) -> None:
        """The statement or its answer; the step starts over, for nothing was changed."""
        cut: list[Passage] = []

        def rule(passage: Passage) -> None:
            if passage.direction == direction and what in passage.data and not cut:
                cut.append(passage)
                raise Cut

        line.proxy.rule = rule
        assert line.set_password() is None
        assert cut
        assert line.world.in_force() == line.token
        line.recover()

    @pytest.mark.parametrize("committed", [False, True])
    def test_lost_around_commit_is_found_out_by_the_next_try(self, *, committed: bool, line: Line) -> None:
        """Dropped after ALTER and before COMMIT, the old password is in force; after COMMIT, the new one."""
        changing: set[int] = set()

        def rule(passage: Passage) -> None:
            if passage.direction == "ask" and b"ALTER ROLE" in passage.data:
                changing.add(passage.connection)
            is_where = (passage.direction == "answer") == committed
            if is_where and passage.connection in changing and b"COMMIT" in passage.data:
                raise Cut

        line.proxy.rule = rule
        failure = line.set_password()
        if committed:
            assert failure is None  # a login has told
        else:
            assert isinstance(failure, errors.PasswordChangeError)
            assert "COMMIT was not confirmed" in failure.what
            assert failure.sqlstate is None
        assert line.world.in_force() == (line.token if committed else line.world.labels["AWSCURRENT"])
        line.recover()


@contextmanager
def silence() -> Iterator[int]:
    """Listen on a port, and say nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """Listen on a port whose queue is full, so that a SYN is dropped, as by a security group."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)  # noqa: FBT003 - the standard library's
            knock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def credential(world: World, **changes: Any) -> Credential:  # noqa: ANN401 - a credential's own
    return replace(world.credential("AWSCURRENT"), **changes)


class TestNobodyThere:
    @pytest.mark.parametrize("nobody", [silence, black_hole])
    def test_is_told_before_the_deadline(self, nobody: Any, line: Line) -> None:  # noqa: ANN401 - either
        told = r"no answer from 127\.0\.0\.1 within 0\.[0-4] seconds"
        with nobody() as port, pytest.raises(errors.DatabaseTimeoutError, match=told):
            Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, soon()).log_in(credential(line.world, port=port))

    def test_is_not_said_where_a_costly_verifier_took_the_time(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Libpq computes its iterations in one call, which nothing interrupts, and would again at every try."""
        spent = count()
        monkeypatch.setattr(time, "process_time", lambda: float(next(spent)))
        door = Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, soon())
        with silence() as port, pytest.raises(errors.AuthenticationMethodError, match="own CPU time") as caught:
            door.log_in(credential(line.world, port=port))
        assert "scram_iterations" in caught.value.hint
        assert not caught.value.unknown

    def test_is_asked_for_with_time_of_its_own_after_a_slow_look_up(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A first name server that is dead costs 5 seconds, a login's whole time."""
        clock, slept = time.monotonic, list[float]()
        monkeypatch.setattr(time, "monotonic", lambda: clock() + sum(slept))

        def look_up(_: Credential) -> list[str]:
            slept.append(CONNECT_TIMEOUT_S)
            return ["127.0.0.1"]

        Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, Deadline.after(60_000), look_up).log_in(
            credential(line.world)
        ).close()
        assert len(slept) == 1

    def test_is_not_said_where_the_look_up_took_the_time(self, line: Line) -> None:
        def look_up(_: Credential) -> list[str]:
            time.sleep(SHORT_S)
            return ["127.0.0.1"]

        door = Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, soon(), look_up)
        with pytest.raises(
            errors.DatabaseTimeoutError, match=r"DNS took 0\.\d seconds, and no time was left"
        ) as caught:
            door.log_in(credential(line.world))
        assert "DNS server of the function's VPC" in caught.value.hint
        assert "security group" not in caught.value.hint


class TestSecretsManagerConnection:
    """The client is the function's own."""

    @pytest.fixture
    def reach(
        self, keeper: SecretsManagerServer, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[int, Clock], SecretsManager]:
        """Reach the world's secret by a proxy, within thirty seconds of the clock."""

        def to(port: int, clock: Clock) -> SecretsManager:
            environment = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{port}"}
            for name, value in {**keeper.environment, **environment}.items():
                monkeypatch.setenv(name, value)
            return SecretsManager(clients.secrets_manager(), line.world.arn, Deadline(30, clock.now, clock.sleep))

        return to

    def test_reset_once_is_tried_again(
        self, keeper: SecretsManagerServer, line: Line, reach: Callable[[int, Clock], SecretsManager]
    ) -> None:
        def rule(passage: Passage) -> None:
            if passage.connection == 1:
                raise Cut(len(passage.data) // 2)

        with run_proxy("127.0.0.1", keeper.port, rule) as proxy:
            versions = reach(proxy.port, Clock()).describe_secret()
            assert versions.current == line.world.labels["AWSCURRENT"]
            assert proxy.connections == 2

    def test_so_slow_that_time_is_up_is_told_before_the_deadline(
        self, keeper: SecretsManagerServer, reach: Callable[[int, Clock], SecretsManager]
    ) -> None:
        clock = Clock()

        def rule(passage: Passage) -> None:
            clock.slept += 12
            raise Cut

        with run_proxy("127.0.0.1", keeper.port, rule) as proxy:
            secrets = reach(proxy.port, clock)
            with pytest.raises(errors.SecretsManagerError, match="DescribeSecret got no answer"):
                secrets.describe_secret()
            assert clock.slept < 25
            connections = proxy.connections
            with pytest.raises(errors.SecretsManagerError, match="was not called: the function's time is up"):
                secrets.describe_secret()
            assert proxy.connections == connections == 2

    def test_cut_for_good_names_the_call_and_the_way_there(
        self, keeper: SecretsManagerServer, reach: Callable[[int, Clock], SecretsManager]
    ) -> None:
        with run_proxy("127.0.0.1", keeper.port, cut_at("answer", 20)) as proxy:
            with pytest.raises(errors.SecretsManagerError, match="DescribeSecret got no answer") as caught:
                reach(proxy.port, Clock()).describe_secret()
            assert proxy.connections == clients.READS
        assert "interface endpoint" in caught.value.hint


class TestRestart:
    def test_between_any_two_effects_leaves_somebody_who_logs_in(
        self, server: PostgresServer, keeper: SecretsManagerServer
    ) -> None:
        with world_of(server, keeper) as world:
            token = world.begin()
            assert world.take("createSecret", token) is None
            start = world.snapshot()
            assert world.take("setSecret", token) is None
            effects = world.effects[-world.last :]
            for number, effect in enumerate(effects):
                world.restore(start)
                failure = world.take("setSecret", token, {("before", number): world.restart})
                assert failure is None or isinstance(failure, errors.DatabaseError), effect
                assert world.go_on(token) is None
                assert world.current_logs_in()


@pytest.fixture(scope="module")
def standby() -> Iterator[PostgresServer]:
    """A server that has gone into recovery."""
    with run_postgres(settings={**FASTEST, "hot_standby": "on"}) as server:
        yield server


class TestStandby:
    @contextmanager
    def begun(self, standby: PostgresServer, keeper: SecretsManagerServer) -> Iterator[tuple[World, str]]:
        """Begin a rotation on a primary that becomes a standby then."""
        with world_of(standby, keeper) as world:
            token = world.begin()
            assert world.take("createSecret", token) is None
            (standby.data / "standby.signal").touch()
            world.restart()
            try:
                yield world, token
            finally:
                if standby.query("SELECT pg_is_in_recovery()") == [(True,)]:
                    standby.query("SELECT pg_promote()")

    def test_is_named_and_nothing_is_changed(self, standby: PostgresServer, keeper: SecretsManagerServer) -> None:
        with self.begun(standby, keeper) as (world, token):
            failure = world.take("setSecret", token)
            assert isinstance(failure, errors.DatabaseReadOnlyError)
            assert "writer endpoint" in failure.hint
            assert world.in_force() == world.labels["AWSCURRENT"]
            standby.query("SELECT pg_promote()")
            assert world.go_on(token) is None

    def test_is_waited_for_until_it_is_the_primary(self, standby: PostgresServer, keeper: SecretsManagerServer) -> None:
        with self.begun(standby, keeper) as (world, token):
            promoted = Clock(meanwhile=lambda: standby.query("SELECT pg_promote()"))
            world.deadline = promoted.deadline
            assert world.take("setSecret", token) is None
            assert promoted.slept > 0
