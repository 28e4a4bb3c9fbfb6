"""How long the step may still take: the remaining time of the Lambda invocation, less what the last words need."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rotation_lambda.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

MINIMUM_S = 25.0
"""What a step needs in its worst case: a login or two that get no answer, and the reserve."""

RESERVE_S = 12.0
"""What moving AWSCURRENT, or putting the old password back, may need after everything else."""

REPORT_S = 1.0
"""What the last words need: to log, and to raise or to report."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a clock. Lambda kills what runs past it with a bare «Task timed out»."""

    end: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def after(cls, milliseconds: int) -> Self:
        """Return the deadline of an invocation with so much time left (AWS: context.get_remaining_time_in_millis).

        Raises ConfigurationError where that is too little to begin with: nothing should be left half done.
        """
        if milliseconds < MINIMUM_S * 1000:
            raise ConfigurationError(
                f"The function's timeout leaves {milliseconds / 1000:.0f} seconds; a step needs {MINIMUM_S:.0f}.",
                hint="Set the function's Timeout to 60 seconds (template.yaml does).",
            )
        return cls(time.monotonic() + milliseconds / 1000 - REPORT_S)

    def left(self, reserve: float = 0.0) -> float:
        """Return the seconds left before the reserve begins; 0 where it has."""
        return max(0.0, self.end - reserve - self.clock())

    def pause(self, seconds: float, reserve: float = 0.0) -> bool:
        """Sleep about so long and return True; return False, at once, where the reserve would be touched.

        The jitter keeps twins from meeting again and again (AWS Builders' Library: «Timeouts, retries, and backoff»).
        """
        seconds *= random.uniform(0.5, 1.5)  # noqa: S311 - no secret hangs on it
        if seconds >= self.left(reserve):
            return False
        self.sleep(seconds)
        return True
