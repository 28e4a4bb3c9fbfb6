"""What is emitted is what CloudWatch makes metrics of, from a real rotation as from a real preflight."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import jsonschema
import pytest

from local.servers import rotation
from rotation_lambda import errors, metrics
from rotation_lambda.event import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Role, Secret

_NAME = {"type": "string", "pattern": "^(.*)$", "minLength": 1, "maxLength": 1024}
_UNITS = (
    "Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits|"
    "Terabits|Percent|Count|Bytes\\/Second|Kilobytes\\/Second|Megabytes\\/Second|Gigabytes\\/Second|Terabytes\\/Second|"
    "Bits\\/Second|Kilobits\\/Second|Megabits\\/Second|Gigabits\\/Second|Terabits\\/Second|Count\\/Second|None"
)
_METRIC = {
    "type": "object",
    "required": ["Name"],
    "properties": {
        "Name": _NAME,
        "Unit": {"type": "string", "pattern": f"^({_UNITS})$"},
        "StorageResolution": {"type": "integer"},
    },
}
_DIMENSIONS = {"type": "array", "minItems": 0, "maxItems": 30, "items": {**_NAME, "maxLength": 250}}
_DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "properties": {
        "Namespace": _NAME,
        "Dimensions": {"type": "array", "minItems": 1, "items": _DIMENSIONS},
        "Metrics": {"type": "array", "items": _METRIC},
    },
}
EMF = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {"type": "array", "items": _DIRECTIVE},
            },
        }
    },
}
"""The schema of CloudWatch's user guide, "Specification: Embedded metric format", less its titles and examples."""


def check(line: Mapping[str, Any]) -> None:
    """Hold a line against the schema, and against what the specification says of a root node's members beside it."""
    jsonschema.validate(line, EMF)
    assert abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 7200
    for directive in line["_aws"]["CloudWatchMetrics"]:
        assert len(directive["Metrics"]) <= 100
        for names in directive["Dimensions"]:
            for name in names:
                assert isinstance(line[name], str)
                assert 1 <= len(line[name].encode()) <= 1024
        for metric in directive["Metrics"]:
            values = line[metric["Name"]]
            for value in values if isinstance(values, list) else [values]:
                assert isinstance(value, (int, float))
                assert math.isfinite(value)


Emitted = list[dict[str, Any]]


@pytest.fixture
def emitted(capsys: pytest.CaptureFixture[str]) -> Callable[[], Emitted]:
    """Read the lines that CloudWatch would read so far, each of which keeps to the format."""

    def read() -> Emitted:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
        for line in lines:
            check(line)
        return lines

    return read


def named(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a line, which have one value each."""
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "SecretRotation"
    values = {metric["Name"]: line[metric["Name"]] for metric in directive["Metrics"]}
    return {name: value for name, [value] in values.items()}


def dimensions(line: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{name: line[name] for name in names} for names in line["_aws"]["CloudWatchMetrics"][0]["Dimensions"]]


@pytest.fixture
def secret(postgres: PostgresServer, make_role: Callable[..., Role], make_secret: Callable[[object], Secret]) -> Secret:
    return make_secret(make_role(postgres).document)


def begin(secret: Secret) -> str:
    return rotation.begin(secret.server.client(), secret.arn, secret.server.function_arn)


@pytest.mark.parametrize(
    "broken",
    [
        {"_aws": {"CloudWatchMetrics": []}},
        {"_aws": {"Timestamp": 1, "CloudWatchMetrics": [{"Namespace": "", "Dimensions": [[]], "Metrics": []}]}},
        {"_aws": {"Timestamp": 1, "CloudWatchMetrics": [{"Namespace": "n", "Dimensions": [], "Metrics": []}]}},
        {
            "_aws": {
                "Timestamp": 1,
                "CloudWatchMetrics": [{"Namespace": "n", "Dimensions": [[]], "Metrics": [{"Name": "a", "Unit": "d"}]}],
            }
        },
    ],
)
def test_a_line_that_cloudwatch_would_not_read_is_noticed(broken: Mapping[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(broken)


class TestStep:
    def test_of_a_rotation_tells_how_long_it_took_and_the_last_one_that_it_succeeded(
        self, secret: Secret, invoke: rotation.Invoke, emitted: Callable[[], Emitted]
    ) -> None:
        rotation.invoke_steps(invoke, secret.arn, begin(secret))
        lines = emitted()
        assert [line["step"] for line in lines] == list(rotation.STEPS)
        name = secret.server.client().describe_secret(SecretId=secret.arn)["Name"]
        for line in lines:
            assert dimensions(line) == [{"Secret": name}, {"Function": "rotation"}]
            assert named(line)["StepDuration"] > 0
        assert [named(line).get("RotationSucceeded") for line in lines] == [None, None, None, 1]

    @pytest.mark.parametrize("cut", ["-abcdef", ""], ids=["a name that ends as an ARN does", "a name"])
    def test_names_the_secret_whatever_it_was_called_by(
        self,
        cut: str,
        postgres: PostgresServer,
        make_role: Callable[..., Role],
        secrets_manager: SecretsManagerServer,
        invoke: rotation.Invoke,
        emitted: Callable[[], Emitted],
    ) -> None:
        """The ARN without what Secrets Manager adds is one that the API takes."""
        name = f"prod/{uuid4().hex}{cut}"
        arn = secrets_manager.create_secret(name, json.dumps(make_role(postgres).document))
        token = rotation.begin(secrets_manager.client(), arn, secrets_manager.function_arn)
        for secret_id, step in zip((arn, arn[:-7], name), rotation.STEPS, strict=False):
            rotation.invoke_steps(invoke, secret_id, token, steps=[step])
        assert [line["Secret"] for line in emitted()] == [name] * 3

    def test_that_moves_the_label_tells_for_how_long_the_old_password_was_refused(
        self, secret: Secret, invoke: rotation.Invoke, emitted: Callable[[], Emitted]
    ) -> None:
        """Where setSecret was in this process."""
        token = begin(secret)
        rotation.invoke_steps(invoke, secret.arn, token)
        lines = emitted()
        assert ["OutageWindow" in named(line) for line in lines] == [False, False, False, True]
        assert named(lines[-1])["OutageWindow"] > 0

    def test_that_finds_a_lost_password_tells_so(
        self, secret: Secret, invoke: rotation.Invoke, emitted: Callable[[], Emitted]
    ) -> None:
        client = secret.server.client()
        token = begin(secret)
        rotation.invoke_steps(invoke, secret.arn, token, steps=["createSecret", "setSecret"])
        rotation.cancel(client, secret.arn)
        emitted()
        rotation.invoke_steps(invoke, secret.arn, begin(secret))
        assert [named(line).get("Recovered") for line in emitted()] == [None, 1, None, None]

    def test_that_fails_tells_its_code_in_a_dimension_of_its_own(
        self, secret: Secret, invoke: rotation.Invoke, emitted: Callable[[], Emitted]
    ) -> None:
        token = begin(secret)
        with pytest.raises(errors.MissingVersionError):
            rotation.invoke_steps(invoke, secret.arn, token, steps=["setSecret"])
        [line] = emitted()
        assert named(line) == {"StepFailed": 1}
        secret_alone, function, with_code = dimensions(line)
        assert [*secret_alone, *function] == ["Secret", "Function"]
        assert with_code == {**secret_alone, "Code": "missing-version"}

    def test_tells_nothing_of_an_event_that_is_none(
        self, invoke: rotation.Invoke, emitted: Callable[[], Emitted]
    ) -> None:
        with pytest.raises(errors.InvalidEventError):
            invoke({})
        assert emitted() == []

    def test_takes_milliseconds(self, emitted: Callable[[], Emitted], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=iter([5.0, 5.25]).__next__))
        with metrics.of_step("function", Step.SET_SECRET, lambda: "prod/shop/orders"):
            pass
        [line] = emitted()
        assert named(line) == {"StepDuration": 250}

    def test_counts_what_nobody_foresaw_as_a_failure(self, emitted: Callable[[], Emitted]) -> None:
        of_step = metrics.of_step("function", Step.SET_SECRET, lambda: "prod/shop/orders")
        with pytest.raises(ZeroDivisionError), of_step as measured:
            measured["Recovered"] = 1 / 0
        [line] = emitted()
        assert (line["Secret"], line["Code"]) == ("prod/shop/orders", "unexpected")


class TestPreflight:
    def test_counts_failures_and_warnings_and_days(
        self, secret: Secret, invoke: rotation.Invoke, emitted: Callable[[], Emitted]
    ) -> None:
        rotation.invoke_steps(invoke, secret.arn, begin(secret))
        emitted()
        invoke({"Step": "preflight", "SecretId": secret.arn})
        [line] = emitted()
        seen = named(line)
        assert seen["PreflightFailed"] == 0
        assert 0 <= seen["DaysSinceRotation"] < 1
        assert seen["DaysOverdue"] == 0
        assert seen.keys() - {"PreflightWarnings", "DaysUntilExpiry"} == {
            "PreflightFailed",
            "DaysSinceRotation",
            "DaysOverdue",
        }


@pytest.mark.parametrize(
    ("secret_id", "name"),
    [
        ("arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/shop/orders-a1B2c3", "prod/shop/orders"),
        ("arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:a-b-c3D4e5", "a-b"),
        ("arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/shop/app", "prod/shop/app"),
        ("prod/shop/orders-a1B2c3", "prod/shop/orders-a1B2c3"),
    ],
)
def test_names_the_secret_without_what_secrets_manager_adds(
    secret_id: str, name: str, emitted: Callable[[], Emitted]
) -> None:
    metrics.emit("function", secret_id, {"StepFailed": 1})
    assert emitted()[0]["Secret"] == name


@pytest.mark.parametrize("variable", ["POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE"])
def test_has_the_dimensions_of_the_dashboard_whatever_powertools_is_told(
    variable: str, emitted: Callable[[], Emitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "another")
    metrics.emit("function", "name", {"StepFailed": 1})
    [line] = emitted()
    assert dimensions(line) == [{"Secret": "name"}, {"Function": "function"}]
    assert named(line) == {"StepFailed": 1}


def test_fails_nothing_where_it_cannot_write(emitted: Callable[[], Emitted]) -> None:
    metrics.emit("function", "name", {"NoSuchMetric": 1})
    assert emitted() == []


def test_can_be_switched_off(emitted: Callable[[], Emitted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    metrics.emit("function", "name", {"StepFailed": 1})
    assert emitted() == []
