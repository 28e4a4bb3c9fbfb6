"""The daily preflight looks at the secrets of this function, one after the other, and at each in its turn."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from local.servers import rotation
from rotation_lambda import errors, handler
from rotation_lambda.deadline import MINIMUM_S
from rotation_lambda.preflight import Finding, Report, Status, fleet
from rotation_lambda.secrets_manager import SecretsManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Role, Secret


@pytest.fixture
def function_arn(secrets_manager: SecretsManagerServer) -> str:
    """A function of this test's own, that no secret of another test is attached to."""
    role = secrets_manager.client("iam").get_role(RoleName="rotation")["Role"]["Arn"]
    made = secrets_manager.client("lambda").create_function(
        FunctionName=f"fleet-{uuid4().hex[:8]}",
        Runtime="python3.13",
        Handler="handler.lambda_handler",
        Role=role,
        Code={"ZipFile": b"nothing"},
    )
    return str(made["FunctionArn"])


@pytest.fixture
def preflight(invoke: Callable[[object], object], function_arn: str) -> Callable[..., dict[str, Any]]:
    """Invoke the real handler as EventBridge does, as the function that has the secrets."""

    def run(seconds: float = 60) -> dict[str, Any]:
        context = SimpleNamespace(
            function_name="rotation",
            memory_limit_in_mb=512,
            invoked_function_arn=f"{function_arn}:live",  # by an alias
            aws_request_id="test",
            get_remaining_time_in_millis=lambda: int(1000 * seconds),
        )
        answer = handler.lambda_handler({"Step": "preflight"}, context)  # type: ignore[arg-type]
        assert json.loads(json.dumps(answer)) == answer
        assert answer is not None
        return answer

    return run


@pytest.fixture
def attached(
    postgres: PostgresServer, make_role: Callable[..., Role], make_secret: Callable[[object], Secret], function_arn: str
) -> Callable[..., Secret]:
    """Make a secret that this function is to rotate."""

    def make(**keys: object) -> Secret:
        secret = make_secret({**make_role(postgres).document, **keys})
        client = secret.server.client()
        with rotation.begin_test_only(client, secret.arn, function_arn):
            pass
        return secret

    return make


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    return {line["Secret"]: line for line in lines}


def name_of(secret: Secret) -> str:
    return str(secret.server.client().describe_secret(SecretId=secret.arn)["Name"])


def test_looks_at_all_secrets_of_the_function_and_reports_the_one_that_is_broken(
    attached: Callable[..., Secret],
    make_secret: Callable[[object], Secret],
    preflight: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    log: Callable[[], list[dict[str, Any]]],
) -> None:
    healthy, broken, other = attached(), attached(password="wrong"), attached()
    make_secret({})  # no function's
    answer = preflight()
    assert {report["secret_id"] for report in answer["reports"]} == {healthy.arn, broken.arn, other.arn}
    assert answer["left_out"] == []
    metrics = emitted(capsys)
    assert {name: line["PreflightFailed"] for name, line in metrics.items()} == {
        name_of(healthy): [0],
        name_of(other): [0],
        name_of(broken): [1],
    }
    failures = [line for line in log() if line["level"] == "ERROR" and line["check"] == "login AWSCURRENT"]
    [failure] = failures
    assert (failure["secret_id"], failure["code"]) == (broken.arn, "login-refused")
    assert failure["hint"]
    assert "secret_id" not in log()[-1]
    assert log()[-1]["message"] == "The preflight has looked at 3 of 3 secrets."


def test_names_those_that_there_was_no_time_for(
    attached: Callable[..., Secret], preflight: Callable[..., dict[str, Any]], log: Callable[[], list[dict[str, Any]]]
) -> None:
    secrets = {attached().arn for _ in range(2)}
    answer = preflight(seconds=MINIMUM_S)  # less what the last words need
    assert (answer["reports"], set(answer["left_out"])) == ([], secrets)
    [warning] = [line for line in log() if line["level"] == "WARNING"]
    assert warning["message"] == "There was no time for 2 secrets; the next preflights begin with others."
    assert "PreflightSchedule" in warning["hint"]


def test_has_nothing_to_do_where_no_secret_is_attached(preflight: Callable[..., dict[str, Any]]) -> None:
    assert preflight() == {"reports": [], "left_out": []}


def test_raises_where_the_secrets_cannot_be_listed(
    preflight: Callable[..., dict[str, Any]], secrets_manager: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(keeper: SecretsManager) -> dict[str, str | None]:
        raise errors.AccessDeniedError(f"secretsmanager:ListSecrets on {keeper.secret_id} was denied")

    monkeypatch.setattr(SecretsManager, "list_secrets", deny)
    with pytest.raises(errors.AccessDeniedError, match=r"ListSecrets on \*"):
        preflight()


class TestAnswer:
    """Lambda fails an invocation whose answer is larger than 6 MB, also the daily one, of which nobody reads it."""

    MOST = 6 * 1024 * 1024

    @pytest.fixture
    def look_at(
        self, preflight: Callable[..., dict[str, Any]], function_arn: str, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., dict[str, Any]]:
        """Have the function look at so many secrets, each with a status and with a report of 6 KB."""

        def look(statuses: dict[str, Status], seconds: float = 60) -> dict[str, Any]:
            def run(secret_id: str, *_: object, **__: object) -> Report:
                others = [Finding(f"check {number}", Status.OK, "«seen» " * 25) for number in range(30)]
                return Report(secret_id, (Finding("DNS", statuses[secret_id], "seen"), *others), 0.1)

            monkeypatch.setattr(fleet, "run", run)
            monkeypatch.setattr(SecretsManager, "list_secrets", lambda _: dict.fromkeys(statuses, function_arn))
            return preflight(seconds)

        return look

    def test_has_the_details_of_what_is_wrong_and_says_of_how_many_others_it_has_none(
        self, look_at: Callable[..., dict[str, Any]]
    ) -> None:
        wrong = {"a": Status.WARNING, "n": Status.FAILED, "z": Status.WARNING}
        answer = look_at({f"{number:04}": Status.OK for number in range(1500)} | wrong)
        assert len(json.dumps(answer)) < self.MOST
        assert [report["secret_id"] for report in answer["reports"][:1]] == ["n"]
        assert {report["secret_id"] for report in answer["reports"][1:3]} == {"a", "z"}
        assert {report["status"] for report in answer["reports"][3:]} == {"ok"}
        assert answer["omitted"] == {"ok": 1503 - len(answer["reports"])}
        assert len(answer["reports"]) > 100

    def test_says_how_many_failures_it_has_no_room_for(self, look_at: Callable[..., dict[str, Any]]) -> None:
        answer = look_at({f"{number:04}": Status.FAILED for number in range(1500)})
        assert len(json.dumps(answer)) < self.MOST
        assert answer["omitted"] == {"failed": 1500 - len(answer["reports"])}

    def test_does_not_name_without_end_what_there_was_no_time_for(self, look_at: Callable[..., dict[str, Any]]) -> None:
        answer = look_at({f"{number:0200}": Status.OK for number in range(50_000)}, seconds=MINIMUM_S)
        assert len(json.dumps(answer)) < self.MOST
        assert answer["omitted"] == {"left_out": 50_000 - len(answer["left_out"])}

    def test_omits_nothing_where_there_is_room(self, look_at: Callable[..., dict[str, Any]]) -> None:
        assert "omitted" not in look_at(dict.fromkeys("abc", Status.OK))


class TestTurns:
    NAMES = tuple(f"secret-{number:03}" for number in range(100))

    def test_leave_nobody_out(self) -> None:
        for day in range(20_000, 20_100):
            assert sorted(fleet.in_turn(reversed(self.NAMES), day)) == list(self.NAMES)
        assert fleet.in_turn([], 20_000.0) == []

    @pytest.mark.parametrize("reached", [1, 3, 10, 33, 50, 90, 100])
    def test_come_in_twice_the_days_that_a_round_would_take(self, reached: int) -> None:
        """However many are reached in a day, and although nothing remembers which."""
        seen = dict.fromkeys(self.NAMES, 20_000)
        for day in range(20_000, 21_000):
            for name in fleet.in_turn(self.NAMES, day)[:reached]:
                assert day - seen[name] <= 2 * len(self.NAMES) / reached
                seen[name] = day
        assert min(seen.values()) > 20_700
