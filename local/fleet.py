"""Many secrets that rotate at the same time, under the quota of writes that an AWS account has, and what came of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from local.rotate import answer
from local.servers import rotation
from local.servers.secrets_manager import Quota
from local.servers.stack import MASTER, add_secret, run_stack
from local.servers.worker import DONE, run_worker

if TYPE_CHECKING:
    from local.servers.secrets_manager import Refuse
    from local.servers.stack import Stack
    from local.servers.worker import Worker
    from local.terminal import Screen

AT_ONCE = 8
"""How many secrets rotate at the same time; each has a process of the function, as on AWS."""

WRITES_PER_SECOND = 50
"""AWS's quota of an account for PutSecretValue and UpdateSecretVersionStage, and other calls besides."""

ATTEMPTS = 3
"""How often a rotation is tried; AWS says "multiple times"."""

ROW = "{:>9}{:>9}{:>9}{:>6}{:>17}{:>15}{:>11}"
HEAD = ("secrets", "rotated", "retried", "lost", "throttled calls", "each (median)", "together")


class Outcome(NamedTuple):
    """What came of one secret: it is `rotated` where AWSCURRENT is the new version and logs in, and otherwise lost."""

    attempts: int
    rotated: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """Secrets of one stack, and the processes of the function that are idle, of which each rotation takes one."""

    stack: Stack
    idle: SimpleQueue[Worker] = field(default_factory=SimpleQueue)

    def add(self, number: int) -> str:
        """Make a user and its secret, as the stack's own are; return the secret's ARN."""
        superuser = {key: value for key, value in self.stack.credential().items() if key == "masterarn"}
        options = f"ADMIN {MASTER}" if superuser else ""
        return add_secret(self.stack.postgres, self.stack.secrets_manager, f"app_{number:04}", options, **superuser)

    def rotate(self, arn: str) -> Outcome:
        """Rotate one of the secrets as Secrets Manager does."""
        keeper, worker = self.stack.secrets_manager, self.idle.get()
        began, attempts = time.monotonic(), 1
        token = rotation.begin(keeper.client(), arn, keeper.function_arn)
        while not _takes_all_steps(worker, arn, token) and attempts < ATTEMPTS:
            attempts += 1
        seconds = time.monotonic() - began
        self.idle.put(worker)
        stack = replace(self.stack, secret_arn=arn)
        is_current = rotation.labels(keeper.client(), arn).versions["AWSCURRENT"] == token
        return Outcome(attempts, is_current and answer(stack, stack.credential()) == "accepted", seconds)


def _takes_all_steps(worker: Worker, arn: str, token: str) -> bool:
    return all(
        worker.invoke({"Step": step, "SecretId": arn, "ClientRequestToken": token}) == DONE for step in rotation.STEPS
    )


def run_fleet(
    secrets: int, screen: Screen, *, strategy: str = "single-user", refuse: Refuse | None = None
) -> dict[str, Any]:
    """Rotate so many secrets, each once; show and return how that ended. `refuse` fails calls beside the quota."""
    quota = Quota(WRITES_PER_SECOND)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=screen.live, disable=not screen.shows_progress)
    with ExitStack() as kept:
        with screen.waiting("Starting PostgreSQL and Secrets Manager"):
            stack = kept.enter_context(
                run_stack(
                    strategy=strategy,
                    settings={},
                    refuse=lambda operation: (refuse and refuse(operation)) or quota(operation),
                )
            )
            fleet = Fleet(stack)
            workers = [kept.enter_context(run_worker(stack.environment)) for _ in range(min(AT_ONCE, secrets))]
            for worker in workers:
                worker.invoke({})  # no event of any kind, which is answered once the function is loaded
                fleet.idle.put(worker)
        kept.enter_context(bar)
        pool = kept.enter_context(ThreadPoolExecutor(len(workers)))
        arns = [fleet.add(number) for number in bar.track(range(1, secrets + 1), description="creating")]
        began = time.monotonic()
        outcomes = list(bar.track(pool.map(fleet.rotate, arns), total=secrets, description="rotating"))
        together = time.monotonic() - began
    each = median(one.seconds for one in outcomes)
    rotated = sum(one.rotated for one in outcomes)
    counts = {
        "secrets": secrets,
        "rotated": rotated,
        "retried": sum(one.attempts > 1 for one in outcomes),
        "lost": secrets - rotated,
        "throttled": quota.throttled,
    }
    screen.say(f"{len(workers)} at the same time, {WRITES_PER_SECOND} writes a second, {strategy}.")
    screen.say()
    screen.row(ROW.format(*HEAD), style="bold")
    screen.row(ROW.format(*counts.values(), f"{each:.2f} s", f"{together:.1f} s"))
    return {
        **counts,
        "median_seconds": round(each, 3),
        "seconds": round(together, 3),
        "as_expected": rotated == secrets,
    }
