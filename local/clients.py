"""Rotations while applications log in all the time, and what those saw of them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table

from local.servers import rotation
from local.servers.applications import count, run_clients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local.servers.applications import Clients
    from local.servers.stack import Stack
    from local.terminal import Screen

KINDS = ("with the fallback", "AWSCURRENT alone")
HEAD = "{:<20}{:>23}{:>23}"
ROW = "{:<11}{:>9}{:>14}{:>9}{:>14}{:>9}"

COMMITTED = "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM pg_authid WHERE rolname = %s"


@dataclass(frozen=True, slots=True)
class Window:
    """The time from setSecret's commit to finishSecret's move, by the wall clock."""

    opened: float
    closed: float

    @property
    def milliseconds(self) -> float:
        """How long it is."""
        return 1000 * (self.closed - self.opened)

    def explains(self, began: float, answered: float) -> bool:
        """Tell whether a login may have read AWSCURRENT before the move, and been refused after the commit."""
        return began <= self.closed and self.opened <= answered


def settings_for(clients: int) -> dict[str, str]:
    """Return what PostgreSQL needs for so many clients of either kind, and to know when a password was committed."""
    return {"max_connections": str(20 + 2 * clients), "track_commit_timestamp": "on"}


def run_rotations(stack: Stack, invoke: rotation.Invoke, screen: Screen, *, clients: int, times: int) -> dict[str, Any]:
    """Rotate so often while clients log in; show and return what they saw, and whether the strategy promises that.

    Before the next rotation every client logs in afresh. On AWS there are four hours for it; a login that takes as long
    as a whole rotation is refused with alternating users, too. Every login is in one of the rows, so that they add up.
    """
    manager = stack.secrets_manager
    client = manager.client()
    windows: list[Window] = []
    doing = "before"
    screen.say(f"Clients: {clients} as examples/ shows, {clients} with AWSCURRENT alone.")
    screen.say(f"Rotations: {times}, {stack.strategy}.")
    screen.say()
    screen.row(HEAD.format("", *KINDS), style="bold")
    screen.row(ROW.format("rotation", "window", *("accepted", "refused") * 2), style="bold")
    counts = [(0, 0, 0, 0)]

    def tell(name: object, window: str = "") -> None:
        counts.append(_counts(everybody))
        screen.row(ROW.format(name, window, *(now - then for now, then in zip(*reversed(counts[-2:]), strict=True))))

    with run_clients(clients, stack.secret_arn, manager, stack.postgres) as everybody:
        live = Live(
            get_renderable=lambda: _table(everybody, doing), console=screen.live, refresh_per_second=10, transient=True
        )
        with live if screen.shows_progress else nullcontext():
            everybody.wait()
            tell("before")
            for number in range(1, times + 1):
                token = rotation.begin(client, stack.secret_arn, manager.function_arn)
                for step in rotation.STEPS:
                    doing = f"rotation {number}, {step}"
                    live.refresh()
                    rotation.invoke_steps(invoke, stack.secret_arn, token, steps=[step])
                windows.append(Window(closed=time.time(), opened=_committed(stack)))
                doing = f"after rotation {number}"
                everybody.wait()
                live.refresh()
                tell(number, f"{windows[-1].milliseconds:.0f} ms")
    tell("after")
    screen.row(ROW.format("in all", "", *counts[-1]), style="bold")
    refusals = [refusal for one in (*everybody.with_fallback, *everybody.without) for refusal in one.refusals]
    excuses = [] if stack.alternates else windows
    broken = [refusal for refusal in refusals if not any(window.explains(*refusal) for window in excuses)]
    screen.say()
    for sentence in (everybody.report(), _length(windows), _verdict(len(refusals), len(broken))):
        screen.say(sentence)
    return {
        "windows_ms": [round(window.milliseconds, 1) for window in windows],
        "logins": dict(zip(("accepted", "refused", "accepted_alone", "refused_alone"), counts[-1], strict=True)),
        "refused_outside_a_window": len(broken),
        "as_expected": not broken,
    }


def _committed(stack: Stack) -> float:
    """Return when the password that AWSCURRENT has was committed."""
    [(moment,)] = stack.postgres.query(COMMITTED, (stack.credential()["username"],))
    return float(moment)


def _length(windows: Sequence[Window]) -> str:
    lengths = [window.milliseconds for window in windows]
    typical, longest = median(lengths), max(lengths)
    return f"Window, from commit to move: {typical:.0f} ms (median), {longest:.0f} ms (longest)."


def _verdict(refused: int, broken: int) -> str:
    if broken:
        return f"{broken} of {refused} refused logins ought to have been accepted."
    return f"All {refused} refused logins lie in that time." if refused else "No login was refused."


def _counts(clients: Clients) -> tuple[int, int, int, int]:
    return *count(clients.with_fallback), *count(clients.without)


def _table(clients: Clients, doing: str) -> Table:
    """Return the counts of this moment, as a table for people."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(doing, no_wrap=True, min_width=len("rotation 999, createSecret"))
    table.add_column("accepted", justify="right", style="green")
    table.add_column("refused", justify="right", style="red")
    for kind, numbers in zip(KINDS, (count(clients.with_fallback), count(clients.without)), strict=True):
        table.add_row(kind, *map(str, numbers))
    return table
