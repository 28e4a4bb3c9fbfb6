"""Applications that read AWSCURRENT and log in afresh, as fast as they can, while it rotates: who is refused, and when.

ROTATIONS=100 takes more of them; the figures are in the last lines of the run.
"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import psycopg2
import pytest

from tests import conftest
from tests.worlds.clocks import wait_until
from tests.worlds.scenes import Scene, scene, set_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_secretsmanager import SecretsManagerClient

__all__ = ["scene", "set_scene"]

ROTATIONS = int(os.environ.get("ROTATIONS", "5"))
CLIENTS = 4
COMMIT = re.compile(r"^(.{23}) UTC \[\d+\] LOG:  statement: COMMIT$", re.MULTILINE)

pytestmark = [pytest.mark.timeout(60 + 10 * ROTATIONS), pytest.mark.costly("applications")]


class Login(NamedTuple):
    """When AWSCURRENT was asked for, when the database had answered, and what."""

    began: float
    ended: float
    accepted: bool


@dataclass(slots=True)
class Clients:
    logins: list[Login] = field(default_factory=list)

    def work(self, scene: Scene, stop: Event) -> None:
        client = scene.secret.server.client()
        while not stop.is_set():
            began = time.time()
            login = read_current(client, scene.secret.arn)
            accepted = True
            try:
                scene.server.connect(login["username"], login["password"]).close()
            except psycopg2.OperationalError as error:
                if "password authentication failed" not in str(error):
                    raise
                accepted = False
            self.logins.append(Login(began, time.time(), accepted))

    @property
    def refused(self) -> list[Login]:
        return [login for login in self.logins if not login.accepted]


def read_current(client: SecretsManagerClient, arn: str) -> dict[str, str]:
    """Read AWSCURRENT; while moto moves the label, for a moment no version has it."""
    while True:
        try:
            value = client.get_secret_value(SecretId=arn, VersionStage="AWSCURRENT")["SecretString"]
        except client.exceptions.ResourceNotFoundException:
            continue
        return dict(json.loads(value))


@contextmanager
def clients(scene: Scene) -> Iterator[Clients]:
    """Let them work until the block ends; what stops one, other than a refusal, is raised there."""
    all_of_them, stop = Clients(), Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        work = [pool.submit(all_of_them.work, scene, stop) for _ in range(CLIENTS)]
        try:
            yield all_of_them
        finally:
            stop.set()
    for one in work:
        one.result()


def rotate(scene: Scene, in_the_window: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Rotate once; return when setSecret began to commit, by the server's log, and when finishSecret was done."""
    token = scene.begin()
    scene.take(token, "createSecret")
    logged = len(scene.server.log())
    scene.take(token, "setSecret")
    _, changes, rest = scene.server.log()[logged:].partition(" PASSWORD 'SCRAM-SHA-256$")
    commit = COMMIT.search(rest)
    assert changes
    assert commit is not None
    in_the_window()
    scene.take(token, "testSecret", "finishSecret")
    moment = datetime.strptime(commit[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    return moment.timestamp(), time.time()


def report(strategy: str, all_of_them: Clients, windows: list[float]) -> None:
    logins, refused = len(all_of_them.logins), len(all_of_them.refused)
    conftest.FIGURES.append(
        f"{strategy}: {ROTATIONS} rotations, {logins} logins by {CLIENTS} clients, {refused} refused; from setSecret's "
        f"COMMIT to the end of finishSecret {median(windows):.3f} seconds (median), {max(windows):.3f} at most."
    )


def test_alternating_users_have_no_refused_login(scene: Scene) -> None:
    with clients(scene) as all_of_them:
        windows = [end - begin for begin, end in (rotate(scene) for _ in range(ROTATIONS))]
    report("alternating-users", all_of_them, windows)
    assert len(all_of_them.logins) > 2 * ROTATIONS
    assert all_of_them.refused == []


@pytest.mark.parametrize("strategy", ["single-user", "superuser"])
def test_a_single_user_is_refused_between_the_change_and_the_move_alone(
    strategy: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTATION_STRATEGY", strategy)

    def stay_open() -> None:
        refused = len(all_of_them.refused)
        wait_until(lambda: len(all_of_them.refused) > refused, "a client is refused in the window")

    with clients(scene) as all_of_them:
        windows = [rotate(scene, stay_open) for _ in range(ROTATIONS)]
    report(strategy, all_of_them, [end - begin for begin, end in windows])
    for login in all_of_them.refused:
        assert any(begin - 0.001 <= login.ended and login.began <= end for begin, end in windows), login
