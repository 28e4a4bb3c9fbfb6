"""How long the step may still take: the remaining time of the Lambda invocation, less the time to report."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from rotation_lambda.errors import ConfigurationError, DatabaseError, DatabaseTimeoutError, HostNotFoundError

_Answer = TypeVar("_Answer")

logger = logging.getLogger(__name__)

MINIMUM_S = 25.0
"""Seconds that a step needs in its worst case: a login or two without an answer, and the reserve."""

RESERVE_S = 12.0
"""Seconds to move AWSCURRENT, or to restore the old password, after everything else."""

CHANGE_S = 12.0
"""Seconds to change a password and to verify it, before the reserve begins."""

BEFORE_CHANGE_S = CHANGE_S + RESERVE_S
"""Seconds left when a change begins, at least: it can be verified and restored."""

HOLD_S = 10.0
"""Seconds that a change may hold the user's row, between ALTER ROLE and COMMIT. Then the server rolls it back."""

MOST_WAIT_S = 120.0
"""Seconds to wait for an answer at most: a server that wakes up or fails over is available by then."""

_WAIT = "Wait: Secrets Manager retries. If it fails again, set the function's Timeout to 60 seconds or more."

TRY_S = 1.0
"""Seconds that a pause leaves for the next try, at least: one that runs out of time would hide what stopped others."""

REPORT_S = 1.0
"""Seconds to log, and to raise or to report."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a clock. Lambda stops what runs past it, with `Task timed out` alone."""

    end: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def after(cls, milliseconds: int) -> Self:
        """Return the deadline of an invocation with so much time left (AWS: context.get_remaining_time_in_millis).

        Raises ConfigurationError if that is too little to complete a step.
        """
        if milliseconds < MINIMUM_S * 1000:
            what = f"The function's timeout leaves {milliseconds / 1000:.0f} seconds; a step needs {MINIMUM_S:.0f}."
            raise ConfigurationError(what, hint="Set the function's Timeout to 60 seconds (template.yaml does).")
        return cls(time.monotonic() + milliseconds / 1000 - REPORT_S)

    def left(self, reserve: float = 0.0) -> float:
        """Return the seconds left before the reserve begins, 0 once it has begun."""
        return max(0.0, self.end - reserve - self.clock())

    def check(self, reserve: float, what: str, hint: str = _WAIT) -> None:
        """Return while there are seconds left before the reserve; otherwise raise DatabaseTimeoutError, with `what`."""
        if not self.left(reserve):
            raise DatabaseTimeoutError(what, hint=hint)

    def pause(self, seconds: float, reserve: float = 0.0) -> bool:
        """Sleep about so long and return True; return False at once if the next try had less than TRY_S.

        The jitter keeps two invocations from colliding again (AWS Builders' Library: Timeouts, retries, and backoff).
        """
        room = self.left(reserve) - TRY_S
        if room < seconds / 2:
            return False
        self.sleep(min(room, seconds * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret hangs on it
        return True

    def wait_for(
        self,
        ask: Callable[[], _Answer],
        reserve: float = 0.0,
        *,
        passes: Callable[[DatabaseError], bool] | None = None,
        at_most: float | None = None,
    ) -> _Answer:
        """Repeat the question, with growing pauses, while its failure `passes`; for `at_most` seconds, to the reserve.

        As a rule an *unknown* answer does: a server that wakes up, fails over or is overloaded answers soon; but a host
        that DNS does not know is asked for twice. The first try is logged with cause and hint. The last error says how
        long the function waited, and what came before it where that was something else.
        """
        began, pause, tries, before = self.clock(), 0.5, 1, ""
        reserve = max(reserve, self.end - began - (at_most or MOST_WAIT_S))
        while True:
            try:
                return ask()
            except DatabaseError as error:
                failure = error
            stays = isinstance(failure, HostNotFoundError) and tries > 1
            again = passes(failure) if passes else failure.unknown and not stays
            waited, left = self.clock() - began, self.left(reserve)
            if not again or not self.pause(pause, reserve):
                break
            if tries == 1:
                logger.warning("%s Trying again for %.0f seconds. If it stays so: %s", failure.what, left, failure.hint)
            else:
                logger.info("Try %d failed as well; trying again for %.0f seconds.", tries, left)
            tries, pause, before = tries + 1, min(2 * pause, 3.0), failure.what
        if tries > 1:
            told = "" if failure.what == before else f" The try before: {before}"
            failure.what += f" Waited for {waited:.0f} seconds, in {tries} tries.{told}"
        raise failure
