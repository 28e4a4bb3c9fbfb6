"""Rotations whose function is killed and whose connections break at random, and what came of it all."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import SEEK_END
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, TYPE_CHECKING

import psycopg2
from psycopg2 import sql
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from local.servers import rotation
from local.servers.proxy import Cut, Passage, Proxy, Rule, run_proxy
from local.servers.stack import USERNAME, run_stack
from local.servers.worker import DONE, KILLED, Worker, run_worker

if TYPE_CHECKING:
    from local.servers.stack import Stack
    from local.terminal import Screen

ATTEMPTS = 5
"""How often Secrets Manager tries a rotation, as far as this goes; AWS says "multiple times"."""

ROW = "{:<17}{:>13}{:>12}{:>13}{:>15}{:>9}"

MISHAPS = ("nothing", "kill", "kill", "kill", "cut", "cut", "restart", "refuse")
RECOVERED = "which has no staging label, had the password"
"""What the function logs where an unlabelled version lets it in."""

TURNS = dict(zip(rotation.STEPS, (10, 52, 17, 21), strict=True))
"""How often, about, one side begins to speak in a step."""


@dataclass(slots=True)
class Tally:
    """What happened, by step."""

    killed: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    restarted: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    healed: Counter[str] = field(default_factory=Counter)
    put_back: Counter[str] = field(default_factory=Counter)
    locked_out: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    done: int = 0

    def rows(self) -> dict[str, Counter[str]]:
        """Return the counts by what they are called."""
        return {
            "killed": self.killed,
            "connection cut": self.cut,
            "server restarted": self.restarted,
            "tried again": self.retried,
            "recovered": self.healed,
            "restored": self.put_back,
            "locked out": self.locked_out,
        }


@dataclass(slots=True)
class Chaos:
    """One secret, whose function runs in processes that do not live long behind lines that do not hold."""

    stack: Stack
    worker: Worker
    proxies: tuple[Proxy, Proxy]
    log: IO[str]
    dice: random.Random
    tally: Tally = field(default_factory=Tally)
    striking: Lock = field(default_factory=Lock)

    def rotate(self) -> None:
        """Rotate as Secrets Manager does, until it is done; one that fails too often is cancelled and begun anew."""
        keeper = self.stack.secrets_manager
        client = keeper.client()
        while True:
            token = rotation.begin(client, self.stack.secret_arn, keeper.function_arn)
            for attempt in range(ATTEMPTS):
                if self._try(token, calm=attempt == ATTEMPTS - 1):
                    self.tally.done += 1
                    return
                if attempt and self.dice.random() < 0.2:  # noqa: PLR2004 - an operator loses patience
                    break
            rotation.cancel(client, self.stack.secret_arn)
            self.tally.cancelled += 1

    def _try(self, token: str, *, calm: bool) -> bool:
        for step in rotation.STEPS:
            mishap = "nothing" if calm else self.dice.choice(MISHAPS)
            outcome = self._take(step, token, mishap)
            self.tally.locked_out[step] += not self._somebody_logs_in()
            self.tally.killed[step] += outcome == KILLED
            self.tally.put_back[step] += outcome == "VerificationFailedError"
            if outcome != DONE:
                self.tally.retried[step] += 1
                return False
        return True

    def _take(self, step: str, token: str, mishap: str) -> str:
        """Invoke the function, and let the mishap strike when one side begins to speak for some time or other."""
        strikes_at = self.dice.randrange(TURNS[step])
        turns: set[tuple[int, int]] = set()
        changing: set[int] = set()
        changes: list[int] = []

        def watch(proxy: Proxy) -> Rule:
            def rule(passage: Passage) -> None:
                turns.add((proxy.port, passage.turn))
                if mishap == "refuse":
                    refuse(passage)
                elif mishap != "nothing" and len(turns) > strikes_at:
                    with self.striking:
                        self._strike(step, mishap if proxy.rule else "nothing", passage)

            return rule

        def refuse(passage: Passage) -> None:
            """Let no login in between two changes of the password, so that the first one has to be put back."""
            if passage.direction == "ask" and b"ALTER ROLE" in passage.data:
                changing.add(passage.connection)
            elif passage.connection in changing and passage.direction == "answer" and b"COMMIT" in passage.data:
                changing.clear()
                self._let_in(until="infinity" if changes else "-infinity")
                changes.append(passage.turn)

        for proxy in self.proxies:
            proxy.rule = watch(proxy)
        logged = self.log.seek(0, SEEK_END)
        outcome = self.worker.invoke({"Step": step, "SecretId": self.stack.secret_arn, "ClientRequestToken": token})
        with self.striking:  # the function ends when its connection does, before the server is up again
            self._calm()
        if changes:
            self._let_in(until="infinity")
        self.log.seek(logged)
        self.tally.healed[step] += RECOVERED in self.log.read()
        return outcome

    def _calm(self) -> None:
        for proxy in self.proxies:
            proxy.rule = None

    def _strike(self, step: str, mishap: str, passage: Passage) -> None:
        self._calm()
        if mishap == "kill":
            self.worker.kill()
            raise Cut
        if mishap == "restart":
            self.tally.restarted[step] += 1
            self.stack.postgres.restart()
            return
        if mishap == "cut":
            self.tally.cut[step] += 1
            raise Cut(self.dice.randrange(len(passage.data) + 1))

    def _let_in(self, *, until: str) -> None:
        self.stack.postgres.query(
            sql.SQL("ALTER ROLE {} VALID UNTIL {}").format(sql.Identifier(USERNAME), sql.Literal(until))
        )

    def _somebody_logs_in(self) -> bool:
        """Try the passwords of all retained versions."""
        client, arn = self.stack.secrets_manager.client(), self.stack.secret_arn
        versions = client.list_secret_version_ids(SecretId=arn, IncludeDeprecated=True)["Versions"]
        for version in reversed(versions):
            try:
                value = client.get_secret_value(SecretId=arn, VersionId=version["VersionId"])["SecretString"]
            except client.exceptions.ResourceNotFoundException:
                continue
            try:
                self.stack.postgres.connect(USERNAME, json.loads(value)["password"]).close()
            except psycopg2.OperationalError as error:
                if "password authentication failed" not in str(error):
                    raise
            else:
                return True
        return False


def run_chaos(rotations: int, screen: Screen, seed: int | None = None) -> Tally:
    """Rotate so often, and tell what happened; a seed brings the same mishaps again."""
    seed = random.randrange(1_000_000) if seed is None else seed  # noqa: S311 - no secret hangs on it
    columns = (TextColumn("rotating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=screen.live, disable=not screen.shows_progress)
    with ExitStack() as stack:
        servers = stack.enter_context(run_stack(settings={"ssl": "off"}))  # what is said can be followed
        log = stack.enter_context(TemporaryFile("w+"))
        keeper, postgres = servers.secrets_manager, servers.postgres
        proxies = (
            stack.enter_context(run_proxy("127.0.0.1", postgres.port)),
            stack.enter_context(run_proxy(keeper.address, keeper.port)),
        )
        client = keeper.client()
        value = json.loads(client.get_secret_value(SecretId=servers.secret_arn)["SecretString"])
        around = {"rotationHost": "127.0.0.1", "rotationPort": proxies[0].port, "sslmode": "disable"}
        client.put_secret_value(SecretId=servers.secret_arn, SecretString=json.dumps({**value, **around}))
        environment = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{proxies[1].port}"}
        worker = stack.enter_context(run_worker({**keeper.environment, **environment}, log.fileno()))
        chaos = Chaos(servers, worker, proxies, log, random.Random(seed))  # noqa: S311
        with bar:
            for _ in bar.track(range(rotations)):
                chaos.rotate()
    tally = chaos.tally
    screen.say(f"Rotations: {tally.done} done, {tally.cancelled} cancelled and begun anew.")
    screen.say()
    screen.row(ROW.format("", *rotation.STEPS, "in all"), style="bold")
    for title, count in tally.rows().items():
        screen.row(ROW.format(title, *(count[step] for step in rotation.STEPS), count.total()))
    screen.say()
    screen.say(f'To repeat this run: make rotate ARGS="--chaos {rotations} --seed {seed}"')
    counts = {title: {"in_all": count.total(), **count} for title, count in tally.rows().items()}
    screen.result({"seed": seed, "done": tally.done, "cancelled": tally.cancelled, **counts})
    return tally
