"""Every interleaving of two or three invocations, and of what people do meanwhile, breaks no promise.

Each scene is played in every order that two preemptions allow, of which a kill is one. INTERLEAVINGS=2 plays every
scene in every setting, INTERLEAVINGS=3 with three preemptions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from rotation_lambda.settings import Strategy
from rotation_lambda.strategies import KINDS
from tests.worlds.explorer import Actor, explore
from tests.worlds.fakes import FakeClock
from tests.worlds.interleaved import CREATE, FINISH, MASTER, SET, Mishap, Server, Setting, World

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from rotation_lambda.credential import Credential
    from rotation_lambda.event import Step
    from rotation_lambda.strategies import SingleUser
    from tests.worlds.explorer import Exploration, Run
    from tests.worlds.fakes import FakeSession

EVERY = "INTERLEAVINGS" in os.environ
PREEMPTIONS = int(os.environ.get("INTERLEAVINGS", "2"))

pytestmark = pytest.mark.timeout(36000 if EVERY else 600)

SETTINGS = {
    "single user": Setting(Strategy.SINGLE_USER),
    "single user, one session": Setting(Strategy.SINGLE_USER, most_sessions=1, clears_pending=True),
    "single user, dead clients": Setting(Strategy.SINGLE_USER, notices_death=False),
    "alternating users": Setting(Strategy.ALTERNATING_USERS, "shop"),
    "alternating users, no row": Setting(
        Strategy.ALTERNATING_USERS, "shop", may_change_itself=False, clears_pending=True
    ),
    "by a superuser": Setting(Strategy.SUPERUSER, "shop"),
    "by a superuser, no row": Setting(Strategy.SUPERUSER, "shop", may_change_itself=False, clears_pending=True),
}
MOST = ["single user", "alternating users", "by a superuser"]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# Scenes: how far a rotation to the version A has come, and who acts then.


def begun(world: World, *done: Step) -> None:
    assert world.begin("A")
    assert all(world.take(step, "A") for step in done)


def worker(world: World, name: str, *steps: Step, mishap: Mishap = Mishap.NONE) -> Actor:
    return Actor(name, [partial(world.take, step, "A", mishap) for step in steps])


def people(*acts: Callable[[], bool]) -> Actor:
    return Actor("people", acts, mortal=False)


def next_rotation(world: World) -> Actor:
    def begin() -> bool:
        return world.cancel() and world.begin("B") and world.take(CREATE, "B")

    return Actor("next", [begin, partial(world.take, SET, "B"), partial(world.take, FINISH, "B")])


def a_second_try(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, FINISH, mishap=mishap), worker(world, "second", SET, FINISH)]


def two_tries_with_a_mishap(world: World, mishap: Mishap) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, name, SET, FINISH, mishap=mishap) for name in ("first", "second")]


def a_put_back_at_finishsecret(world: World) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, mishap=Mishap.DEAF_AFTER_ITS_CHANGE), worker(world, "second", FINISH)]


def a_second_createsecret(world: World) -> list[Actor]:
    begun(world)
    return [worker(world, name, CREATE, SET) for name in ("first", "second")]


def a_new_rotation(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, FINISH, mishap=mishap), next_rotation(world)]


def a_new_rotation_at_finishsecret(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE, SET)
    return [worker(world, "first", FINISH, mishap=mishap), next_rotation(world)]


def a_new_rotation_at_a_blind_move(world: World) -> list[Actor]:
    begun(world, CREATE)
    acts = [partial(world.take, SET, "A"), partial(world.take, FINISH, "A", Mishap.DEAF)]
    return [Actor("first", acts), next_rotation(world)]


def another_login_stored(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, FINISH, mishap=mishap), people(world.store_another_login)]


def a_password_changed_by_hand(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [
        worker(world, "first", SET, FINISH, mishap=mishap),
        people(world.change_by_hand, world.store_the_change),
    ]


def a_label_moved_back(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, FINISH, mishap=mishap), people(world.move_back)]


def a_row_held(world: World) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, FINISH), people(world.hold_the_row, world.release_the_row)]


def silence(world: World) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", SET, FINISH), people(world.fall_silent, world.answer)]


def silence_out_of_turn(world: World) -> list[Actor]:
    begun(world, CREATE)
    return [worker(world, "first", FINISH), people(world.fall_silent, world.answer)]


def three_tries(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [
        worker(world, "first", SET, mishap=mishap),
        worker(world, "second", SET),
        worker(world, "third", FINISH),
    ]


def a_row_held_beside_a_new_rotation(world: World) -> list[Actor]:
    begun(world, CREATE, SET)
    return [worker(world, "first", FINISH), people(world.hold_the_row, world.release_the_row), next_rotation(world)]


def a_cancel_beside_a_second_try(world: World, mishap: Mishap = Mishap.NONE) -> list[Actor]:
    begun(world, CREATE)
    return [
        worker(world, "first", SET, FINISH),
        worker(world, "second", SET, FINISH, mishap=mishap),
        people(world.cancel),
    ]


MISHAPS = {
    "deaf": Mishap.DEAF_AFTER_ITS_CHANGE,
    "a COMMIT lost": Mishap.COMMIT_GETS_LOST,
    "an answer lost": Mishap.ANSWER_GETS_LOST,
}
Scene = Callable[[World], list[Actor]]


def with_mishaps(*scenes: Callable[..., list[Actor]]) -> dict[str, Scene]:
    return {
        f"{scene.__name__}, {name}": partial(scene, mishap=mishap)
        for scene in scenes
        for name, mishap in MISHAPS.items()
    }


SCENES: dict[str, Scene] = {
    **{
        scene.__name__: scene
        for scene in (
            a_second_try,
            a_put_back_at_finishsecret,
            a_second_createsecret,
            a_new_rotation,
            a_new_rotation_at_finishsecret,
            a_new_rotation_at_a_blind_move,
            another_login_stored,
            a_password_changed_by_hand,
            a_label_moved_back,
            a_row_held,
            silence,
            silence_out_of_turn,
            three_tries,
            a_row_held_beside_a_new_rotation,
            a_cancel_beside_a_second_try,
        )
    },
    **with_mishaps(
        a_second_try,
        two_tries_with_a_mishap,
        a_new_rotation,
        another_login_stored,
        a_password_changed_by_hand,
        a_label_moved_back,
        three_tries,
        a_cancel_beside_a_second_try,
    ),
}
ALWAYS = [
    ("a_second_try", "single user"),
    *(
        (scene, setting)
        for scene in (
            "a_put_back_at_finishsecret",
            "a_new_rotation",
            "a_new_rotation_at_finishsecret",
            "another_login_stored",
            "a_password_changed_by_hand",
            "a_row_held",
            "silence",
            "silence_out_of_turn",
        )
        for setting in MOST
    ),
    ("a_second_createsecret", "alternating users"),
    ("a_new_rotation_at_finishsecret", "by a superuser, no row"),
]


def play(scene: Scene, setting: Setting, kind: type[Server] = Server, **how: Any) -> Exploration:  # noqa: ANN401 - explore's
    def make(run: Run) -> tuple[World, list[Actor]]:
        world = World(run, setting, kind)
        return world, scene(world)

    return explore(make, **how)


# Where a stranger holds the row, finishSecret moves AWSCURRENT without it, and looks back. Under alternating users a
# login is refused meanwhile, if that transaction ends and a new rotation sets its password right before the move.
OPEN = [("a_row_held_beside_a_new_rotation", setting) for setting in SETTINGS if "alternating" in setting]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("scene", "setting"),
    [(scene, setting) for scene in SCENES for setting in SETTINGS] if EVERY else ALWAYS,
)
def test_no_interleaving_breaks_a_promise(scene: str, setting: str) -> None:
    found = play(SCENES[scene], SETTINGS[setting], preemptions=PREEMPTIONS)
    if (scene, setting) in OPEN:
        del found.broken["AWSCURRENT does not log in"]
    assert not found.broken, "\n".join(found.broken.values())
    assert found.runs > 1


# What the explorer must find: the code as it was.


def prove_then_lock(self: SingleUser, pending: Credential) -> None:
    """Do as finishSecret did: what was proved before the lock counts."""
    with self._hold(pending) or nullcontext():
        self._move(look=self.old_one_works)


class LocksByDatabase(Server):
    """A server whose locks count in one database, as the advisory locks that there were."""

    def alter(self, session: FakeSession, role: str) -> None:
        Server.alter(self, session, f"{role} in {session.credential.dbname}")

    def commit(self, session: FakeSession, role: str, password: str) -> None:
        self.rows[role] = self.rows.pop(f"{role} in {session.credential.dbname}")
        Server.commit(self, session, role, password)


class Fault(NamedTuple):
    """What was otherwise, where that shows, and how."""

    instead: dict[str, Callable[..., object]]
    scene: str
    setting: str
    broken: str
    server: type[Server] = Server
    preemptions: int = 1


NOT_PROVED = "finishSecret succeeds, and AWSCURRENT has not logged in since"
FAULTS = {
    "finishSecret proves before it locks, and a put-back comes between": Fault(
        {"promote": prove_then_lock}, "a_put_back_at_finishsecret", "single user", NOT_PROVED
    ),
    "finishSecret proves before it locks, and a new rotation comes between": Fault(
        {"promote": prove_then_lock}, "a_new_rotation_at_finishsecret", "by a superuser", NOT_PROVED
    ),
    "setSecret and finishSecret lock in two databases": Fault(
        {}, "a_new_rotation_at_finishsecret", "alternating users", "AWSCURRENT does not log in", LocksByDatabase
    ),
    "finishSecret promotes what was never set, while nothing answers": Fault(
        {"_was_proved": lambda _: True}, "silence_out_of_turn", "single user", NOT_PROVED
    ),
    "finishSecret undoes what a person has stored": Fault(
        {"_check_unedited": lambda *_: None}, "another_login_stored", "single user", "a login gets lost"
    ),
    "setSecret changes a password after its rotation was cancelled": Fault(
        {"_check_labels": lambda _: None}, "a_new_rotation", "single user", "another version comes into force"
    ),
    "finishSecret does not look back where it could not have the row": Fault(
        {"_look_back": lambda *_: None}, "a_put_back_at_finishsecret", "single user", NOT_PROVED, preemptions=2
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    instead, scene, setting, broken, server, preemptions = FAULTS[name]
    for method, other in instead.items():
        monkeypatch.setattr(KINDS[SETTINGS[setting].strategy], method, other)
    found = play(SCENES[scene], SETTINGS[setting], server, preemptions=preemptions, to_the_first=True)
    assert broken in found.broken


def test_finds_nothing_where_locks_by_database_are_in_the_same_one() -> None:
    """The control: the superuser's secret names that database, too."""
    setting = Setting(Strategy.ALTERNATING_USERS, MASTER.dbname)
    assert not play(a_new_rotation_at_finishsecret, setting, LocksByDatabase, preemptions=1).broken


# The explorer itself.


@dataclass
class Counter:
    """Two who add one each, by reading and then writing; with a lock, for which one waits a while, or without."""

    run: Run
    locks: bool = False
    clock: FakeClock = field(default_factory=FakeClock)
    value: int = 0
    given_up: int = 0
    holder: str = ""

    def places(self) -> tuple[Hashable, ...]:
        return ((self.value, self.given_up, self.holder),)

    def notes(self) -> Hashable:
        return None

    def look(self) -> None:
        assert self.value <= 2

    def settle(self) -> None:
        assert self.value + self.given_up == 2, "1 is lost"

    def add(self, name: str) -> bool:
        self.run.effect("lock", 0)
        if self.locks and self.holder and not self.run.wait(lambda: not self.holder, 60):
            self.given_up += 1
            return False
        self.holder = name
        self.run.effect("read", 0)
        read = self.value
        self.run.effect("write", 0)
        self.value = read + 1
        self.run.effect("unlock", 0)
        self.holder = ""
        return True


@pytest.mark.parametrize(
    ("locks", "mortal", "preemptions", "broken"),
    [
        (False, False, 0, []),
        (False, False, 1, ["1 is lost"]),
        (True, False, 1, []),
        (False, True, 1, ["1 is lost"]),
    ],
    ids=["no preemption", "one", "one, and a lock", "one, or a kill"],
)
def test_the_explorer_finds_what_a_switch_or_a_kill_breaks(
    *, locks: bool, mortal: bool, preemptions: int, broken: list[str]
) -> None:
    def make(run: Run) -> tuple[Counter, list[Actor]]:
        world = Counter(run, locks)
        return world, [Actor(name, [partial(world.add, name)], mortal=mortal) for name in ("a", "b")]

    assert list(explore(make, preemptions).broken) == broken
