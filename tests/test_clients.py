"""Clients outlive an invocation and follow the environment; calls are repeated where that may help, and in time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from urllib3.util import connection

from local.servers import rotation
from local.servers.proxy import Cut, Passage, Rule, run_proxy
from local.servers.secrets_manager import run_secrets_manager
from rotation_lambda import clients, errors
from rotation_lambda.rds import Rds
from rotation_lambda.secrets_manager import SecretsManager
from rotation_lambda.settings import PasswordPolicy
from rotation_lambda.staging import SecretVersions, StagingLabel
from tests.conftest import Secret
from tests.worlds.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from local.servers.proxy import Proxy
    from local.servers.secrets_manager import SecretsManagerServer

Reach = Callable[[Rule | None], "AbstractContextManager[Proxy]"]
CURRENT = StagingLabel.CURRENT


@pytest.fixture
def environment(secrets_manager: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Be in the environment of a function that finds the stand-in."""
    for name, value in secrets_manager.environment.items():
        monkeypatch.setenv(name, value)
    return secrets_manager.environment


@pytest.fixture
def reach(environment: dict[str, str], secrets_manager: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch) -> Reach:
    """Lead the function's client to the stand-in by a proxy."""

    @contextmanager
    def by(rule: Rule | None) -> Iterator[Proxy]:
        with run_proxy(secrets_manager.address, secrets_manager.port, rule) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{proxy.port}")
            yield proxy

    return by


@pytest.fixture
def secret(make_secret: Callable[[object], Secret]) -> Secret:
    return make_secret("first")


def begin(secret: Secret) -> str:
    return rotation.begin(secret.server.client(), secret.arn, secret.server.function_arn)


def open_secret(secret: Secret, clock: FakeClock | None = None, seconds: float = 60) -> SecretsManager:
    return SecretsManager(clients.secrets_manager(), secret.arn, (clock or FakeClock()).deadline(seconds))


class TestClient:
    @pytest.mark.parametrize("make", [clients.secrets_manager, clients.rds])
    def test_is_kept(self, make: Callable[[], object], environment: dict[str, str]) -> None:
        assert make() is make()

    @pytest.mark.parametrize(
        ("name", "value", "seen"),
        [
            ("AWS_DEFAULT_REGION", "eu-west-1", lambda client: client.meta.region_name),
            ("AWS_ACCESS_KEY_ID", "another", lambda client: client._request_signer._credentials.access_key),
            ("AWS_SESSION_TOKEN", "another", lambda client: client._request_signer._credentials.token),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://x.example", lambda client: client.meta.endpoint_url),
        ],
    )
    def test_follows_the_environment(
        self,
        name: str,
        value: str,
        seen: Callable[[Any], str],
        environment: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first = clients.secrets_manager()
        monkeypatch.setenv(name, value)
        assert seen(clients.secrets_manager()) == value
        monkeypatch.setenv(name, environment[name])
        assert clients.secrets_manager() is first

    @pytest.mark.parametrize("whose", ["source_profile = b", "web_identity_token_file = {}/token"])
    def test_takes_the_role_of_a_profile(
        self,
        whose: str,
        environment: dict[str, str],
        secret: Secret,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As a person has it who runs the preflight."""
        config = tmp_path / "config"
        role = "arn:aws:iam::123456789012:role/one"
        config.write_text(f"[profile a]\nrole_arn = {role}\n{whose.format(tmp_path)}\n[profile b]\n")
        (tmp_path / "token").write_text("an identity provider's")
        (tmp_path / "credentials").write_text("[b]\naws_access_key_id = a\naws_secret_access_key = b\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "a")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", environment["AWS_ENDPOINT_URL_RDS"])
        client: Any = clients.secrets_manager()
        assert client._request_signer._credentials.get_frozen_credentials().access_key.startswith("ASIA")

    def test_cannot_be_made_without_a_region(self) -> None:
        with pytest.raises(errors.ConfigurationError, match=r"No client for secretsmanager can be made: .* region"):
            clients.secrets_manager()

    def test_cannot_be_made_for_what_is_no_url(
        self, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_RDS", "rds.example")
        with pytest.raises(errors.ConfigurationError, match=r"Invalid endpoint: rds\.example") as caught:
            clients.rds()
        assert "AWS_ENDPOINT_URL" in caught.value.hint

    @pytest.mark.parametrize(
        ("region", "fips"),
        [("us-east-1", ""), ("us-east-1", "true"), ("cn-north-1", ""), ("us-iso-east-1", ""), ("xx-new-1", "")],
    )
    @pytest.mark.parametrize(
        ("service", "call", "answer"),
        [
            ("secretsmanager", "list_secrets", b"{}"),
            ("rds", "describe_db_instances", b"<a><DescribeDBInstancesResult/></a>"),
        ],
    )
    def test_asks_where_any_other_client_asks_and_signs_for_it(
        self, service: str, call: str, answer: bytes, region: str, fips: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In China, in an isolated Region, in one that is new to the SDK; our client reads only a part of its data."""
        for name, value in {"DEFAULT_REGION": region, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", fips or "false")
        asked = []

        def stop(request: Any, **_: object) -> Any:  # noqa: ANN401 - botocore has no types for it
            asked.append((request.url, request.headers["Authorization"].split(b", ")[:2]))
            raw: Any = SimpleNamespace(stream=lambda: [answer])
            return AWSResponse(request.url, 200, HTTPHeaders(), raw)

        for client in (clients._client(service), botocore.session.Session().create_client(service)):
            client.meta.events.register("before-send", stop)
            getattr(client, call)()
        assert asked[0] == asked[1]

    def test_keeps_its_connection_from_one_invocation_to_the_next(
        self, secret: Secret, invoke: Callable[[object], object], reach: Reach
    ) -> None:
        with reach(None) as proxy:
            for step in rotation.STEPS:
                with pytest.raises(errors.VersionNotStagedError):
                    invoke({"Step": step, "SecretId": secret.arn, "ClientRequestToken": "0" * 32})
            assert proxy.connections == 1


CONNECT_S = 0.6


@pytest.fixture
def drop(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Lead the function's client to a name with these addresses, the first ones of which drop what is sent to them."""
    monkeypatch.setattr(clients, "_CONFIG", Config(connect_timeout=CONNECT_S, retries={"total_max_attempts": 1}))
    monkeypatch.setenv("NO_PROXY", "*")
    look_up = socket.getaddrinfo
    with ExitStack() as stack:

        def lead(port: int, silent: int, *more: str) -> None:
            many = [f"127.0.7.{number}" for number in range(1, silent + 1)]
            for address in many:
                listener = stack.enter_context(socket.create_server((address, port), backlog=0))
                for _ in range(3):
                    knock = stack.enter_context(socket.socket())
                    knock.setblocking(False)  # noqa: FBT003 - the standard library's
                    knock.connect_ex(listener.getsockname())
            monkeypatch.setattr(
                socket,
                "getaddrinfo",
                lambda host, *rest: [
                    entry
                    for address in ([*many, *more] if host == "several.test" else [host])
                    for entry in look_up(address, *rest)
                ],
            )
            monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://several.test:{port}")

        yield lead


class TestSeveralAddresses:
    """An interface endpoint has one in each of its subnets."""

    @pytest.mark.parametrize("silent", [1, 6])
    def test_share_the_time_to_connect(
        self, silent: int, drop: Callable[..., None], secret: Secret, secrets_manager: SecretsManagerServer
    ) -> None:
        drop(secrets_manager.port, silent)
        began = time.monotonic()
        with pytest.raises(errors.SecretsManagerError, match="ConnectTimeoutError"):
            open_secret(secret, seconds=clients.CALL_S).describe_secret()
        assert CONNECT_S <= time.monotonic() - began < 4 * CONNECT_S

    def test_have_no_time_to_share_where_there_is_no_timeout(self, secrets_manager: SecretsManagerServer) -> None:
        """Another library of the process, which uses urllib3 as well."""
        connection.create_connection((secrets_manager.address, secrets_manager.port)).close()
        connection.create_connection((secrets_manager.address, secrets_manager.port), None).close()

    def test_are_tried_until_one_answers(
        self, drop: Callable[..., None], secret: Secret, secrets_manager: SecretsManagerServer
    ) -> None:
        drop(secrets_manager.port, 2, secrets_manager.address)
        assert open_secret(secret, seconds=clients.CALL_S).describe_secret().current


def lose_answer(number: int) -> Rule:
    """Reset the connection in place of the answer of that number: what was asked has been done by then."""
    answers = 0

    def rule(passage: Passage) -> None:
        nonlocal answers
        answers += passage.direction == "answer" and passage.data.startswith(b"HTTP/")
        if answers == number and passage.direction == "answer":
            raise Cut

    return rule


class TestLostConnection:
    """The other side has hung up between two calls, or in the middle of one."""

    def test_costs_one_retry(self, secret: Secret, reach: Reach) -> None:
        clock = FakeClock()
        with reach(lose_answer(2)) as proxy:
            secrets = open_secret(secret, clock)
            for _ in range(3):
                assert secrets.describe_secret().current == secret.labels["AWSCURRENT"]
            assert proxy.connections == 2
        assert len(clock.pauses) == 1

    def test_leaves_a_value_stored(self, secret: Secret, reach: Reach) -> None:
        version = begin(secret)
        secret.server.calls.clear()
        with reach(lose_answer(1)):
            assert open_secret(secret).put_secret_value(version, "second", None)
        assert secret.server.calls == ["PutSecretValue", "PutSecretValue"]
        value = secret.server.client().get_secret_value(SecretId=secret.arn, VersionId=version)
        assert value["SecretString"] == "second"

    def test_leaves_a_label_moved(self, secret: Secret, reach: Reach) -> None:
        """The second call is refused, since the label is no longer where it was."""
        version, before = begin(secret), secret.labels[CURRENT]
        secret.server.calls.clear()
        with reach(lose_answer(1)):
            open_secret(secret).update_secret_version_stage(CURRENT, move_to=version, remove_from=before)
        assert secret.server.calls == ["UpdateSecretVersionStage", "UpdateSecretVersionStage", "DescribeSecret"]
        assert secret.labels[CURRENT] == version

    def test_fails_where_the_label_has_gone_elsewhere(self, secret: Secret, reach: Reach) -> None:
        version, before, client = begin(secret), secret.labels[CURRENT], secret.server.client()
        third = client.put_secret_value(SecretId=secret.arn, SecretString="third", VersionStages=["x"])["VersionId"]

        def rule(passage: Passage) -> None:
            if passage.connection == 1:
                client.update_secret_version_stage(
                    SecretId=secret.arn, VersionStage=CURRENT, MoveToVersionId=third, RemoveFromVersionId=before
                )
                raise Cut

        with reach(rule), pytest.raises(errors.SecretsManagerError, match="failed with InvalidParameterException"):
            open_secret(secret).update_secret_version_stage(CURRENT, move_to=version, remove_from=before)
        assert secret.labels[CURRENT] == third

    @pytest.mark.parametrize("stale", [1, 3])
    def test_is_settled_by_a_fresh_read(self, stale: int, secret: Secret, reach: Reach) -> None:
        version, before = begin(secret), secret.labels[CURRENT]
        clock = FakeClock()

        @dataclass(frozen=True, slots=True)
        class Late(SecretsManager):
            """Reads the labels as they were, at first."""

            reads: list[SecretVersions] = field(default_factory=list)

            def describe_secret(self) -> SecretVersions:
                return self.reads.pop() if self.reads else SecretsManager.describe_secret(self)

        with reach(lose_answer(1)):
            old = [SecretVersions({before: frozenset({CURRENT})})] * stale
            Late(clients.secrets_manager(), secret.arn, clock.deadline(60), old).update_secret_version_stage(
                CURRENT, move_to=version, remove_from=before
            )
        assert secret.labels[CURRENT] == version
        assert len(clock.pauses) == 1 + stale

    def test_stays_an_error_where_no_read_is_fresh_in_time(self, secret: Secret, reach: Reach) -> None:
        version, before = begin(secret), secret.labels[CURRENT]
        clock = FakeClock()

        class Never(SecretsManager):
            def describe_secret(self) -> SecretVersions:
                return SecretVersions({before: frozenset({CURRENT})})

        with reach(lose_answer(1)), pytest.raises(errors.SecretsManagerError):
            Never(clients.secrets_manager(), secret.arn, clock.deadline(60)).update_secret_version_stage(
                CURRENT, move_to=version, remove_from=before
            )
        assert 60 - clients.CALL_S - 2 < clock.now < 60


@dataclass(slots=True)
class Moody:
    """Refuses so many calls in this way; None: all of them."""

    times: int | None = 0
    status: int = 400
    code: str = "ThrottlingException"

    def __call__(self, operation: str) -> tuple[int, str] | None:
        if self.times == 0 or operation == "RotateSecret":
            return None
        if self.times is not None:
            self.times -= 1
        return self.status, self.code


MOOD = Moody()


@pytest.fixture(scope="module")
def moody_server() -> Iterator[SecretsManagerServer]:
    with run_secrets_manager(refuse=MOOD) as server:
        yield server


@pytest.fixture
def moody(moody_server: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secret]:
    """A secret whose Secrets Manager has moods."""
    MOOD.times = 0
    secret = Secret(moody_server, moody_server.create_secret(f"test/{uuid4()}", "first"))
    for name, value in moody_server.environment.items():
        monkeypatch.setenv(name, value)
    yield secret
    MOOD.times = 0


PASSING = [
    (400, "ThrottlingException"),
    (400, "Throttling"),
    (400, "TooManyRequestsException"),
    (400, "RequestLimitExceeded"),
    (503, "SlowDown"),
    (500, "InternalServiceError"),
    (502, "BadGateway"),
]
LASTING = [
    "AccessDeniedException",
    "DecryptionFailure",
    "ExpiredTokenException",
    "InvalidParameterException",
    "InvalidRequestException",
    "LimitExceededException",
    "ResourceNotFoundException",
    "ValidationException",
]


def read(secrets: SecretsManager) -> object:
    return secrets.describe_secret()


def write(secrets: SecretsManager) -> object:
    return secrets.put_secret_value("v" * 32, "second", None)


class TestRepetition:
    @pytest.mark.parametrize(("status", "code"), PASSING)
    @pytest.mark.parametrize("call", [read, write])
    def test_outlasts_what_passes(
        self, call: Callable[[SecretsManager], object], status: int, code: str, moody: Secret
    ) -> None:
        clock = FakeClock()
        MOOD.times, MOOD.status, MOOD.code = 3, status, code
        assert call(open_secret(moody, clock))
        assert len(clock.pauses) == 3

    @pytest.mark.parametrize("code", LASTING)
    @pytest.mark.parametrize("call", [read, write])
    def test_is_not_made_of_what_lasts(
        self, call: Callable[[SecretsManager], object], code: str, moody: Secret
    ) -> None:
        clock = FakeClock()
        MOOD.times, MOOD.status, MOOD.code = 1, 400, code
        with pytest.raises(errors.RotationError):
            call(open_secret(moody, clock))
        assert clock.pauses == []

    def test_of_a_read_without_an_answer_is_bounded(self, moody: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")
        asks: list[Callable[[SecretsManager], object]] = [
            read,
            lambda secrets: secrets.get_secret_value("v" * 32),
            lambda secrets: secrets.get_random_password(PasswordPolicy()),
            lambda secrets: secrets.list_secret_version_ids(),
        ]
        for ask in asks:
            clock = FakeClock()
            with pytest.raises(errors.SecretsManagerError, match="got no answer: EndpointConnectionError"):
                ask(open_secret(moody, clock, 600))
            assert len(clock.pauses) == clients.READS - 1

    @pytest.mark.parametrize(("status", "code"), [(400, "ThrottlingException"), (503, "ServiceUnavailable")])
    def test_of_a_read_that_the_service_answers_lasts_until_the_deadline_where_a_step_needs_it(
        self, status: int, code: str, moody: Secret
    ) -> None:
        """In finishSecret applications are locked out meanwhile."""
        MOOD.times, MOOD.status, MOOD.code = None, status, code
        asks: list[Callable[[SecretsManager], object]] = [
            read,
            lambda secrets: secrets.get_secret_value("v" * 32),
            lambda secrets: secrets.get_random_password(PasswordPolicy()),
        ]
        for ask in asks:
            clock = FakeClock()
            with pytest.raises(errors.SecretsManagerError, match=f"failed with {code}") as caught:
                ask(replace(open_secret(moody, clock, 59), patient=True))
            assert 59 - clients.CALL_S - 5 < clock.now <= 59 - clients.CALL_S
            assert ("quota" in caught.value.hint) == (status == 400)

    def test_of_any_other_read_is_bounded(self, moody: Secret) -> None:
        """What a step, or a preflight, can do without takes no time from all else: nor does another's secret."""
        MOOD.times, MOOD.status, MOOD.code = None, 400, "ThrottlingException"
        asks: list[tuple[Callable[[SecretsManager], object], bool]] = [
            (read, False),
            (lambda secrets: secrets.get_secret_value("v" * 32), False),
            (lambda secrets: secrets.get_random_password(PasswordPolicy()), False),
            (lambda secrets: secrets.list_secret_version_ids(), True),
            (lambda secrets: secrets.list_secrets(), True),
        ]
        for ask, patient in asks:
            moody.server.calls.clear()
            with pytest.raises(errors.SecretsManagerError, match="failed with ThrottlingException"):
                ask(replace(open_secret(moody, FakeClock(), 600), patient=patient))
            assert len(moody.server.calls) == clients.READS

    def test_begins_with_no_less_time_than_the_call_before_has_taken(
        self, moody: Secret, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look-up in a slow DNS is in none of the timeouts."""
        clock, client = FakeClock(), open_secret(moody).client

        def slow(**_: object) -> None:
            clock.now += 20
            raise EndpointConnectionError(endpoint_url="https://slow")

        monkeypatch.setattr(client, "describe_secret", slow)
        with pytest.raises(errors.SecretsManagerError, match="Waited for 40 seconds, in 2 tries"):
            open_secret(moody, clock, 59).describe_secret()

    def test_of_a_call_to_rds_is_bounded(self, moody: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()
        monkeypatch.setenv("AWS_ENDPOINT_URL_RDS", "http://127.0.0.1:1")
        with pytest.raises(errors.RdsError, match="EndpointConnectionError"):
            Rds(clients.rds(), clock.deadline(60)).describe_db_instances("x")
        assert len(clock.pauses) == clients.READS - 1

    @pytest.mark.parametrize("seconds", [29, 59, 120])
    def test_of_a_write_lasts_until_the_deadline_and_no_longer(self, seconds: float, moody: Secret) -> None:
        version, before = begin(moody), moody.labels[CURRENT]
        MOOD.times, MOOD.status, MOOD.code = None, 400, "ThrottlingException"
        asks: list[Callable[[SecretsManager], object]] = [
            write,
            lambda secrets: secrets.update_secret_version_stage(CURRENT, move_to=version, remove_from=before),
        ]
        for ask in asks:
            clock = FakeClock()
            with pytest.raises(errors.SecretsManagerError):
                ask(open_secret(moody, clock, seconds))
            assert seconds - clients.CALL_S - 5 < clock.now <= seconds - clients.CALL_S
            assert max(clock.pauses) < 5
            assert clock.pauses[0] < 0.5

    @pytest.mark.parametrize("call", [read, write])
    def test_says_at_the_end_how_long_it_lasted(self, call: Callable[[SecretsManager], object], moody: Secret) -> None:
        clock = FakeClock()
        MOOD.times, MOOD.status, MOOD.code = None, 400, "ThrottlingException"
        with pytest.raises(errors.SecretsManagerError) as caught:
            call(open_secret(moody, clock))
        tries = len(clock.pauses) + 1
        assert caught.value.what.endswith(
            f" failed with ThrottlingException. Waited for {clock.now:.0f} seconds, in {tries} tries."
        )

    def test_that_did_not_help_leaves_the_cause_in_the_error(self, moody: Secret) -> None:
        """Whether the label has moved is asked for, too, and that call fails as well."""
        version, before = begin(moody), moody.labels[CURRENT]
        MOOD.times, MOOD.status, MOOD.code = None, 500, "InternalServiceError"
        with pytest.raises(errors.SecretsManagerError) as caught:
            open_secret(moody).update_secret_version_stage(CURRENT, move_to=version, remove_from=before)
        assert caught.value.what.startswith("UpdateSecretVersionStage failed with InternalServiceError. Waited for ")
        assert caught.value.what.endswith(f"It is not known whether AWSCURRENT has moved to version {version}.")
        assert "runbook.md#2-are-applications-locked-out-now" in caught.value.hint

    def test_that_would_not_help_says_that_the_label_has_not_moved(self, moody: Secret) -> None:
        version, before = begin(moody), moody.labels[CURRENT]
        MOOD.times, MOOD.status, MOOD.code = 1, 400, "AccessDeniedException"
        with pytest.raises(errors.AccessDeniedError, match=f"AWSCURRENT has not moved to version {version}") as caught:
            open_secret(moody).update_secret_version_stage(CURRENT, move_to=version, remove_from=before)
        assert caught.value.hint.startswith("Grant the action")

    def test_is_told(self, moody: Secret, caplog: pytest.LogCaptureFixture) -> None:
        MOOD.times, MOOD.status, MOOD.code = 1, 400, "ThrottlingException"
        open_secret(moody).describe_secret()
        [line] = caplog.messages
        assert "ThrottlingException" in line
        assert "60 seconds are left" in line

    def test_of_one_invocation_takes_nothing_from_the_next(self, moody: Secret) -> None:
        """The client is kept: a retry quota of botocore's would be used up after a hundred."""
        for _ in range(150):
            MOOD.times, MOOD.status, MOOD.code = 3, 400, "ThrottlingException"
            assert open_secret(moody).describe_secret().current

    @pytest.mark.parametrize("seconds", [0, clients.CALL_S - 0.1])
    def test_does_not_begin_without_time_for_a_call(
        self, seconds: float, moody: Secret, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moody.server.calls.clear()
        with pytest.raises(errors.SecretsManagerError, match="was not called"):
            open_secret(moody, seconds=seconds).describe_secret()
        with pytest.raises(errors.RdsError, match="was not called"):
            Rds(clients.rds(), FakeClock().deadline(seconds)).describe_db_instances("one")
        assert not moody.server.calls
