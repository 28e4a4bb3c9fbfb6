"""Killed at every effect it has outside, the function locks nobody out, whatever its surroundings do next.

A step keeps nothing but what it does outside, so two crashes that leave the same world have the same future. Each way
to go on is run once from each world that crashes leave, until it comes to a world from which its rest has been run, or,
with CRASHES=every, to its end from each single crash, and over HTTP.
What was tried is a table in docs/testing.md; CRASHES=write brings that up to date.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import pytest

from local.servers import rotation
from local.servers.proxy import Cut, Passage, Proxy, run_proxy
from local.servers.worker import KILLED, Worker, run_worker
from rotation_lambda import errors
from rotation_lambda.credential import SslMode
from rotation_lambda.postgres import Postgres, login, session
from rotation_lambda.postgres.session import OPTIONS
from rotation_lambda.settings import SHIPPED_BUNDLE, Strategy
from tests.worlds import sample
from tests.worlds.clocks import Clock
from tests.worlds.crashes import NO_ACTS, Act, Acts, KilledError, KnownFutureError, Snapshot, World, kill, world_of
from tests.worlds.sample import SEEN, seen
from tests.worlds.tried import PAGE, WHOSE, Tried, first_cell, in_all, names_beside, rows_of, tried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer

__all__ = ["seen", "tried"]

pytestmark = [pytest.mark.usefixtures("seen"), pytest.mark.costly(sample.MATRIX)]

IDLE_S = 0.2
_One = TypeVar("_One")
GOODBYE = b"X\0\0\0\4"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Let threads and test take turns at once, let a lock be waited for for a moment only, and log nothing."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(login, "OPTIONS", OPTIONS.replace("lock_timeout=3s", "lock_timeout=5ms"))
        patch.setitem(session._SETTINGS, "scram_iterations", (160000, "'1'"))
        patch.setattr(session, "LEAST_ITERATIONS", 1)
        yield
    logging.disable(logging.NOTSET)
    sys.setswitchinterval(usual)


@pytest.fixture(scope="module")
def server(plain_postgres: PostgresServer) -> PostgresServer:
    return plain_postgres


@pytest.fixture(scope="module")
def keeper(secrets_manager: SecretsManagerServer) -> SecretsManagerServer:
    return secrets_manager


@dataclass(frozen=True, slots=True)
class Stage:
    """A step, the world as it finds it, what else happens meanwhile, and the effects that it has then."""

    step: str
    start: Snapshot
    acts: Acts
    effects: list[str]

    def moments(self) -> Iterator[tuple[str, int]]:
        """Yield when it can be killed: before its first effect, and after each (which is before the next one)."""
        yield "before", 0
        yield from (("after", number) for number in range(len(self.effects)))

    def and_at(self, point: tuple[str, int], act: Act) -> Acts:
        """Return what happens, with one act more."""
        first = self.acts.get(point)

        def both() -> None:
            if first:
                first()
            act()

        return {**self.acts, point: both}


@dataclass(slots=True)
class Matrix:
    """Runs every continuation from every crash."""

    world: World
    setting: str = ""
    clean: list[list[str]] = field(default_factory=list)
    crashes: int = 0

    def __post_init__(self) -> None:
        self.world.knows = self.knows

    def stages(self, token: str, acts: Mapping[str, Acts] = {}) -> list[Stage]:
        """Rotate, and keep each step as it was; `clean` is what an undisturbed rotation does, be it the next one."""
        stages = [self.stage(step, token, acts.get(step, NO_ACTS)) for step in rotation.STEPS]
        self.world.effects.clear()
        self.world.rotate()
        self.clean = [[effect for stage in stages for effect in stage.effects], list(self.world.effects)]
        return stages

    def drawn(self, moments: Iterable[_One]) -> Iterator[_One]:
        """Yield the moments that are run, and count them all."""
        for moment in moments:
            if sample.drawn(self.crashes):
                yield moment
            self.crashes += 1

    def stage(self, step: str, token: str, acts: Acts = NO_ACTS) -> Stage:
        start = self.world.snapshot()
        self.world.effects.clear()
        self.world.take(step, token, acts)
        return Stage(step, start, acts, list(self.world.effects))

    def is_new(self, *key: str) -> bool:
        """Tell whether the continuation is still to be run from this world, wherever server and role are set so."""
        return SEEN.is_new(str(self.world.strategy), self.setting, *key)

    def knows(self, rest: tuple[str, ...], token: str) -> bool:
        """Tell whether the rest of a continuation, and all that comes after it, has been run from a world like this."""
        which = list(self.world._secret.versions).index(token)
        return not self.is_new("the rest", *rest, str(which), self.world.fingerprint())

    def settle(self) -> None:
        """Rotate until AWSCURRENT logs in, twice at most; the rotation after that is like any other."""
        if not self.is_new("settles", self.world.fingerprint()):
            return
        for _ in range(2):
            if not self.world.current_logs_in():
                self.world.heal()
        assert self.world.current_logs_in(), self.world.tell("AWSCURRENT does not log in after two rotations")
        if self.is_new("the next rotation", self.world.fingerprint(labelled=True)):
            self.world.effects.clear()
            assert self.world.rotate() is None, self.world.tell("the next rotation fails")
            assert not self.clean or self.world.effects in self.clean, self.world.tell("the next rotation is not clean")
            assert self.world.current_logs_in()

    def go_on(self, token: str, step: str) -> None:
        """Run every continuation from here."""
        here, fingerprint = self.world.snapshot(), self.world.fingerprint()
        for name, go_on in CONTINUATIONS.items():
            if self.is_new(name, step if "step" in name else "", fingerprint):
                self.world.restore(here)
                self.world.story.append(f"then: {name}")
                with suppress(KnownFutureError):
                    go_on(self.world, token, step)
                    self.settle()


# What comes after a crash. Each is told the token and the step in which the function was killed.

SUCCESS, ANYTHING = "succeeds, and settles", "settles"


def goes_on(world: World, token: str, step: str) -> None:
    steps = rotation.STEPS[rotation.STEPS.index(step) :]
    assert world.go_on(token, steps, rest=SUCCESS) is None, world.tell("no help")


def starts_over(world: World, token: str, step: str) -> None:
    assert world.go_on(token, rest=SUCCESS) is None, world.tell("no help")


def finishes_out_of_turn(world: World, token: str, step: str) -> None:
    before = world.current_logs_in()
    world.take("finishSecret", token)
    assert world.current_logs_in() >= before, world.tell("what does not log in was promoted")
    starts_over(world, token, step)


def is_replaced(world: World, token: str, step: str, *, cancelled: bool) -> None:
    if cancelled:
        world.cancel()
    assert world.rotate(rest=SUCCESS) is None, world.tell("no help")


def is_replaced_and_comes_late(world: World, token: str, step: str) -> None:
    world.cancel()
    world.rotate()
    assert isinstance(world.take(step, token), errors.RotationRefusedError), world.tell("a stale invocation is let in")
    assert world.current_logs_in(), world.tell("a stale invocation has undone a rotation")


def is_overruled(world: World, token: str, step: str, *, works: bool) -> None:
    world.put_by_hand(works=works)
    assert world.heal(rest=SUCCESS) is None, world.tell("no help")


def is_overruled_and_goes_on(world: World, token: str, step: str, *, works: bool) -> None:
    world.put_by_hand(works=works, abandon=False)
    world.go_on(token, rest=ANYTHING)


CONTINUATIONS: dict[str, Callable[[World, str, str], None]] = {
    "the killed step comes again, then the rest": goes_on,
    "createSecret comes again, then the rest": starts_over,
    "finishSecret comes out of turn, then all from createSecret": finishes_out_of_turn,
    "the rotation is cancelled, AWSPENDING removed, a new rotation": partial(is_replaced, cancelled=True),
    "a new rotation takes AWSPENDING over": partial(is_replaced, cancelled=False),
    "cancelled, a new rotation, and then the killed step again": is_replaced_and_comes_late,
    "PutSecretValue by hand, with the database's new password; a new rotation": partial(is_overruled, works=True),
    "the same, but AWSPENDING stays and createSecret comes again": partial(is_overruled_and_goes_on, works=True),
    "PutSecretValue by hand, of a wrong password; a new rotation": partial(is_overruled, works=False),
    "the same, but AWSPENDING stays and createSecret comes again ": partial(is_overruled_and_goes_on, works=False),
}

# What is killed.

STRATEGIES = pytest.mark.parametrize("strategy", WHOSE)
SECRETS = pytest.mark.parametrize(("name", "rotations"), [("a fresh secret", 0), ("a secret rotated before", 1)])
BOTH_PUT_BACK = pytest.mark.parametrize("strategy", [Strategy.SINGLE_USER, Strategy.SUPERUSER])


def kill_everywhere(world: World, matrix: Matrix, stage: Stage, token: str) -> None:
    """Kill the step before and after each of its effects, and run every continuation from there."""
    for point in matrix.drawn(stage.moments()):
        world.restore(stage.start)
        assert isinstance(world.take(stage.step, token, stage.and_at(point, kill)), KilledError)
        world.readmit()
        matrix.go_on(token, stage.step)


@STRATEGIES
@SECRETS
@pytest.mark.row("a rotation of {name}")
def test_a_rotation(
    name: str, rotations: int, strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with world_of(server, keeper, strategy=strategy) as world:
        for _ in range(rotations):
            assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        for stage in matrix.stages(token):
            kill_everywhere(world, matrix, stage, token)
        tried(matrix.crashes, len(CONTINUATIONS))


@dataclass(frozen=True, slots=True)
class Setting:
    """A server or a role that is set otherwise; `stored` is what the role's verifier was made by."""

    stored: str = "scram-sha-256"
    method: str = "scram-sha-256"
    on_server: str | None = None
    on_role: str = ""
    standby_away: bool = False


STANDBY = "COMMIT waits for a standby that is away"
SETTINGS = {
    "idle_session_timeout on the role": Setting(on_role=f"SET idle_session_timeout = '{IDLE_S:.3f}s'"),
    "password_encryption = md5 on the role": Setting(on_role="SET password_encryption = 'md5'"),
    "password_encryption = md5 on the server": Setting(on_server="md5"),
    "an md5 verifier, md5 in pg_hba.conf": Setting("md5", "md5"),
    STANDBY: Setting(on_role="SET synchronous_commit = 'on'", standby_away=True),
}


@contextmanager
def world_set(
    setting: Setting,
    server: PostgresServer,
    keeper: SecretsManagerServer,
    strategy: Strategy = Strategy.SINGLE_USER,
) -> Iterator[World]:
    with world_of(server, keeper, strategy=strategy, encryption=setting.stored, options=setting.on_role) as world:
        if strategy is not Strategy.SINGLE_USER:
            world.alter(setting.on_role, world.superuser)
        away = "away" if setting.standby_away else None
        server.configure(password_encryption=setting.on_server, synchronous_standby_names=away)
        server.use_hba(f"host all {world.role} all {setting.method}", server.default_hba)
        try:
            yield world
        finally:
            server.configure(password_encryption=None, synchronous_standby_names=None)
            server.use_hba(server.default_hba)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.row("{name}")
def test_a_rotation_where_the_server_is_set_otherwise(
    name: str, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with world_set(SETTINGS[name], server, keeper) as world:
        matrix, token = Matrix(world, name), world.begin()
        begun = world.snapshot()
        commit = ("after", matrix.stages(token)[1].effects.index("COMMIT"))
        world.restore(begun)
        acts: Acts = {commit: partial(time.sleep, IDLE_S * 1.5)} if "idle" in name else {}
        for stage in matrix.stages(token, {"setSecret": acts}):
            kill_everywhere(world, matrix, stage, token)
        tried(matrix.crashes, len(CONTINUATIONS))


def test_an_orphan_is_not_offered_by_md5(server: PostgresServer, keeper: SecretsManagerServer) -> None:
    """Where new verifiers are md5 too, nobody is let in by a cancelled version; what to do, the error says."""
    with world_set(Setting("md5", "md5", on_server="md5"), server, keeper) as world:
        assert world.go_on(world.begin(), rotation.STEPS[:2]) is None
        world.cancel()
        failure = world.rotate()
        assert isinstance(failure, errors.LoginRefusedError)
        assert "1 retained versions could not be tried" in failure.what


@STRATEGIES
@pytest.mark.parametrize("name", ["an empty version", "a copy"])
@pytest.mark.row("testSecret alone, with {name}")
def test_the_test_of_a_rotation_that_is_being_switched_on(
    name: str, strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with world_of(server, keeper, strategy=strategy) as world:
        matrix = Matrix(world)
        before = world.snapshot()
        matrix.stages(world.begin())
        world.restore(before)
        with rotation.begin_test_only(world.client, world.arn, keeper.function_arn, empty=name != "a copy") as token:
            stage = matrix.stage("testSecret", token)
            crashes = []
            for point in stage.moments():
                world.restore(stage.start)
                assert isinstance(world.take("testSecret", token, {point: kill}), KilledError)
                assert world.current_logs_in()
                assert world.take("testSecret", token) is None
                crashes.append(world.snapshot())
        for crash in crashes:
            world.restore(crash)
            world.cancel()
            matrix.settle()
        matrix.crashes = len(crashes)
        tried(matrix.crashes, 2)


# Put back.

SHUT: dict[str, tuple[Callable[[World], None], bool]] = {
    "the new password is refused": (World.expire, True),
    "a login gets no answer about it": (World.shut, True),
    "nor is the old one let in again": (World.expire, False),
}


def shut_after_the_change(world: World, matrix: Matrix, token: str, shut: Act) -> Stage:
    """Return setSecret as it is when every login is in vain after the change."""
    created = matrix.stages(token)[1].start
    world.restore(created)
    change = ("after", matrix.stage("setSecret", token).effects.index("COMMIT"))
    world.restore(created)
    stage = matrix.stage("setSecret", token, {change: shut})
    world.readmit()
    return stage


def put_back(world: World, matrix: Matrix, token: str, shut: Act, *, lifted: bool) -> Stage:
    """Return the same; until the put-back, if `lifted`."""
    stage = shut_after_the_change(world, matrix, token, shut)
    assert stage.effects.count("COMMIT") == 2
    if lifted:
        put_back = len(stage.effects) - 1 - stage.effects[::-1].index("COMMIT")
        world.restore(stage.start)
        stage = matrix.stage("setSecret", token, {**stage.acts, ("after", put_back): world.readmit})
    return stage


@BOTH_PUT_BACK
@pytest.mark.parametrize("name", SHUT)
@pytest.mark.row("a put-back: {name}")
def test_a_put_back(
    name: str, strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    shut, lifted = SHUT[name]
    with world_of(server, keeper, strategy=strategy) as world:
        assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        kill_everywhere(world, matrix, put_back(world, matrix, token, partial(shut, world), lifted=lifted), token)
        tried(matrix.crashes, len(CONTINUATIONS))


@pytest.mark.row("a put-back, idle_session_timeout on the role")
def test_a_put_back_of_an_idle_session(server: PostgresServer, keeper: SecretsManagerServer, tried: Tried) -> None:
    idle = "idle_session_timeout on the role"
    with world_set(SETTINGS[idle], server, keeper) as world:

        def wait() -> None:
            time.sleep(IDLE_S * 1.5)
            world.expire()

        matrix, token = Matrix(world, idle), world.begin()
        kill_everywhere(world, matrix, put_back(world, matrix, token, wait, lifted=True), token)
        tried(matrix.crashes, len(CONTINUATIONS))


@SECRETS
@pytest.mark.row("alternating users: the new password of {name} is refused")
def test_a_new_password_that_is_refused(
    name: str, rotations: int, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    """Under alternating users nothing is put back, for nothing was taken away."""
    with world_of(server, keeper, strategy=Strategy.ALTERNATING_USERS) as world:
        for _ in range(rotations):
            assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        stage = shut_after_the_change(world, matrix, token, world.expire)
        assert stage.effects.count("COMMIT") == 1
        kill_everywhere(world, matrix, stage, token)
        tried(matrix.crashes, len(CONTINUATIONS))


# What a session that is lost leaves at work.


def cut_off_everywhere(world: World, matrix: Matrix, stage: Stage, token: str, since: int = 0) -> None:
    """Lose the sessions before each effect, and with each COMMIT on its way; the function goes on, and says what is.

    The standby is back when the step has ended; where a COMMIT is on its way, also before.
    """

    def cut_off_and_confirm() -> None:
        world.cut_off(committed=True)
        world.confirm()

    commits = [("before", number) for number, name in enumerate(stage.effects) if name == "COMMIT"]
    cuts: list[tuple[tuple[str, int], Act]] = [
        *((point, world.cut_off) for point in stage.moments()),
        *((point, partial(world.cut_off, committed=True)) for point in commits),
        *((point, cut_off_and_confirm) for point in commits),
    ]
    for point, cut_off in matrix.drawn([cut for cut in cuts if cut[0][1] >= since]):
        world.restore(stage.start)
        world.take(stage.step, token, stage.and_at(point, cut_off))
        world.readmit()
        with suppress(KnownFutureError):
            assert world.go_on(token, rest=SUCCESS) is None, world.tell("no help")
            matrix.settle()


@STRATEGIES
@pytest.mark.row("COMMIT waits for a standby that comes back, and sessions are cut off")
def test_sessions_are_cut_off(
    strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with world_set(SETTINGS[STANDBY], server, keeper, strategy) as world:
        assert world.rotate() is None
        matrix, token = Matrix(world, STANDBY), world.begin()
        start, world.afterwards = world.snapshot(), world.confirm
        for stage in matrix.stages(token):
            if "ALTER ROLE" in stage.effects:
                cut_off_everywhere(world, matrix, stage, token)
        if not world.alternates:
            world.restore(start)
            stage = put_back(world, matrix, token, world.expire, lifted=True)
            cut_off_everywhere(world, matrix, stage, token, stage.effects.index("COMMIT"))
        tried(matrix.crashes, 1)


# What somebody else does while the function is at work.


def another_rotation(world: World, token: str) -> None:
    world.cancel()
    world.rotate()


def half_a_rotation(world: World, token: str) -> None:
    world.cancel()
    world.go_on(world.begin(), rotation.STEPS[:2])


def a_twin(world: World, token: str) -> None:
    world.go_on(token)


def half_a_twin(world: World, token: str) -> None:
    world.go_on(token, rotation.STEPS[:2])


def a_cancel(world: World, token: str) -> None:
    world.cancel()


def a_hand(world: World, token: str, *, works: bool) -> None:
    world.put_by_hand(works=works)


OTHERS: dict[str, Callable[[World, str], None]] = {
    "cancel, and a whole new rotation": another_rotation,
    "cancel, and half a new rotation": half_a_rotation,
    "a twin's whole rotation, same token": a_twin,
    "half a twin's rotation, same token": half_a_twin,
    "cancel": a_cancel,
    "PutSecretValue by hand, with the database's new password": partial(a_hand, works=True),
    "PutSecretValue by hand, of a wrong password": partial(a_hand, works=False),
}


def interrupt_everywhere(world: World, matrix: Matrix, stage: Stage, token: str, other: str) -> None:
    """Let somebody else act before every effect and after the last one, and the function go on."""
    for point in matrix.drawn(stage.moments()):
        world.restore(stage.start)
        after: dict[str, str | None] = {}

        def act() -> None:
            nonlocal after
            with world.readmitted() as possible:
                if possible:
                    before = world.prove()
                    OTHERS[other](world, token)
                    after = {user: now for user, now in world.prove().items() if now != before[user]}

        world.take(stage.step, token, stage.and_at(point, act))
        world.readmit()
        assert after.items() <= world.prove().items(), world.tell(f"a late {stage.step} has undone {other}")
        with suppress(KnownFutureError):
            if not world.abandoned:
                world.go_on(token, rest=ANYTHING)
            matrix.settle()


@STRATEGIES
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.row("during a rotation: {other}")
def test_others_act_during_a_rotation(
    other: str, strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with world_of(server, keeper, strategy=strategy) as world:
        if not world.alternates:  # for them the first one has most to do, and to get into each other's way
            assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        for stage in matrix.stages(token):
            if strategy is Strategy.SUPERUSER and stage.step != "setSecret":  # where it is no more than a single user
                continue
            interrupt_everywhere(world, matrix, stage, token, other)
        tried(matrix.crashes, 1)


@BOTH_PUT_BACK
@pytest.mark.parametrize("other", [other for other in OTHERS if "half" not in other and "wrong" not in other])
@pytest.mark.row("during a put-back: {other}")
def test_others_act_during_a_put_back(
    other: str, strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with world_of(server, keeper, strategy=strategy) as world:
        assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        stage = put_back(world, matrix, token, world.expire, lifted=True)
        interrupt_everywhere(world, matrix, stage, token, other)
        tried(matrix.crashes, 1)


@STRATEGIES
def test_a_rotation_cancelled_while_it_waits_for_the_lock(
    strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer
) -> None:
    """Who waits long enough for somebody to lose patience must not change the password of a cancelled rotation."""
    with world_of(server, keeper, strategy=strategy) as world:
        if world.alternates:  # what is locked is the row of a role that is there
            assert world.rotate() is None
            assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        stage = matrix.stages(token)[1]
        world.restore(stage.start)
        before = world.prove()
        holding = world.hold(world.next_user)

        def lose_patience() -> None:
            world.cancel()
            holding.close()

        before_the_change = ("before", max(n for n, name in enumerate(stage.effects) if name == "BEGIN READ"))
        failure = world.take("setSecret", token, {before_the_change: lose_patience})
        assert isinstance(failure, errors.RotationRefusedError)
        assert world.prove() == before


def test_a_transaction_that_outlives_its_function_is_named(
    server: PostgresServer, keeper: SecretsManagerServer
) -> None:
    """Where a machine vanishes, its server learns it late; until then the row is held, and the old password works."""
    with world_of(server, keeper) as world:
        token = world.begin()
        assert world.take("createSecret", token) is None
        left = Postgres(SslMode.DISABLE, SHIPPED_BUNDLE, Clock().deadline()).log_in(world.credential("AWSCURRENT"))
        left.hold_role(world.credential("AWSCURRENT"))
        failure = world.take("setSecret", token)
        assert isinstance(failure, errors.RoleLockedError)
        assert f"of user '{world.role}'" in failure.what
        assert world.current_logs_in()
        left.close()
        assert world.go_on(token) is None


# A process that is really killed, by what stands between it and the servers.


@dataclass(slots=True)
class Killer:
    """Kills the function's process when one side is about to speak for the `at`th time."""

    worker: Worker
    at: int = sys.maxsize
    turns: set[tuple[int, int]] = field(default_factory=set)

    def watch(self, proxy: Proxy) -> None:
        def rule(passage: Passage) -> None:
            if passage.data == GOODBYE:  # nobody waits for it: it may come when all is over
                return
            self.turns.add((proxy.port, passage.turn))
            if len(self.turns) > self.at:
                self.worker.kill()
                raise Cut

        proxy.rule = rule


@pytest.mark.parametrize(
    ("name", "rotations", "strategy"),
    [
        ("a fresh secret", 0, Strategy.SINGLE_USER),
        ("a secret rotated before", 1, Strategy.SINGLE_USER),
        ("a fresh secret", 0, Strategy.ALTERNATING_USERS),
    ],
)
@pytest.mark.row("a real process, {name}")
def test_a_real_process(
    name: str, rotations: int, strategy: Strategy, server: PostgresServer, keeper: SecretsManagerServer, tried: Tried
) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(run_proxy("127.0.0.1", server.port))
        secrets = stack.enter_context(run_proxy("127.0.0.1", keeper.port))
        world = stack.enter_context(world_of(server, keeper, strategy=strategy, port=database.port))
        endpoint = f"http://127.0.0.1:{secrets.port}"
        environment = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": endpoint, "ROTATION_STRATEGY": strategy}
        worker = stack.enter_context(run_worker({**keeper.environment, **environment}))
        for _ in range(rotations):
            assert world.rotate() is None
        matrix, token = Matrix(world), world.begin()
        for stage in matrix.stages(token):
            event = {"Step": stage.step, "SecretId": world.arn, "ClientRequestToken": token}
            killer, outcome = Killer(worker, at=-1), KILLED
            while outcome == KILLED:
                killer.at = next(at for at in count(killer.at + 1) if sample.drawn(matrix.crashes + at))
                world.restore(stage.start)
                killer.turns.clear()
                for proxy in (database, secrets):
                    killer.watch(proxy)
                outcome = worker.invoke(event)
                for proxy in (database, secrets):
                    proxy.rule = None
                if outcome == KILLED:
                    world.story.append(f"{stage.step}: the process was killed at turn {killer.at}")
                    matrix.go_on(token, stage.step)
            assert outcome == "done", world.tell(outcome)
            matrix.crashes += len(killer.turns)
        tried(matrix.crashes, len(CONTINUATIONS))


@pytest.mark.costly("the table")  # always
def test_the_table_has_a_row_for_each_of_these_tests_and_adds_up(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [first_cell(row) for row in rows_of(text)] == names_beside(request.node)
    assert f"\n{in_all(rows_of(text))}\n" in text
