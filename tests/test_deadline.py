"""How long a step may take: never to the end of the invocation, and never into the reserve."""

from __future__ import annotations

import time

import pytest

from rotation_lambda import deadline, errors
from tests.worlds.fakes import FakeClock


@pytest.mark.parametrize("milliseconds", [0, 3_000, 24_999])
def test_refuses_a_timeout_that_is_too_short_to_begin_with(milliseconds: int) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"leaves {milliseconds / 1000:.0f} seconds") as caught:
        deadline.Deadline.after(milliseconds)
    assert "Timeout" in caught.value.hint


def test_ends_before_the_invocation_does() -> None:
    assert 0 < deadline.Deadline.after(30_000).end - time.monotonic() < 30


def test_counts_down_to_the_reserve_and_not_below_nothing() -> None:
    clock = FakeClock()
    ours = clock.deadline(20)
    assert ours.left() == 20
    assert ours.left(reserve=5) == 15
    clock.now = 16
    assert ours.left() == 4
    assert ours.left(reserve=5) == 0


def test_pauses_with_jitter_while_there_is_time() -> None:
    clock = FakeClock()
    ours = clock.deadline(1000)
    assert all(ours.pause(1.0) for _ in range(50))
    assert all(0.5 <= pause <= 1.5 for pause in clock.pauses)
    assert len(set(clock.pauses)) > 1


def test_does_not_pause_into_the_reserve() -> None:
    clock = FakeClock()
    ours = clock.deadline(20)
    assert not ours.pause(1.0, reserve=19.9)
    assert clock.pauses == []


def test_leaves_time_for_what_is_tried_after_a_pause() -> None:
    for tenths in range(60):
        clock = FakeClock()
        ours = clock.deadline(20 + tenths / 10)
        paused = ours.pause(2.0, reserve=20)
        assert paused is (clock.pauses != [])
        assert not paused or ours.left(20) >= deadline.TRY_S - 1e-9
