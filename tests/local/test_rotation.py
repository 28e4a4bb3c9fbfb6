"""Secrets Manager's own part in a rotation is as on AWS, whether a test carries it out or RotateSecret asks for it."""

from __future__ import annotations

import re
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from local.servers import rotation, rotator, secrets_manager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_secretsmanager import SecretsManagerClient

    from local.servers.secrets_manager import SecretsManagerServer


@pytest.fixture(scope="module")
def secrets() -> Iterator[SecretsManagerServer]:
    with secrets_manager.run_secrets_manager() as server:
        yield server


@pytest.fixture
def arn(secrets: SecretsManagerServer) -> str:
    return secrets.create_secret(f"db/{uuid4().hex}", {"username": "app", "password": "first"})


def test_what_names_no_label_means_the_current_version_while_a_rotation_is_under_way(
    secrets: SecretsManagerServer, arn: str
) -> None:
    client = secrets.client()
    token = rotation.begin(client, arn, secrets.function_arn)
    assert client.get_secret_value(SecretId=arn)["VersionStages"] == ["AWSCURRENT"]
    for stages in (["AWSPENDING"], ["AWSCURRENT"]):
        client.put_secret_value(
            SecretId=arn,
            ClientRequestToken=token if stages == ["AWSPENDING"] else str(uuid4()),
            VersionStages=stages,
            SecretString="{}",
        )
    labels = rotation.labels(client, arn).versions
    assert len({*labels.values()}) == 3
    assert labels["AWSPENDING"] == token
    client.update_secret_version_stage(
        SecretId=arn, VersionStage="AWSCURRENT", RemoveFromVersionId=labels["AWSCURRENT"], MoveToVersionId=token
    )
    assert client.get_secret_value(SecretId=arn)["VersionId"] == token


class Function:
    """A rotation function that does to the labels what it should; `fails` are the steps that raise, one time each."""

    def __init__(self, client: SecretsManagerClient, *fails: str) -> None:
        self.client = client
        self.fails = list(fails)
        self.events: list[dict[str, str]] = []

    def __call__(self, event: dict[str, str]) -> None:
        self.events.append(event)
        if event["Step"] in self.fails:
            self.fails.remove(event["Step"])
            raise RuntimeError(event["Step"])
        secret, token = event["SecretId"], event["ClientRequestToken"]
        stages = self.client.describe_secret(SecretId=secret)["VersionIdsToStages"]
        [current] = [version for version, labels in stages.items() if "AWSCURRENT" in labels]
        match event["Step"]:
            case "createSecret":
                value = f"made for {token}"
                self.client.put_secret_value(
                    SecretId=secret, ClientRequestToken=token, VersionStages=["AWSPENDING"], SecretString=value
                )
            case "finishSecret":
                move = {"RemoveFromVersionId": current, "MoveToVersionId": token}
                self.client.update_secret_version_stage(SecretId=secret, VersionStage="AWSCURRENT", **move)
            case _:
                pass

    @property
    def steps(self) -> list[str]:
        return [event["Step"] for event in self.events]


def test_rotation_begins_with_an_awspending_that_has_no_value(secrets: SecretsManagerServer, arn: str) -> None:
    client = secrets.client()
    token = rotation.begin(client, arn, secrets.function_arn)
    secret = client.describe_secret(SecretId=arn)
    assert secret["VersionIdsToStages"][token] == ["AWSPENDING"]
    assert secret["RotationEnabled"] is True
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_secret_value(SecretId=arn, VersionId=token, VersionStage="AWSPENDING")


def test_rotation_invokes_the_four_steps_in_order(secrets: SecretsManagerServer, arn: str) -> None:
    function = Function(secrets.client())
    token = rotation.rotate(secrets.client(), function, arn, secrets.function_arn)
    assert function.steps == ["createSecret", "setSecret", "testSecret", "finishSecret"]
    assert all(event.keys() == {"Step", "SecretId", "ClientRequestToken"} for event in function.events)
    assert {(event["SecretId"], event["ClientRequestToken"]) for event in function.events} == {(arn, token)}


def test_rotation_passes_a_rotation_token_in_every_event() -> None:
    events: list[dict[str, str]] = []
    rotation.invoke_steps(events.append, "arn", "token", rotation_token="from another account")
    assert [event["RotationToken"] for event in events] == ["from another account"] * 4


def test_rotation_moves_the_labels(secrets: SecretsManagerServer, arn: str) -> None:
    client = secrets.client()
    before = rotation.labels(client, arn)
    token = rotation.rotate(client, Function(client), arn, secrets.function_arn)
    after = rotation.labels(client, arn)
    assert (after.versions["AWSCURRENT"], after.versions["AWSPREVIOUS"]) == (token, before.versions["AWSCURRENT"])


def test_rotation_begins_again_although_awspending_stayed_on_awscurrent(
    secrets: SecretsManagerServer, arn: str
) -> None:
    client = secrets.client()
    first = rotation.rotate(client, Function(client), arn, secrets.function_arn)
    assert rotation.labels(client, arn).versions["AWSPENDING"] == first
    second = rotation.rotate(client, Function(client), arn, secrets.function_arn)
    assert rotation.labels(client, arn).versions == {
        "AWSCURRENT": second,
        "AWSPENDING": second,
        "AWSPREVIOUS": first,
    }


def test_rotation_is_retried_as_a_whole_with_the_same_token(secrets: SecretsManagerServer, arn: str) -> None:
    function = Function(secrets.client(), "testSecret", "setSecret")
    token = rotation.rotate(secrets.client(), function, arn, secrets.function_arn)
    assert function.steps == [*rotation.STEPS[:2], *rotation.STEPS[:3], *rotation.STEPS]
    assert {event["ClientRequestToken"] for event in function.events} == {token}


def test_rotation_raises_the_last_failure_and_leaves_awspending(secrets: SecretsManagerServer, arn: str) -> None:
    client = secrets.client()
    function = Function(client, "testSecret", "createSecret")
    with pytest.raises(RuntimeError, match="testSecret"):
        rotation.rotate(client, function, arn, secrets.function_arn, attempts=2)
    assert function.steps == ["createSecret", *rotation.STEPS[:3]]
    assert "AWSPENDING" in rotation.labels(client, arn).versions


def test_labels_are_drawn_as_a_table_shows_them(secrets: SecretsManagerServer, arn: str) -> None:
    client = secrets.client()
    token = rotation.begin(client, arn, secrets.function_arn)
    labels = rotation.labels(client, arn)
    assert labels.empty == {token}
    assert re.fullmatch("[0-9a-f]{4}", labels.cell("AWSCURRENT"))
    assert (labels.cell("AWSPENDING"), labels.cell("AWSPREVIOUS")) == (f"{token[:4]} (empty)", "-")


def test_labels_do_not_hide_one_that_is_on_two_versions() -> None:
    """As moto by itself has it at a PutSecretValue after the label was moved by hand."""
    stages = {"first": ["AWSCURRENT"], "second": ["AWSCURRENT"]}
    client: Any = SimpleNamespace(
        describe_secret=lambda **_: {"VersionIdsToStages": stages},
        get_secret_value=lambda **_: {},
        exceptions=SimpleNamespace(ResourceNotFoundException=KeyError),
    )
    with pytest.raises(ValueError, match="AWSCURRENT is on two versions: first and second"):
        rotation.labels(client, "arn")


def test_cancel_takes_awspending_away_and_keeps_its_version(secrets: SecretsManagerServer, arn: str) -> None:
    client = secrets.client()
    token = rotation.begin(client, arn, secrets.function_arn)
    rotation.invoke_steps(Function(client), arn, token, steps=["createSecret"])
    rotation.cancel(client, arn)
    assert rotation.labels(client, arn).versions.keys() == {"AWSCURRENT"}
    assert client.describe_secret(SecretId=arn)["RotationEnabled"] is False
    assert client.get_secret_value(SecretId=arn, VersionId=token)["SecretString"] == f"made for {token}"
    rotation.begin(client, arn, secrets.function_arn)
    assert client.describe_secret(SecretId=arn)["RotationEnabled"] is True


@pytest.mark.parametrize("empty", [False, True])
def test_only_tests_with_a_copy_of_awscurrent_or_nothing(
    secrets: SecretsManagerServer,
    arn: str,
    empty: bool,  # noqa: FBT001 - a parameter
) -> None:
    client = secrets.client()
    current = rotation.rotate(client, Function(client), arn, secrets.function_arn)
    function = Function(client)
    with rotation.begin_test_only(client, arn, secrets.function_arn, empty=empty) as token:
        labels = rotation.labels(client, arn)
        assert (labels.versions["AWSPENDING"], labels.versions["AWSCURRENT"]) == (token, current)
        assert labels.empty == ({token} if empty else set())
        if not empty:
            assert client.get_secret_value(SecretId=arn, VersionId=token)["SecretString"] == f"made for {current}"
        rotation.invoke_steps(function, arn, token, steps=["testSecret"])
    assert function.steps == ["testSecret"]
    labels = rotation.labels(client, arn)
    assert (labels.versions["AWSCURRENT"], "AWSPENDING" in labels.versions) == (current, False)


def test_rotation_refuses_a_function_that_is_not_there(secrets: SecretsManagerServer, arn: str) -> None:
    with pytest.raises(ClientError, match="Resource not found"):
        rotation.begin(secrets.client(), arn, secrets.function_arn + "-of-another-name")


class TestRotateSecret:
    """What `make local` does when the AWS CLI asks for a rotation."""

    @pytest.fixture(autouse=True)
    def attached(self, secrets: SecretsManagerServer, arn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(rotator, "PAUSE_S", 0.0)
        self.function, self.told = Function(secrets.client()), Told()
        with rotator.rotating(secrets, self.function, self.told):
            secrets.client().rotate_secret(
                SecretId=arn, RotationLambdaARN=secrets.function_arn, RotateImmediately=False
            )
            assert self.told.wait("tested") == ["testSecret", "tested"]
            yield

    def test_attaching_invokes_test_secret_alone_and_leaves_the_labels(
        self, secrets: SecretsManagerServer, arn: str
    ) -> None:
        assert self.function.steps == ["testSecret"]
        assert rotation.labels(secrets.client(), arn).versions.keys() == {"AWSCURRENT"}
        assert secrets.client().describe_secret(SecretId=arn)["RotationEnabled"] is True

    def test_rotates_by_the_secrets_name_and_remembers_the_function(
        self, secrets: SecretsManagerServer, arn: str
    ) -> None:
        client = secrets.client()
        name = client.describe_secret(SecretId=arn)["Name"]
        for _ in range(2):
            version = client.rotate_secret(SecretId=name)["VersionId"]
            assert self.told.wait("rotated") == [*rotation.STEPS, "rotated"]
            assert rotation.labels(client, arn).versions["AWSCURRENT"] == version
        assert {event["SecretId"] for event in self.function.events} == {arn}

    def test_tries_all_steps_again_and_goes_on_with_the_same_version_when_asked_again(
        self, secrets: SecretsManagerServer, arn: str
    ) -> None:
        client = secrets.client()
        self.function.fails = ["setSecret"] * 4
        version = client.rotate_secret(SecretId=arn)["VersionId"]
        assert self.told.wait("failed") == [
            *["createSecret", "setSecret", "retry"] * 2,
            "createSecret",
            "setSecret",
            "failed",
        ]
        assert [str(error) for error in self.told.errors] == ["setSecret"] * 3
        assert rotation.labels(client, arn).versions["AWSPENDING"] == version
        with pytest.raises(client.exceptions.InvalidRequestException, match="A previous rotation isn't complete"):
            client.rotate_secret(SecretId=arn)
        assert self.told.wait("rotated")[-6:] == ["setSecret", "retry", *rotation.STEPS, "rotated"][-6:]
        assert rotation.labels(client, arn).versions["AWSCURRENT"] == version

    def test_rotates_again_after_a_cancel(self, secrets: SecretsManagerServer, arn: str) -> None:
        client = secrets.client()
        rotation.cancel(client, arn)
        version = client.rotate_secret(SecretId=arn)["VersionId"]
        self.told.wait("rotated")
        assert rotation.labels(client, arn).versions["AWSCURRENT"] == version
        assert client.describe_secret(SecretId=arn)["RotationEnabled"] is True

    def test_refuses_a_secret_that_has_no_function_and_one_that_is_not_there(
        self, secrets: SecretsManagerServer
    ) -> None:
        client = secrets.client()
        bare = secrets.create_secret("bare", "1")
        with pytest.raises(client.exceptions.InvalidRequestException, match="No Lambda rotation function ARN"):
            client.rotate_secret(SecretId=bare)
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.rotate_secret(SecretId="nowhere")

    def test_leaves_alone_what_somebody_else_rotates(self, secrets: SecretsManagerServer) -> None:
        container = secrets.create_secret("container", "1")
        with rotator.rotating(secrets, self.function, self.told, left_alone=container):
            token = rotation.begin(secrets.client(), container, secrets.function_arn)
        assert rotation.labels(secrets.client(), container).empty == {token}
        assert self.function.steps == ["testSecret"]
        secrets.carried_out["RotateSecret"] = lambda request, hand_on: hand_on(
            request
        )  # for the end of the outer block


class Told:
    """What a person is told, in order."""

    def __init__(self) -> None:
        self.all: SimpleQueue[tuple[str, str, str, Exception | None]] = SimpleQueue()
        self.errors: list[Exception] = []

    def __call__(self, name: str, version: str, what: str, error: Exception | None) -> None:
        self.all.put((name, version, what, error))

    def wait(self, last: str) -> list[str]:
        """Return what was told up to `last`."""
        heard = []
        while last not in heard:
            _, _, what, error = self.all.get(timeout=60)
            heard.append(what)
            self.errors += [error] if error else []
        return heard
