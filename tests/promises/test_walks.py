"""Rotations, crashes, faults and other people's doings in any order: after every step somebody can log in.

The walks are the same ones each time; WALKS=5000 takes more. The strategies with a superuser get half as many each.
They are taken in parts, of which `make test` takes one or two, other ones each day.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from local.servers import rotation
from rotation_lambda import errors
from rotation_lambda.settings import Strategy
from tests.promises.test_crashes import Matrix, keeper, quick, server
from tests.worlds.crashes import KilledError, kill, world_of
from tests.worlds.sample import seen
from tests.worlds.tried import WHOSE

if TYPE_CHECKING:
    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from tests.worlds.crashes import Act, Snapshot, World

__all__ = ["keeper", "quick", "seen", "server"]

pytestmark = pytest.mark.usefixtures("seen")

WALKS = int(os.environ.get("WALKS", "150"))
PART = 25
MOST_ABANDONED = 4  # the newest five versions without a label are tried

effects = st.runner().flatmap(lambda walk: st.integers(0, walk.most))
changes = st.runner().flatmap(lambda walk: st.integers(walk.first_change - 2, walk.last_change))
moments = st.sampled_from(["before", "after"])


def throttle() -> None:
    raise errors.SecretsManagerError("… failed with ThrottlingException.")


def stale_read() -> None:
    raise errors.MissingVersionError("Version … has no value.")


def reset() -> None:
    raise psycopg2.OperationalError("server closed the connection unexpectedly")


def time_out() -> None:
    raise errors.DatabaseTimeoutError("… no answer within 5.0 seconds.")


# What can go wrong at an effect of that name; its answer may get lost, too.
FAULTS: dict[str, list[Act]] = {
    "log in": [time_out],
    "log out": [],
    "GetSecretValue": [throttle, stale_read],
    "SELECT pg_try_advisory_lock": [],
    "SELECT it.rolname::text,": [reset],
    "SELECT current_user::text,": [reset],
    "BEGIN READ": [reset],
    "SAVEPOINT change": [reset],
    "SET LOCAL": [reset],
    "ALTER ROLE": [reset],
    "COMMIT": [reset],
}


class Walk(RuleBasedStateMachine):
    """One secret, and the rotation that Secrets Manager is at, if any; `changes` are the effects of setSecret alone."""

    def __init__(self, world: World, starts: list[Snapshot], changes: list[list[str]]) -> None:
        super().__init__()
        self.world = world
        self.starts = starts
        self.most = max(map(len, changes)) + 1
        self.first_change, *_, self.last_change = sorted(effects.index("COMMIT") for effects in changes)
        self.token: str | None = None
        self.taken = 0
        self.abandoned = 0

    @initialize(rotations=st.integers(0, 1))
    def start(self, rotations: int) -> None:
        self.world.restore(self.starts[rotations])

    # Secrets Manager's part.

    @rule()
    @precondition(lambda self: self.token is None)
    def begin(self) -> None:
        self.token, self.taken = self.world.begin(), 0

    @rule()
    @precondition(lambda self: self.token)
    def take_the_next_step(self) -> None:
        self._take({})

    @rule(again=st.integers(0, 3))
    @precondition(lambda self: self.token)
    def take_an_earlier_step(self, again: int) -> None:
        assert self.token is not None
        self.world.take(rotation.STEPS[min(again, self.taken)], self.token)

    @rule(number=effects, when=moments)
    @precondition(lambda self: self.token)
    def take_a_step_and_be_killed(self, number: int, when: str) -> None:
        self._take({(when, number): kill})

    @rule(number=effects, when=moments, which=st.integers(0, 1))
    @precondition(lambda self: self.token)
    def take_a_step_through_a_fault(self, number: int, when: str, which: int) -> None:
        def fail() -> None:
            faults = FAULTS.get(self.world.at, [throttle])
            if faults:
                faults[which % len(faults)]()

        self._take({(when, number): fail})

    @rule(number=effects, restart=st.sampled_from([False] * 7 + [True]))
    @precondition(lambda self: self.token)
    def take_a_step_while_the_server_ends_the_session(self, number: int, *, restart: bool) -> None:
        self._take({("before", number): self.world.restart if restart else self.world.end_sessions})

    @rule(shut=st.sampled_from(["expire", "shut"]), change=changes, later=st.integers(3, 20))
    @precondition(lambda self: self.token)
    def take_a_step_while_logins_are_refused(self, shut: str, change: int, later: int) -> None:
        self._take({("after", change): getattr(self.world, shut), ("after", change + later): self.world.readmit})
        self.world.readmit()

    @rule(number=effects, steps=st.integers(1, 4))
    @precondition(lambda self: self.token)
    def take_a_step_beside_a_twin(self, number: int, steps: int) -> None:
        token = self.token
        assert token is not None

        def go_on() -> None:
            self.world.go_on(token, rotation.STEPS[:steps])

        self._take({("before", number): go_on})

    @rule(number=effects, steps=st.integers(1, 4))
    @precondition(lambda self: self.token and self.abandoned < MOST_ABANDONED)
    def take_a_step_beside_a_new_rotation(self, number: int, steps: int) -> None:
        def replace() -> None:
            self.world.cancel()
            self.world.go_on(self.world.begin(), rotation.STEPS[:steps])
            self._abandon()

        self._take({("before", number): replace})

    def _take(self, acts: dict[tuple[str, int], Act]) -> None:
        token = self.token
        assert token is not None
        step = rotation.STEPS[self.taken]
        failure = self.world.take(step, token, acts)
        if failure is None and self.token == token:
            self.taken += 1
            if step == rotation.STEPS[-1]:
                self.world.abandoned = False
                self.token = None
        elif isinstance(failure, errors.RotationRefusedError):
            self.token = None
        elif not isinstance(failure, KilledError):
            self.taken = 0  # "Secrets Manager retries the entire rotation process"

    # Other people's.

    @rule()
    @precondition(lambda self: self.token and self.abandoned < MOST_ABANDONED)
    def cancel(self) -> None:
        self.world.cancel()
        self._abandon()

    @rule(works=st.booleans(), abandon=st.booleans())
    @precondition(lambda self: self.abandoned < MOST_ABANDONED)
    def put_by_hand(self, *, works: bool, abandon: bool) -> None:
        self.world.put_by_hand(works=works, abandon=abandon)
        self.abandoned += 1
        if abandon:
            self.token = None

    def _abandon(self) -> None:
        self.token = None
        self.abandoned += 1

    def teardown(self) -> None:
        Matrix(self.world, "walks").settle()


@pytest.mark.parametrize(
    ("strategy", "part"),
    [
        (strategy, part)
        for strategy in WHOSE
        for part in range(math.ceil(WALKS / PART / (1 if strategy is Strategy.SINGLE_USER else 2)))
    ],
)
def test_walks(strategy: Strategy, part: int, server: PostgresServer, keeper: SecretsManagerServer) -> None:
    with world_of(server, keeper, strategy=strategy) as world:
        starts, changes = [], []
        for _ in range(2):
            starts.append(world.snapshot())
            token = world.begin()
            assert world.go_on(token, rotation.STEPS[:2]) is None
            changes.append(world.effects[-world.last :])
            assert world.go_on(token, rotation.STEPS[2:]) is None
        run_state_machine_as_test(
            seed(part)(lambda: Walk(world, starts, changes)),  # type: ignore[arg-type]  # a class or whatever makes one
            settings=settings(
                max_examples=PART,
                phases=[Phase.generate],  # to shrink a walk takes minutes, and a failure tells all that was done
                stateful_step_count=10,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
