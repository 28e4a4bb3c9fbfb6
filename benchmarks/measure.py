"""What is measured: one cold rotation, whose four steps follow one another; and a fleet whose writes are throttled."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg2

from local.servers import rotation
from local.servers.secrets_manager import WRITES, Quota

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.world import Function, World


@dataclass(frozen=True, slots=True)
class Run:
    """One cold rotation, in milliseconds: of the start and of each step how long it took, and the processor's time.

    `window` is from the database's commit of the new password to the call that moves AWSCURRENT.
    """

    walls: dict[str, float]
    cpus: dict[str, float]
    window: float
    calls: Counter[str]
    logins: int

    @property
    def wall(self) -> float:
        """From the start of the process to the end of finishSecret."""
        return sum(self.walls.values())


def rotate(world: World, function: Function, arn: str, memory_mb: int, seconds: float) -> Run:
    """Rotate once in a new process, with Secrets Manager so many seconds away; RuntimeError if it does not succeed."""
    token = rotation.begin(world.keeper.client(), arn, world.keeper.function_arn)
    world.keeper.calls.clear()
    logged = len(world.postgres.log())
    with _at(world, seconds), world.run(function, memory_mb) as process:
        told = {"init": process.answer()}
        for step in rotation.STEPS:
            process.order({"Step": step, "SecretId": arn, "ClientRequestToken": token})
            told[step] = process.answer()
            if told[step]["error"]:
                raise RuntimeError(f"{function.name}: {step} failed with {told[step]['error']}.")
    logins = world.postgres.log()[logged:].count("connection received")
    calls = Counter(world.keeper.calls)
    [(committed,)] = world.postgres.query(
        "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM pg_authid WHERE rolname = %s",
        [_login(world, arn)["username"]],
    )
    if _is_locked_out(world, arn) or rotation.labels(world.keeper.client(), arn).versions["AWSCURRENT"] != token:
        raise RuntimeError(f"{function.name}: the rotation has not succeeded.")
    return Run(
        {name: 1000 * one["wall"] for name, one in told.items()},
        {name: 1000 * one["cpu"] for name, one in told.items()},
        1000 * (world.distance.moved - committed),
        calls,
        logins,
    )


@dataclass(frozen=True, slots=True)
class Fleet:
    """Many rotations, each with one try: which step the lost ones ended in, and how many users are locked out."""

    rotations: int
    per_second: float | None
    seconds: float
    throttled: int
    lost: Counter[str] = field(default_factory=Counter)
    locked_out: int = 0

    @property
    def writes(self) -> float:
        """How many writes a second it makes, where none is throttled."""
        return len(WRITES) * self.rotations / self.seconds


def rotate_fleet(
    world: World, function: Function, arns: Sequence[str], at_once: int, per_second: float | None
) -> Fleet:
    """Rotate all the secrets, each worker one after the other, with so many writes a second; None: with all."""
    events = []
    for arn in arns:
        token = rotation.begin(world.keeper.client(), arn, world.keeper.function_arn)
        events.append([{"Step": step, "SecretId": arn, "ClientRequestToken": token} for step in rotation.STEPS])
    lost: Counter[str] = Counter()
    quota = Quota(per_second) if per_second else None
    with world.run(function) as process:
        process.answer()
        world.distance.quota = quota
        began = time.monotonic()
        process.order([events[number::at_once] for number in range(min(at_once, len(events)))])
        while "over" not in (told := process.answer()):
            if told["error"]:
                lost[f"{told['step']}: {told['error']}"] += 1
        seconds = time.monotonic() - began
        world.distance.quota = None
    locked_out = sum(_is_locked_out(world, arn) for arn in arns)
    return Fleet(len(arns), per_second, seconds, quota.throttled if quota else 0, lost, locked_out)


@contextmanager
def _at(world: World, seconds: float) -> Iterator[None]:
    world.distance.seconds = seconds
    try:
        yield
    finally:
        world.distance.seconds = 0.0


def _login(world: World, arn: str) -> dict[str, str]:
    value = world.keeper.client().get_secret_value(SecretId=arn, VersionStage="AWSCURRENT")
    return dict(json.loads(value["SecretString"]))


def _is_locked_out(world: World, arn: str) -> bool:
    """Tell whether AWSCURRENT does not log in."""
    login = _login(world, arn)
    try:
        world.postgres.connect(login["username"], login["password"]).close()
    except psycopg2.OperationalError:
        return True
    return False
