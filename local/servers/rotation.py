"""Secrets Manager's own part in a rotation: stage an empty AWSPENDING, invoke the four steps, retry the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mypy_boto3_secretsmanager import SecretsManagerClient

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")

Invoke = Callable[[dict[str, str]], object]
"""Hands an event to the function and raises what the function raises."""


def begin(client: SecretsManagerClient, secret_arn: str, function_arn: str) -> str:
    """Stage a new version AWSPENDING, without a value, and return its id: the client request token.

    An AWSPENDING that the last rotation left on AWSCURRENT is detached first: AWS takes it for the sign of a rotation
    that is over, moto for one in progress. One left elsewhere is abandoned, where AWS might refuse until cancel().
    """
    versions = client.describe_secret(SecretId=secret_arn)["VersionIdsToStages"].values()
    if any({"AWSCURRENT", "AWSPENDING"} <= set(stages) for stages in versions):
        detach_pending(client, secret_arn)
    token = str(uuid4())
    client.rotate_secret(
        SecretId=secret_arn,
        ClientRequestToken=token,
        RotationLambdaARN=function_arn,
        RotationRules={"AutomaticallyAfterDays": 30},  # by which moto sets RotationEnabled
        RotateImmediately=True,  # past moto's inverted check
    )
    return token


def invoke_steps(
    invoke: Invoke, secret_arn: str, token: str, *, rotation_token: str | None = None, steps: Sequence[str] = STEPS
) -> None:
    """Send one event per step, in order, until one raises."""
    extra = {} if rotation_token is None else {"RotationToken": rotation_token}
    for step in steps:
        invoke({"Step": step, "SecretId": secret_arn, "ClientRequestToken": token, **extra})


def rotate(
    client: SecretsManagerClient, invoke: Invoke, secret_arn: str, function_arn: str, *, attempts: int = 3
) -> str:
    """Rotate the secret and return the token; a failed step has all four tried again, under the same token.

    The last attempt's failure is raised, and AWSPENDING stays where it was. AWS does not say how often it tries.
    """
    token = begin(client, secret_arn, function_arn)
    for attempt in range(1, attempts + 1):
        try:
            invoke_steps(invoke, secret_arn, token)
        except Exception:
            if attempt == attempts:
                raise
        else:
            break
    return token


def cancel(client: SecretsManagerClient, secret_arn: str) -> None:
    """Turn rotation off by CancelRotateSecret and take AWSPENDING away, as AWS advises after a rotation got stuck.

    The version stays readable by its id. The next begin() turns rotation on again.
    """
    client.cancel_rotate_secret(SecretId=secret_arn)
    detach_pending(client, secret_arn)


@contextmanager
def begin_test_only(
    client: SecretsManagerClient, secret_arn: str, function_arn: str, *, empty: bool = False
) -> Iterator[str]:
    """Stage AWSPENDING as RotateImmediately=false does, for testSecret alone, and take the label away afterwards.

    AWS does not say whether that version is a copy of AWSCURRENT or `empty`; a function has to live with either.
    """
    token = begin(client, secret_arn, function_arn)
    if not empty:  # moto's own RotateImmediately=false copies the value that the secret was created with
        current = client.get_secret_value(SecretId=secret_arn, VersionStage="AWSCURRENT")["SecretString"]
        client.put_secret_value(
            SecretId=secret_arn, ClientRequestToken=token, VersionStages=["AWSPENDING"], SecretString=current
        )
    try:
        yield token
    finally:
        detach_pending(client, secret_arn)


@dataclass(frozen=True, slots=True)
class Labels:
    """Which version each staging label is on, and which of these versions have no value."""

    versions: Mapping[str, str]
    empty: frozenset[str]

    def cell(self, label: str) -> str:
        """Tell in a table's cell where `label` is: `8fd5`, `8fd5 (empty)` or `-`."""
        version = self.versions.get(label)
        if version is None:
            return "-"
        return f"{version[:4]} (empty)" if version in self.empty else version[:4]


def labels(client: SecretsManagerClient, secret_arn: str) -> Labels:
    """Look where the labels are (DescribeSecret) and what they are on (GetSecretValue, each version once).

    A label on two versions, which moto lets happen and AWS does not, is a ValueError.
    """
    versions: dict[str, str] = {}
    empty: set[str] = set()
    for version, stages in client.describe_secret(SecretId=secret_arn)["VersionIdsToStages"].items():
        for label in stages:
            if versions.setdefault(label, version) != version:
                raise ValueError(f"{label} is on two versions: {versions[label]} and {version}")
        try:
            client.get_secret_value(SecretId=secret_arn, VersionId=version)
        except client.exceptions.ResourceNotFoundException:
            empty.add(version)
    return Labels(versions, frozenset(empty))


def detach_pending(client: SecretsManagerClient, secret_arn: str) -> None:
    """Take AWSPENDING off the version it is on, if it is on any."""
    for version, stages in client.describe_secret(SecretId=secret_arn)["VersionIdsToStages"].items():
        if "AWSPENDING" in stages:
            client.update_secret_version_stage(
                SecretId=secret_arn, VersionStage="AWSPENDING", RemoveFromVersionId=version
            )
