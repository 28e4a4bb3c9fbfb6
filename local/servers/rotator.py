"""RotateSecret as AWS does it: answered at once, then the function is invoked for each step, and retried."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from local.servers import rotation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mypy_boto3_secretsmanager import SecretsManagerClient

    from local.servers.rotation import Invoke
    from local.servers.secrets_manager import Answer, SecretsManagerServer

ATTEMPTS = 3
"""How often a rotation is tried; AWS says "multiple times"."""

PAUSE_S = 2.0

Tell = Callable[[str, str, str, "Exception | None"], None]
"""Hears of the secret's name, the version, the step or outcome, and what it failed with."""


@dataclass(frozen=True, slots=True)
class _Rotation:
    name: str
    arn: str
    version: str
    steps: Sequence[str] = rotation.STEPS


@dataclass(slots=True, eq=False)
class Rotator:
    """Does what RotateSecret asks, whose function moto only names: it forgets it, and promotes what was never set.

    The function is invoked in a thread of its own, for one rotation after the other; for the secret `left_alone`,
    another process invokes it.
    """

    server: SecretsManagerServer
    invoke: Invoke
    tell: Tell
    left_alone: str = ""
    client: SecretsManagerClient = field(init=False)
    _asked: SimpleQueue[_Rotation | None] = field(default_factory=SimpleQueue, init=False)

    def __post_init__(self) -> None:
        self.client = self.server.client()

    def answer(self, request: dict[str, Any], hand_on: Callable[[dict[str, Any]], Answer]) -> Answer:
        """Answer RotateSecret as AWS does, and let the rotation begin."""
        try:
            secret = self.client.describe_secret(SecretId=request["SecretId"])
        except self.client.exceptions.ResourceNotFoundException:
            return hand_on(request)
        function = request.setdefault("RotationLambdaARN", secret.get("RotationLambdaARN"))
        if not function:
            return _refusal("No Lambda rotation function ARN is associated with this secret.")
        if function != self.server.function_arn or secret["ARN"] == self.left_alone:
            return hand_on(request)
        request.setdefault("RotationRules", {"AutomaticallyAfterDays": 30})
        name, arn = secret["Name"], secret["ARN"]
        where = rotation.labels(self.client, arn).versions
        if where.get("AWSPENDING") not in {None, where.get("AWSCURRENT")}:
            self._asked.put(_Rotation(name, arn, where["AWSPENDING"]))
            return _refusal("A previous rotation isn't complete. That rotation will be reattempted.")
        rotation.detach_pending(
            self.client, arn
        )  # on AWSCURRENT it is the sign of a rotation that is over; moto refuses
        status, answer = hand_on(request)
        if status == 200:  # noqa: PLR2004
            steps = rotation.STEPS if request.get("RotateImmediately", True) else ("testSecret",)
            self._asked.put(_Rotation(name, arn, answer["VersionId"], steps))
        return status, answer

    def work(self) -> None:
        """Carry out what is asked for until None is."""
        while asked := self._asked.get():
            if asked.steps == rotation.STEPS:
                self._rotate(asked)
            else:
                self._test(asked)

    def end(self) -> None:
        """Let work() end after what has been asked for already."""
        self._asked.put(None)

    def _rotate(self, asked: _Rotation) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if self._take(asked):
                self.tell(asked.name, asked.version, "rotated", None)
                return
            if attempt < ATTEMPTS:
                self.tell(asked.name, asked.version, "retry", None)
                time.sleep(PAUSE_S)
        self.tell(asked.name, asked.version, "failed", None)

    def _test(self, asked: _Rotation) -> None:
        """Invoke testSecret alone, for a copy of AWSCURRENT; moto copies the value that the secret began with."""
        current = self.client.get_secret_value(SecretId=asked.arn, VersionStage="AWSCURRENT")["SecretString"]
        self.client.put_secret_value(
            SecretId=asked.arn, ClientRequestToken=asked.version, VersionStages=["AWSPENDING"], SecretString=current
        )
        tested = self._take(asked)
        rotation.detach_pending(self.client, asked.arn)
        self.tell(asked.name, asked.version, "tested" if tested else "failed", None)

    def _take(self, asked: _Rotation) -> bool:
        for step in asked.steps:
            try:
                rotation.invoke_steps(self.invoke, asked.arn, asked.version, steps=[step])
            except Exception as error:  # noqa: BLE001 - Lambda, too, reports whatever it is
                self.tell(asked.name, asked.version, step, error)
                return False
            self.tell(asked.name, asked.version, step, None)
        return True


def _refusal(text: str) -> Answer:
    return 400, {"__type": "InvalidRequestException", "message": text}


@contextmanager
def rotating(server: SecretsManagerServer, invoke: Invoke, tell: Tell, *, left_alone: str = "") -> Iterator[None]:
    """Let RotateSecret of the server invoke the function, as long as the block lasts."""
    rotator = Rotator(server, invoke, tell, left_alone)
    thread = Thread(target=rotator.work, name="rotator", daemon=True)
    thread.start()
    server.carried_out["RotateSecret"] = rotator.answer
    try:
        yield
    finally:
        server.carried_out.pop("RotateSecret", None)
        rotator.end()
