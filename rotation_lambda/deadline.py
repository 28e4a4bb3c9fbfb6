"""How long the step may still take: the remaining time of the Lambda invocation, less the time to report."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from rotation_lambda.errors import ConfigurationError, DatabaseError, HostNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

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
            raise ConfigurationError(
                f"The function's timeout leaves {milliseconds / 1000:.0f} seconds; a step needs {MINIMUM_S:.0f}.",
                hint="Set the function's Timeout to 60 seconds (template.yaml does).",
            )
        return cls(time.monotonic() + milliseconds / 1000 - REPORT_S)

    def left(self, reserve: float = 0.0) -> float:
        """Return the seconds left before the reserve begins, 0 once it has begun."""
        return max(0.0, self.end - reserve - self.clock())

    def pause(self, seconds: float, reserve: float = 0.0) -> bool:
        """Sleep about so long and return True; return False at once if the reserve would begin.

        The jitter keeps two invocations from colliding again (AWS Builders' Library: Timeouts, retries, and backoff).
        """
        seconds *= random.uniform(0.5, 1.5)  # noqa: S311 - no secret hangs on it
        if seconds >= self.left(reserve):
            return False
        self.sleep(seconds)
        return True

    def wait_for(self, ask: Callable[[], _Answer], reserve: float = 0.0) -> _Answer:
        """Repeat the question, with growing pauses, until there is an answer; at most MOST_WAIT_S, before the reserve.

        Only an *unknown* answer is waited for: a server that wakes up, fails over or is overloaded answers soon. A host
        that DNS does not know is asked for twice. The first try is logged with cause and hint. The last error says how
        long the function waited.
        """
        began, pause, tries = self.clock(), 0.5, 1
        while True:
            try:
                return ask()
            except DatabaseError as error:
                failure, again = error, error.unknown and not (isinstance(error, HostNotFoundError) and tries > 1)
            waited = self.clock() - began
            left = min(self.left(reserve), MOST_WAIT_S - waited)
            if not again or pause >= left or not self.pause(pause, reserve):
                break
            if tries == 1:
                logger.warning("%s Trying again for %.0f seconds. If it stays so: %s", failure.what, left, failure.hint)
            else:
                logger.info("No answer from the database yet; trying again for %.0f seconds.", left)
            tries, pause = tries + 1, min(2 * pause, 5.0)
        if tries > 1:
            failure.what += f" Waited for an answer for {waited:.0f} seconds, in {tries} tries."
        raise failure
