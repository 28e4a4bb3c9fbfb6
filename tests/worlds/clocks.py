"""Time in tests: a clock that only a pause moves, and patience with a machine however slow it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotation_lambda.deadline import BEFORE_CHANGE_S, TRY_S, Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET_S = BEFORE_CHANGE_S + TRY_S + 3
"""What a step may take, by a clock that pauses merely push on: some retries, and no time of the test's."""

PATIENCE_S = 60.0
"""How long a test waits for what is bound to come, before it fails; no machine is so slow."""


def wait_until(truth: Callable[[], bool], what: str) -> None:
    """Wait until it is true; fail with `what` was waited for where it never is."""
    end = time.monotonic() + PATIENCE_S
    while not truth():
        assert time.monotonic() < end, f"waited {PATIENCE_S:.0f} s in vain: {what}"
        time.sleep(0.001)


@dataclass(slots=True)
class Clock:
    """A clock that only sleeping moves, and which sleeps a moment: what is waited for is real.

    `meanwhile` is what others do in each pause.
    """

    slept: float = 0.0
    meanwhile: Callable[[], object] = lambda: time.sleep(0.005)

    def now(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.meanwhile()

    def deadline(self) -> Deadline:
        return Deadline(self.slept + BUDGET_S, self.now, self.sleep)


class Hasty(Deadline):
    """In place of Deadline in a module: a second of pauses, which nobody waits for, before nothing may be changed."""

    __slots__ = ()

    def __init__(
        self, end: float, clock: Callable[[], float] | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if clock is None:  # it is a new one, and no copy with an earlier end
            own = Clock()
            end, clock, sleep = BEFORE_CHANGE_S + TRY_S + 1, own.now, own.sleep
        super().__init__(end, clock, sleep)
