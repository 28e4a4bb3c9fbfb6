"""How much of the crash matrix and of the random walks is run: all of it, or the part of one day.

CRASHES says which. A date: that day's part, which is every `PARTS`th stop of each test and one part of each strategy's
walks; nothing: today's. "all": each way to go on, once from each world that a stop leaves. "write": the same, and the
table in docs/testing.md is written. "every": each way from each stop, and over HTTP.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TypeVar

    _One = TypeVar("_One")

PARTS = 8
MODE = os.environ.get("CRASHES") or datetime.now(UTC).date().isoformat()
DAY = None if MODE in {"all", "write", "every"} else date.fromisoformat(MODE).toordinal()
os.environ["CRASHES"] = MODE  # the workers of this run draw the same, even at midnight


def header() -> str:
    """Say for the head of the run what is run."""
    if DAY is None:
        return f"crash matrix and walks: CRASHES={MODE}"
    part = f"part {DAY % PARTS + 1} of {PARTS}"
    return f"crash matrix and walks: {part}, as drawn for CRASHES={MODE}; CRASHES=all (make check) runs all"


def drawn(number: int) -> bool:
    """Tell whether the stop of that number is run."""
    return DAY is None or number % PARTS == DAY % PARTS


def draw(parts: Sequence[_One]) -> Sequence[_One]:
    """Return the parts that are run: all, or one."""
    return parts if DAY is None else [parts[DAY % len(parts)]]


class Seen:
    """What has been run in this run already, by whichever worker: an empty file for each, in a folder of the run's."""

    folder: Path

    def is_new(self, *key: object) -> bool:
        """Tell whether nobody has asked for the key before; with CRASHES=every, all are new."""
        if MODE == "every":
            return True
        try:
            (self.folder / sha256(repr(key).encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


SEEN = Seen()


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Let all workers of the run see what each has run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "seen"
    folder.mkdir(exist_ok=True)
    SEEN.folder = folder
    return SEEN
