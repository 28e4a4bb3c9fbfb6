"""How much is run of what costs most: all of it, or the part of one day.

CRASHES says which. A date: its part, which is every `PARTS`th stop of half of the crash matrix, of the other half
when all parts have been run; and of each other kind of test that costs much one of `PARTS` parts, or one case. Nothing:
today's. "all": each case; in the matrix each way to go on, once from each world that a stop leaves. "write": the same,
and the table in docs/testing.md is written. "every": each way from each stop, and over HTTP.
"""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PARTS = 8
MODE = os.environ.get("CRASHES") or datetime.now(UTC).date().isoformat()
DAY = None if MODE in {"all", "write", "every"} else date.fromisoformat(MODE).toordinal()
os.environ["CRASHES"] = MODE  # the workers of this run draw the same, even at midnight
SERVERS = {"postgres", "postgres_of", "secrets_manager"}  # the fixtures that are real ones
MATRIX = "crash matrix"  # whose tests draw their stops themselves


def header() -> str:
    """Say for the head of the run what is run."""
    if DAY is None:
        return f"what costs most: CRASHES={MODE}"
    part = f"part {DAY % PARTS + 1} of {PARTS}"
    return f"what costs most: {part}, as drawn for CRASHES={MODE}; CRASHES=all (make check) runs all"


def drawn(number: int) -> bool:
    """Tell whether the stop of that number is run."""
    return DAY is None or number % PARTS == DAY % PARTS


def not_drawn(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the tests that are not run: of each kind that costs much only those of the day's part are."""
    if DAY is None:
        return
    kinds = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if kind := _costly(item):
            kinds[kind].append(item)
    for kind, cases in kinds.items():
        parts = min(PARTS, len(cases))
        for number, item in enumerate(cases):
            if (number + DAY // PARTS) % 2 if kind == MATRIX else number * parts // len(cases) != DAY % parts:
                yield item


def _costly(item: pytest.Item) -> str | None:
    """Return of which kind a costly test is: the named one of its mark, or with real servers its function's cases."""
    fixtures = set(getattr(item, "fixturenames", ()))
    if mark := item.get_closest_marker("costly"):
        return str(mark.args[0]) if mark.args else item.nodeid.partition("[")[0]
    return item.nodeid.partition("[")[0] if fixtures & SERVERS else None


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
