"""Runs a few actors in every order, switching before each of their effects, up to a number of preemptions.

After CHESS (Musuvathi, Qadeer: "Iterative Context Bounding for Systematic Testing of Multithreaded Programs", PLDI
2007): few preemptions find most faults, and there are few enough orders with few of them to run them all. A preemption
is a switch away from an actor that could go on. One that sleeps, waits for a lock, has ended or is between two of its
acts is left for nothing. Time passes only while nobody could go on, or while one who could is preempted.

The actors are greenlets: between threads each hand-over would wait for the operating system.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from tests.worlds.fakes import FakeClock


class KilledError(BaseException):
    """The actor's process is gone: no handler of the house may catch this."""


class OverError(BaseException):
    """The run is over: it has come to a state that is known, or has broken a promise."""


class World(Protocol):
    """What the actors act upon."""

    @property
    def clock(self) -> FakeClock:
        """The one clock of all actors."""

    def places(self) -> tuple[Hashable, ...]:
        """Return what there is at each of the places where effects can be."""

    def notes(self) -> Hashable:
        """Return what else there is to know of it, actors and clock apart."""

    def look(self) -> None:
        """Raise AssertionError where a promise is broken."""

    def settle(self) -> None:
        """Go on alone when all actors are done; raise AssertionError where that leads to no good end."""


@dataclass(slots=True, eq=False)
class Actor:
    """Does some acts, one after the other, until one returns False; a mortal one can be killed between two effects.

    It could go on unless it is done, sleeps `until` a time, or waits as long for a lock to be `freed`. Who is `slow`
    has been preempted, or is between two acts: the others need not wait. Of its `rests` within an act the same ones
    `again` are no occasion for the slow, or each could come in at every turn of a loop.
    """

    name: str
    acts: Sequence[Callable[[], bool]]
    mortal: bool = True
    slow: bool = True
    dead: bool = False
    done: bool = False
    until: float | None = None
    freed: Callable[[], bool] | None = None
    at: str = ""
    found: Hashable = None
    rests: set[Hashable] = field(default_factory=set)
    again: bool = False
    history: int = 0

    def ready(self, now: float) -> float:
        """Return when it can go on."""
        return now if self.until is None or (self.freed and self.freed()) else max(now, self.until)

    def remember(self, *seen: Hashable) -> None:
        """Keep what it has seen: two of one name that have seen the same are at the same place of the same code."""
        self.history = hash((self.history, *seen))

    def state(self) -> Hashable:
        """Return what decides what it will do; of one that is done it does not matter how."""
        if self.done:
            return self.dead
        return self.at, self.until, self.slow, self.dead, self.done, self.history


class Option(NamedTuple):
    """Who may go on, or be killed, at the price of so many preemptions."""

    price: int
    actor: Actor
    kill: bool = False


@dataclass(slots=True)
class Run:
    """One run of all actors: who goes on is chosen by the schedule, and after its end as there are no preemptions.

    `known` are the states from which all has been tried already, with so many preemptions left.
    """

    schedule: tuple[int, ...]
    left: int
    known: dict[int, int]
    world: World = field(init=False)
    actors: Sequence[Actor] = ()
    chosen: list[int] = field(default_factory=list)
    options: list[list[Option]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    over: bool = False
    current: Actor | None = None
    places: tuple[Hashable, ...] = ()
    stage: greenlet = field(default_factory=getcurrent)

    def go(self) -> None:
        """Run until all actors are done, or the run is over."""
        lives = {actor.name: greenlet(self._live) for actor in self.actors}
        chosen = self._pass_on(None)
        while chosen:
            chosen = lives[chosen.name].switch(chosen)
        self.current = None
        for life in lives.values():
            if life:  # it has begun, and not ended
                life.throw(OverError)
        if not self.over:
            self._promise(self.world.settle)

    def _live(self, actor: Actor) -> Actor | None:
        """Do the acts; return who goes on afterwards."""
        try:
            self._resume(actor)
            for number, act in enumerate(actor.acts):
                if number:
                    actor.slow = True
                    actor.rests.clear()
                    self._yield(actor, f"between {number}")
                if not act():
                    break
        except OverError:
            return None
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - `explore` raises it
            self.failure, self.over = self.failure or error, True
            return None
        actor.done = True
        return self._pass_on(actor)

    # What an actor does, as the world tells.

    def effect(self, name: str, place: int) -> None:
        """Be about to do something at one of the places: others may act before."""
        actor = self.current
        if actor is None or actor.dead or self.over:
            return
        self._yield(actor, name)
        self.story.append(f"{actor.name}: {name}")
        actor.remember(name, self.places[place], self.world.clock.now)

    def sleep(self, seconds: float) -> None:
        """Let the others act meanwhile."""
        if not self._rest("asleep", seconds, None):
            self.world.clock.now += seconds

    def wait(self, freed: Callable[[], bool], seconds: float) -> bool:
        """Wait for a lock; False where it was not freed in time."""
        if not self._rest("waiting", seconds, freed) and not freed():
            self.world.clock.now += seconds
        return freed()

    def _rest(self, how: str, seconds: float, freed: Callable[[], bool] | None) -> bool:
        actor, clock = self.current, self.world.clock
        if actor is None or actor.dead or self.over:
            return False
        around = how, self.world.places(), *((other.name, other.at) for other in self.actors if other.slow)
        actor.until, actor.freed, actor.again = clock.now + seconds, freed, around in actor.rests
        actor.rests.add(around)
        actor.remember(around)
        self._yield(actor, how)
        actor.until, actor.freed, actor.again = None, None, False
        actor.remember(clock.now, freed and freed())
        return True

    # Who goes on.

    def _yield(self, actor: Actor, at: str) -> None:
        actor.at = at
        chosen = self._pass_on(actor)
        if chosen is not actor:
            self.stage.switch(chosen)
        self._resume(actor)

    def _resume(self, actor: Actor) -> None:
        if self.over:
            raise OverError
        if actor.dead:
            self.story.append(f"{actor.name} is killed")
            raise KilledError
        actor.found = self.places
        random.seed(0)  # for the jitter of its pauses

    def _pass_on(self, me: Actor | None) -> Actor | None:
        """Choose the actor that goes on, and let it; none, where the run ends."""
        places = self.world.places()
        if places != self.places:
            self.places = places
            self._promise(self.world.look)
        options = self._options(me)
        choice = None if self.over else self._choose(me)
        if choice is None:
            self.over = True
        elif options:
            self.chosen.append(choice)
            self.options.append(options)
            return self._let(me, *options[choice])
        return None

    def _options(self, me: Actor | None) -> list[Option]:
        """Return who may go on, for nothing the first one, as far as the preemptions last."""
        now = self.world.clock.now
        live = [actor for actor in self.actors if not actor.done]
        ready = [actor for actor in live if actor.ready(now) == now]
        if me in ready and not me.slow:
            found = [Option(0, me), *(Option(1, actor) for actor in live if actor is not me)]
            if me.mortal and me.found != self.places and not any(actor.dead for actor in self.actors):
                found.append(Option(1, me, kill=True))
        else:
            busy = [actor for actor in ready if not actor.slow]
            late = sorted((actor for actor in live if actor not in ready), key=lambda actor: actor.ready(now))
            found = [Option(0, actor) for actor in busy]
            found += [Option(int(bool(busy or number)), actor) for number, actor in enumerate(late)]
            if not (me and me.again):
                found += [Option(0, actor) for actor in ready if actor.slow]
            found.sort(key=lambda option: option.price)
        return [option for option in found if option.price <= self.left]

    def _choose(self, me: Actor | None) -> int | None:
        """Return the schedule's choice, or after its end the first there is; None where all that follows is known."""
        if len(self.chosen) < len(self.schedule):
            return self.schedule[len(self.chosen)]
        actors = tuple((actor is me, actor.state()) for actor in self.actors)
        state = hash((self.places, self.world.notes(), self.world.clock.now, actors))
        if self.known.get(state, -1) >= self.left:
            return None
        self.known[state] = self.left
        return 0

    def _let(self, me: Actor | None, price: int, actor: Actor, kill: bool) -> Actor:  # noqa: FBT001 - an Option's
        """Have the actor go on; one that could have, but is passed over for it or for time to pass, is slow."""
        self.left -= price
        now = self.world.clock.now
        self.world.clock.now = actor.ready(now)
        if price and me:
            me.slow = True
        if self.world.clock.now > now:
            for other in self.actors:
                other.slow |= other.ready(now) == now
        actor.slow, actor.dead = False, kill
        self.current = actor
        return actor

    def _promise(self, check: Callable[[], None]) -> None:
        try:
            check()
        except AssertionError as error:
            self.failure, self.over = self.failure or error, True


@dataclass(slots=True)
class Exploration:
    """How many runs there were, how many states they came to, and how each broken promise was broken first."""

    runs: int = 0
    states: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def explore(
    make: Callable[[Run], tuple[World, Sequence[Actor]]], preemptions: int, *, to_the_first: bool = False
) -> Exploration:
    """Run what is made in every order that so many preemptions allow, or until a promise is broken.

    What follows a state is tried once.
    """
    found, known = Exploration(), dict[int, int]()
    schedules: list[tuple[int, ...]] = [()]
    while schedules and not (to_the_first and found.broken):
        run = Run(schedules.pop(), preemptions, known)
        run.world, run.actors = make(run)
        run.go()
        found.runs += 1
        if isinstance(run.failure, AssertionError):
            what = str(run.failure).partition("\n")[0]
            found.broken.setdefault(what, "\n  ".join([what, *run.story]))
        elif run.failure:
            raise run.failure
        for place in range(len(run.schedule), len(run.chosen)):
            schedules += [(*run.chosen[:place], other) for other in range(1, len(run.options[place]))]
    found.states = len(known)
    return found
