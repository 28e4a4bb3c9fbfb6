"""Many rotations at once, and a quota that lets a part of their writes through: none is lost, and none is cut off."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush
from threading import Condition
from typing import TYPE_CHECKING, Any

import pytest

from local.servers import rotation
from local.servers.secrets_manager import Quota
from rotation_lambda import steps
from rotation_lambda.deadline import Deadline
from rotation_lambda.errors import RotationError
from rotation_lambda.rotation import Rotation
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import PasswordPolicy, Strategy
from tests.worlds.clients import make_client
from tests.worlds.fakes import FakeDatabase, FakeSuperusers

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Secret

SECRETS = 50
STEP_S = 59.0
CALL_S = 0.02
OFFERED = 2 * SECRETS / (13 * CALL_S)
"""The writes of a second, where none has to wait: two of a rotation's thirteen calls."""

LOGIN = {"engine": "postgres", "host": "db.example", "username": "app", "password": "old"}
STEPS: dict[str, Callable[[Rotation], None]] = {
    "createSecret": lambda rotation: steps.create_secret(rotation, PasswordPolicy()),
    "setSecret": steps.set_secret,
    "testSecret": steps.test_secret,
    "finishSecret": steps.finish_secret,
}


@dataclass(slots=True)
class Time:
    """Time of these tests' own: it passes when all are asleep, to the moment at which the first one wakes up."""

    awake: int
    now: float = 0.0
    _alarms: list[float] = field(default_factory=list)
    _passes: Condition = field(default_factory=Condition)

    def sleep(self, seconds: float) -> None:
        with self._passes:
            alarm = self.now + seconds
            heappush(self._alarms, alarm)
            self._doze_off()
            while self.now < alarm:
                self._passes.wait()

    def leave(self) -> None:
        with self._passes:
            self._doze_off()

    def _doze_off(self) -> None:
        self.awake -= 1
        if self.awake or not self._alarms:
            return
        self.now = self._alarms[0]
        while self._alarms and self._alarms[0] <= self.now:
            heappop(self._alarms)
            self.awake += 1
        self._passes.notify_all()


@dataclass(slots=True)
class Fleet:
    """Secrets that rotate at the same time, each in its own process, which has one try."""

    server: SecretsManagerServer
    make_secret: Callable[[object], Secret]
    time: Time = field(default_factory=lambda: Time(SECRETS))
    quota: Quota = field(default_factory=lambda: Quota(1))
    late: list[float] = field(default_factory=list)

    def rotate(self, per_second: float) -> list[RotationError]:
        """Rotate all, with so many writes a second; return the failures."""
        secrets = [self.make_secret(LOGIN) for _ in range(SECRETS)]
        tokens = [rotation.begin(self.server.client(), one.arn, self.server.function_arn) for one in secrets]
        quota = self.quota = Quota(per_second, lambda: self.time.now)

        def answer(operation: str) -> tuple[int, str] | None:
            self.time.sleep(CALL_S)
            return quota(operation)

        client = make_client(self.server, secrets[0].arn, over_http=False, refuse=answer)
        databases = [FakeDatabase("app", "old") for _ in secrets]
        with ThreadPoolExecutor(SECRETS) as processes:
            arns = [one.arn for one in secrets]
            failures = list(processes.map(self._rotate, [client] * SECRETS, arns, tokens, databases))
        for secret, token, database, failure in zip(secrets, tokens, databases, failures, strict=True):
            assert failure or (
                secret.labels["AWSCURRENT"] == token and secret.document()["password"] == database.password
            )
        return [failure for failure in failures if failure]

    def _rotate(
        self,
        client: Any,  # noqa: ANN401 - boto3 makes it
        arn: str,
        token: str,
        database: FakeDatabase,
    ) -> RotationError | None:
        try:
            for step in rotation.STEPS:
                deadline = Deadline(self.time.now + STEP_S, lambda: self.time.now, self.time.sleep)
                keeper = SecretsManager(client, arn, deadline)
                versions = keeper.describe_secret()
                now = Rotation(token, versions, keeper, database, deadline, FakeSuperusers(), Strategy.AUTO)
                try:
                    STEPS[step](now)
                finally:
                    self.late += [self.time.now - deadline.end] if self.time.now > deadline.end else []
        except RotationError as error:
            return error
        finally:
            self.time.leave()
        return None


@pytest.fixture
def fleet(secrets_manager: SecretsManagerServer, make_secret: Callable[[object], Secret]) -> Fleet:
    return Fleet(secrets_manager, make_secret)


@pytest.mark.parametrize("per_second", [OFFERED / 3, 3.0])
def test_loses_none(per_second: float, fleet: Fleet) -> None:
    assert fleet.rotate(per_second) == []
    assert fleet.late == []
    assert fleet.quota.throttled > SECRETS
