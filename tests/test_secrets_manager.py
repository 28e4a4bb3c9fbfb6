"""What one secret's API calls do, on a real HTTP emulator; the fake has to pass the same contract."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from local.servers import rotation
from rotation_lambda import clients, errors
from rotation_lambda import secrets_manager as adapter
from rotation_lambda.settings import PasswordPolicy
from rotation_lambda.staging import StagingLabel
from tests.conftest import serving
from tests.worlds.fakes import FakeClock, FakeSecretsManager
from tests.worlds.leaks import everything_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_secretsmanager import SecretsManagerClient

    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Secret

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:test/app/db-AbCdEf"


@dataclass(frozen=True, slots=True)
class Subject:
    """A secret, fake or real, with "first" under AWSCURRENT and an empty version under AWSPENDING."""

    secrets: adapter.SecretsManager | FakeSecretsManager
    current: str
    pending: str


@pytest.fixture(params=["fake", "real"])
def subject(request: pytest.FixtureRequest, make_secret: Callable[[object], Secret]) -> Subject:
    if request.param == "fake":
        current, pending = str(uuid4()), str(uuid4())
        labels = {StagingLabel.CURRENT: current, StagingLabel.PENDING: pending}
        return Subject(FakeSecretsManager({current: "first"}, labels), current, pending)
    secret = make_secret("first")
    client = secret.server.client()
    pending = rotation.begin(client, secret.arn, secret.server.function_arn)
    return Subject(
        adapter.SecretsManager(client, secret.arn, FakeClock().deadline()), secret.labels["AWSCURRENT"], pending
    )


class TestContract:
    """Held by the fake and by the emulator."""

    def test_tells_which_version_has_which_label(self, subject: Subject) -> None:
        versions = subject.secrets.describe_secret()
        assert versions.current == subject.current
        assert versions.with_label(StagingLabel.PENDING) == subject.pending
        assert versions.with_label(StagingLabel.PREVIOUS) is None
        assert versions.rotation_enabled is True
        assert not versions.deleted

    def test_tells_the_tags_by_their_names_in_small_letters(self, subject: Subject) -> None:
        tag = "aws:rds:primaryDBInstanceArn"
        if isinstance(subject.secrets, FakeSecretsManager):
            subject.secrets.tags[tag] = "Value"
        else:
            tags = [{"Key": tag, "Value": "Value"}]
            subject.secrets.client.tag_resource(SecretId=subject.secrets.secret_id, Tags=tags)  # type: ignore[arg-type]
        description = subject.secrets.describe()
        assert description.tags == {tag.lower(): "Value"}
        assert description.versions == subject.secrets.describe_secret()

    def test_reads_a_version_and_misses_the_value_of_an_empty_one(self, subject: Subject) -> None:
        assert subject.secrets.get_secret_value(subject.current) == "first"
        with pytest.raises(errors.MissingVersionError, match=subject.pending):
            subject.secrets.get_secret_value(subject.pending)

    def test_reads_once_what_it_has_read_or_stored(self, make_secret: Callable[[object], Secret]) -> None:
        secret, values = make_secret("first"), dict[str, str]()
        client, calls = secret.server.client(), secret.server.calls
        pending, current = (
            rotation.begin(client, secret.arn, secret.server.function_arn),
            secret.labels["AWSCURRENT"],
        )
        for _ in range(2):  # the second one is another step's, with what the first one knew
            secrets = adapter.SecretsManager(client, secret.arn, FakeClock().deadline(), values=values)
            calls.clear()
            secrets.put_secret_value(pending, "second", None)
            assert [secrets.get_secret_value(version) for version in (current, pending)] == ["first", "second"]
            read, asked = calls.count("GetSecretValue"), len(calls)
        assert (read, asked) == (0, 1)

    def test_makes_a_new_password_each_time(self, subject: Subject) -> None:
        made = {subject.secrets.get_random_password(PasswordPolicy(length=20)) for _ in range(3)}
        assert {len(password) for password in made} == {20}
        assert len(made) == 3

    def test_stores_a_value_under_pending_alone(self, subject: Subject) -> None:
        assert subject.secrets.put_secret_value(subject.pending, "second", None)
        assert subject.secrets.get_secret_value(subject.pending) == "second"
        assert subject.secrets.describe_secret().current == subject.current

    def test_stores_the_same_value_twice(self, subject: Subject) -> None:
        assert subject.secrets.put_secret_value(subject.pending, "second", None)
        assert subject.secrets.put_secret_value(subject.pending, "second", None)

    def test_stores_no_other_value_in_a_version_that_has_one(self, subject: Subject) -> None:
        assert subject.secrets.put_secret_value(subject.pending, "the twin's", None)
        assert not subject.secrets.put_secret_value(subject.pending, "ours", None)
        assert subject.secrets.get_secret_value(subject.pending) == "the twin's"

    def test_moves_the_current_label_and_the_previous_one_follows(self, subject: Subject) -> None:
        subject.secrets.put_secret_value(subject.pending, "second", None)
        subject.secrets.update_secret_version_stage(
            StagingLabel.CURRENT, move_to=subject.pending, remove_from=subject.current
        )
        versions = subject.secrets.describe_secret()
        assert versions.current == subject.pending
        assert versions.with_label(StagingLabel.PREVIOUS) == subject.current

    def test_leaves_the_current_label_where_a_twin_has_moved_it(self, subject: Subject) -> None:
        subject.secrets.put_secret_value(subject.pending, "second", None)
        for _ in range(2):
            subject.secrets.update_secret_version_stage(
                StagingLabel.CURRENT, move_to=subject.pending, remove_from=subject.current
            )
        assert subject.secrets.describe_secret().current == subject.pending

    def test_lists_every_retained_version_newest_first(self, subject: Subject) -> None:
        subject.secrets.put_secret_value(subject.pending, "second", None)
        assert subject.secrets.list_secret_version_ids() == [subject.pending, subject.current]


def test_lists_versions_without_a_label_of_every_page_by_their_dates() -> None:
    class Pages:
        """The client's one call that a listing needs."""

        def list_secret_version_ids(self, **request: object) -> dict[str, object]:
            assert request["IncludeDeprecated"] is True
            number = int(str(request.get("NextToken", "0")))
            version = {"VersionId": str(number), "CreatedDate": [20, 30, 10][number]}
            return {"Versions": [version], **({"NextToken": str(number + 1)} if number < 2 else {})}

    secrets = adapter.SecretsManager(Pages(), ARN, FakeClock().deadline())  # type: ignore[arg-type]
    assert secrets.list_secret_version_ids() == ["1", "0", "2"]


def test_lists_secrets_of_every_page_with_the_function_that_rotates_them() -> None:
    class Pages:
        """The client's one call that a listing needs."""

        def list_secrets(self, **request: object) -> dict[str, object]:
            number = int(str(request.get("NextToken", "0")))
            function = {"RotationLambdaARN": "function"} if number else {}
            return {"SecretList": [{"ARN": str(number), **function}], **({"NextToken": "1"} if not number else {})}

    secrets = adapter.SecretsManager(Pages(), "*", FakeClock().deadline())  # type: ignore[arg-type]
    assert secrets.list_secrets() == {"0": None, "1": "function"}


@contextmanager
def answering(status: int, body: dict[str, str]) -> Iterator[tuple[adapter.SecretsManager, list[Any]]]:
    """Serve every call the same answer, worded as Secrets Manager does; yield a secret and the requests for it."""
    with serving(json.dumps(body).encode(), status, json.loads) as (url, requests):
        yield adapter.SecretsManager(client(url), ARN, FakeClock().deadline()), requests


def client(endpoint: str) -> SecretsManagerClient:
    return boto3.client(
        "secretsmanager",
        endpoint_url=endpoint,
        region_name="eu-west-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (400, "AccessDeniedException", errors.AccessDeniedError),
            (400, "UnrecognizedClientException", errors.AccessDeniedError),
            (400, "DecryptionFailure", errors.AccessDeniedError),
            (400, "ThrottlingException", errors.SecretsManagerError),
            (500, "InternalServiceError", errors.SecretsManagerError),
            (400, "ValidationException", errors.SecretsManagerError),
            (400, "InvalidRequestException", errors.SecretsManagerError),
        ],
    )
    def test_have_a_class_by_what_an_operator_does(self, status: int, code: str, error: type[Exception]) -> None:
        with answering(status, {"__type": code, "Message": "no"}) as (secrets, _), pytest.raises(error) as caught:
            secrets.get_secret_value("v" * 32)
        assert type(caught.value) is error
        assert code in str(caught.value) or "denied" in str(caught.value)

    def test_name_the_action_and_the_resource_that_a_role_lacks(self) -> None:
        message = "User: role is not authorized to perform: secretsmanager:GetSecretValue because no policy allows"
        with (
            answering(400, {"__type": "AccessDeniedException", "Message": message}) as (secrets, _),
            pytest.raises(errors.AccessDeniedError, match=r"secretsmanager:GetSecretValue on arn:aws.* no policy"),
        ):
            secrets.get_secret_value("v" * 32)

    @pytest.mark.parametrize("code", ["ValidationException", "InternalServiceError", "InvalidParameterException"])
    def test_never_quote_what_was_sent(self, code: str) -> None:
        message = "Value 'marker-rotation-token' at 'rotationToken' failed; {'SecretString': 'marker-value'}"
        with answering(400, {"__type": code, "Message": message}) as (secrets, requests):
            with pytest.raises(errors.SecretsManagerError) as caught:
                secrets.put_secret_value("v" * 32, "marker-value", "marker-rotation-token-of-36-characters")
            assert "marker-value" in str(requests)
        assert "marker" not in everything_in(caught.value)

    def test_never_quote_a_parameter_that_botocore_refuses(self) -> None:
        secrets = adapter.SecretsManager(client("http://127.0.0.1:1"), ARN, FakeClock().deadline())
        with pytest.raises(errors.SecretsManagerError, match="ParamValidationError") as caught:
            secrets.put_secret_value("v" * 32, b"marker-value", "marker")  # type: ignore[arg-type]
        assert "marker" not in everything_in(caught.value)

    def test_say_that_nobody_answered(self) -> None:
        with pytest.raises(errors.SecretsManagerError, match=r"no answer.*EndpointConnectionError") as caught:
            adapter.SecretsManager(client("http://127.0.0.1:1"), ARN, FakeClock().deadline()).describe_secret()
        assert "443" in caught.value.hint

    def test_tell_missing_credentials_from_a_missing_way(
        self, secrets_manager: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in secrets_manager.environment.items():
            if not name.endswith(("KEY_ID", "ACCESS_KEY", "TOKEN")):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        with pytest.raises(errors.SecretsManagerError, match="NoCredentialsError") as caught:
            adapter.SecretsManager(clients.secrets_manager(), "app", FakeClock().deadline(60)).describe()
        assert "aws sso login" in caught.value.hint

    def test_tell_a_missing_secret_from_a_missing_version(self, secrets_manager: SecretsManagerServer) -> None:
        with pytest.raises(errors.SecretNotFoundError):
            adapter.SecretsManager(secrets_manager.client(), ARN, FakeClock().deadline()).describe_secret()

    def test_tell_a_deleted_secret(self, make_secret: Callable[[object], Secret]) -> None:
        secret = make_secret("first")
        version = secret.labels["AWSCURRENT"]
        secret.server.client().delete_secret(SecretId=secret.arn)
        secrets = adapter.SecretsManager(secret.server.client(), secret.arn, FakeClock().deadline())
        assert secrets.describe_secret().deleted
        with pytest.raises(errors.SecretDeletedError):
            secrets.get_secret_value(version)

    def test_refuse_a_binary_value(self, secrets_manager: SecretsManagerServer) -> None:
        client = secrets_manager.client()
        created = client.create_secret(Name=f"test/{uuid4()}", SecretBinary=b"binary")
        with pytest.raises(errors.InvalidSecretError, match="SecretBinary"):
            adapter.SecretsManager(client, created["ARN"], FakeClock().deadline()).get_secret_value(
                created["VersionId"]
            )


class TestPutSecretValue:
    def test_reports_another_value_in_the_version(self) -> None:
        body = {"__type": "ResourceExistsException", "Message": "exists"}
        with answering(400, body) as (secrets, _):
            assert not secrets.put_secret_value("v" * 32, "value", None)
        assert secrets.values == {}

    @pytest.mark.parametrize("token", [None, "rotation-token-of-36-characters-at-least"])
    def test_sends_the_rotation_token_only_where_there_is_one(self, token: str | None) -> None:
        with answering(200, {}) as (secrets, requests):
            secrets.put_secret_value("v" * 32, "value", token)
        [request] = requests
        assert request.get("RotationToken") == token
        assert request["VersionStages"] == ["AWSPENDING"]
        assert request["ClientRequestToken"] == "v" * 32
