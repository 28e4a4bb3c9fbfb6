"""The real handler on the real stack: whole rotations, repeated steps, refused invocations, and what it logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from moto.awslambda.utils import get_backend

from local.servers import rotation
from rotation_lambda import __version__, errors, handler
from tests.worlds.leaks import everything_in

if TYPE_CHECKING:
    from local.servers.postgres import PostgresServer
    from tests.conftest import Role, Secret

Invoke = rotation.Invoke
Log = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def role(postgres: PostgresServer, make_role: Callable[..., Role]) -> Role:
    return make_role(postgres)


@pytest.fixture
def secret(role: Role, make_secret: Callable[[object], Secret]) -> Secret:
    return make_secret({**role.document, "note": "kept"})


def begin(secret: Secret) -> str:
    return rotation.begin(secret.server.client(), secret.arn, secret.server.function_arn)


def event(secret: Secret, token: str, step: str) -> dict[str, str]:
    return {"Step": step, "SecretId": secret.arn, "ClientRequestToken": token}


class TestRotation:
    @pytest.mark.parametrize("times", [1, 2, 3])
    def test_leaves_the_new_password_current_and_alone(
        self, times: int, role: Role, secret: Secret, invoke: Invoke
    ) -> None:
        for _ in range(times):
            before = secret.document()
            token = begin(secret)
            rotation.invoke_steps(invoke, secret.arn, token)
            after = secret.document()
            assert secret.labels["AWSCURRENT"] == token
            assert list(after) == list(before)
            assert {**before, "password": after["password"]} == after
            assert role.lets_in(after["password"])
            assert not role.lets_in(before["password"])

    def test_takes_the_name_of_the_secret_and_goes_on_with_its_arn(
        self, role: Role, secret: Secret, invoke: Invoke, log: Log
    ) -> None:
        name = secret.server.client().describe_secret(SecretId=secret.arn)["Name"]
        rotation.invoke_steps(invoke, name, begin(secret))
        assert role.lets_in(secret.document()["password"])
        assert {line["secret_id"] for line in log()} == {secret.arn}

    def test_does_no_harm_when_each_step_comes_twice(self, role: Role, secret: Secret, invoke: Invoke) -> None:
        token = begin(secret)
        for step in rotation.STEPS:
            invoke(event(secret, token, step))
            if step != "finishSecret":
                stored = secret.document("AWSPENDING")
            invoke(event(secret, token, step))
        assert secret.document() == stored
        assert secret.labels["AWSCURRENT"] == token
        assert role.lets_in(stored["password"])

    def test_does_no_harm_when_every_step_comes_again_afterwards(
        self, role: Role, secret: Secret, invoke: Invoke
    ) -> None:
        token = begin(secret)
        rotation.invoke_steps(invoke, secret.arn, token)
        before = secret.document(), secret.labels
        rotation.invoke_steps(invoke, secret.arn, token)
        assert (secret.document(), secret.labels) == before
        assert role.lets_in(secret.document()["password"])

    @pytest.mark.parametrize("processes", [1, 4])
    def test_needs_ten_calls_six_logins_and_no_refusal(
        self, processes: int, postgres: PostgresServer, secret: Secret, invoke: Invoke
    ) -> None:
        """In one process; where each step has one of its own, what the versions hold is read again."""
        read = ["GetSecretValue"] if processes == 4 else []
        token = begin(secret)
        secret.server.calls.clear()
        logged = len(postgres.log())
        for step in rotation.STEPS:
            rotation.invoke_steps(invoke, secret.arn, token, steps=[step])
            if processes == 4:
                handler._MEMORY.clear()
        log = postgres.log()[logged:]
        # A process of its own has no proof of setSecret's: finishSecret compares with AWSCURRENT.
        assert secret.server.calls == [
            *("DescribeSecret", "GetSecretValue", "GetSecretValue", "GetRandomPassword", "PutSecretValue"),
            *("DescribeSecret", *read, *read, "DescribeSecret"),
            *("DescribeSecret", *read),
            *("DescribeSecret", *read, *read, "UpdateSecretVersionStage"),
        ]
        assert log.count("connection received") == 6
        assert log.count("password authentication failed") == 0

    @pytest.mark.parametrize("name", ['"; DROP ROLE x; --', "%s", "%(x)s", "a b", "Ünïcode", "x" * 63])
    def test_takes_hostile_role_names(
        self,
        name: str,
        postgres: PostgresServer,
        make_role: Callable[..., Role],
        make_secret: Callable[[object], Secret],
        invoke: Invoke,
    ) -> None:
        role = make_role(postgres, name=name, password="".join(map(chr, range(32, 127))))
        secret = make_secret(role.document)
        rotation.invoke_steps(invoke, secret.arn, begin(secret))
        assert role.lets_in(secret.document()["password"])


def test_an_emulators_own_rotate_secret_rotates(
    role: Role, secret: Secret, invoke: Callable[[object], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends the secret's name, and all four steps in the time of its own answer; only its Lambda is ours."""
    events = []

    def run(name: str, *, qualifier: str | None, body: str, **_: object) -> None:
        events.append(json.loads(body))
        invoke(events[-1])

    _, _, _, region, account, *_ = secret.server.function_arn.split(":")
    monkeypatch.setattr(get_backend(account, region), "invoke", run)
    client = secret.server.client()
    rules = {"RotationRules": {"AutomaticallyAfterDays": 30}}
    version = client.rotate_secret(SecretId=secret.arn, RotationLambdaARN=secret.server.function_arn, **rules)[
        "VersionId"
    ]
    assert [event["Step"] for event in events] == list(rotation.STEPS)
    assert {event["SecretId"] for event in events} == {client.describe_secret(SecretId=secret.arn)["Name"]}
    assert secret.labels["AWSCURRENT"] == version
    assert secret.document()["password"] != role.password
    assert role.lets_in(secret.document()["password"])


class TestMemory:
    """What a process keeps from step to step is forgotten in time, since it has passwords in it."""

    def created(self, secret: Secret, invoke: Invoke) -> str:
        token = begin(secret)
        invoke(event(secret, token, "createSecret"))
        assert secret.document("AWSPENDING")["password"] in str(handler._MEMORY[secret.arn].values)
        return token

    def test_ends_with_the_rotation(self, secret: Secret, invoke: Invoke) -> None:
        rotation.invoke_steps(invoke, secret.arn, self.created(secret, invoke))
        assert secret.arn not in handler._MEMORY

    def test_outlives_a_step_that_fails_but_not_the_next_rotation(self, secret: Secret, invoke: Invoke) -> None:
        token = self.created(secret, invoke)
        with pytest.raises(errors.LoginRefusedError):
            invoke(event(secret, token, "testSecret"))
        assert handler._MEMORY[secret.arn].token == token
        rotation.cancel(secret.server.client(), secret.arn)
        following = begin(secret)
        with pytest.raises(errors.MissingVersionError):
            invoke(event(secret, following, "setSecret"))
        memory = handler._MEMORY[secret.arn]
        assert (memory.token, memory.proofs, [*memory.values]) == (following, {}, [secret.labels["AWSCURRENT"]])

    def test_outlives_a_late_step_of_another_version(self, secret: Secret, invoke: Invoke) -> None:
        rotation.invoke_steps(invoke, secret.arn, before := begin(secret))
        rotation.invoke_steps(invoke, secret.arn, begin(secret))
        token = self.created(secret, invoke)
        with pytest.raises(errors.RotationRefusedError):
            invoke(event(secret, before, "setSecret"))
        assert handler._MEMORY[secret.arn].token == token

    def test_outlives_a_late_step_of_the_rotation_before(self, secret: Secret, invoke: Invoke) -> None:
        rotation.invoke_steps(invoke, secret.arn, before := begin(secret))
        token = self.created(secret, invoke)
        for step in ("testSecret", "finishSecret"):
            invoke(event(secret, before, step))
        assert handler._MEMORY[secret.arn].token == token

    def test_ends_where_the_version_is_current_already(self, secret: Secret, invoke: Invoke) -> None:
        """By a hand, or by another process."""
        token = self.created(secret, invoke)
        move = {"VersionStage": "AWSCURRENT", "RemoveFromVersionId": secret.labels["AWSCURRENT"]}
        secret.server.client().update_secret_version_stage(SecretId=secret.arn, MoveToVersionId=token, **move)
        invoke(event(secret, token, "finishSecret"))
        assert secret.arn not in handler._MEMORY

    def test_is_not_made_by_a_step_that_comes_after_the_end(self, secret: Secret, invoke: Invoke) -> None:
        rotation.invoke_steps(invoke, secret.arn, token := begin(secret))
        invoke(event(secret, token, "testSecret"))
        assert secret.arn not in handler._MEMORY

    def test_of_any_secret_is_forgotten_after_a_while(
        self,
        secret: Secret,
        role: Role,
        make_secret: Callable[[object], Secret],
        invoke: Invoke,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.created(secret, invoke)
        other = make_secret(role.document)
        monkeypatch.setattr(handler, "PROOF_S", -1.0)
        invoke(event(other, begin(other), "createSecret"))
        assert secret.arn not in handler._MEMORY

    def test_shows_no_secret(self, secret: Secret, invoke: Invoke) -> None:
        self.created(secret, invoke)
        told = repr(handler._MEMORY)
        assert secret.document()["password"] not in told
        assert secret.document("AWSPENDING")["password"] not in told


class TestTestSecretAlone:
    """As Secrets Manager does when rotation is switched on without rotating at once."""

    @pytest.mark.parametrize("empty", [True, False])
    def test_passes_on_an_empty_and_on_a_copied_version(
        self, *, empty: bool, role: Role, secret: Secret, invoke: Invoke
    ) -> None:
        with rotation.begin_test_only(
            secret.server.client(), secret.arn, secret.server.function_arn, empty=empty
        ) as token:
            invoke(event(secret, token, "testSecret"))
        assert role.lets_in(secret.document()["password"])

    def test_fails_when_the_current_password_is_wrong(self, role: Role, secret: Secret, invoke: Invoke) -> None:
        role.alter("PASSWORD 'another'")
        with (
            rotation.begin_test_only(
                secret.server.client(), secret.arn, secret.server.function_arn, empty=True
            ) as token,
            pytest.raises(errors.LoginRefusedError),
        ):
            invoke(event(secret, token, "testSecret"))


class TestRefusedInvocation:
    """Each refuses by name, and changes nothing."""

    @pytest.mark.parametrize("step", rotation.STEPS)
    def test_of_a_version_that_is_not_staged(self, step: str, secret: Secret, invoke: Invoke) -> None:
        before = secret.labels, secret.document()
        with pytest.raises(errors.VersionNotStagedError):
            invoke(event(secret, "0" * 32, step))
        assert (secret.labels, secret.document()) == before

    @pytest.mark.parametrize("step", rotation.STEPS)
    def test_of_the_previous_version(self, step: str, secret: Secret, invoke: Invoke) -> None:
        first = secret.labels["AWSCURRENT"]
        rotation.invoke_steps(invoke, secret.arn, begin(secret))
        with pytest.raises(errors.VersionNotPendingError, match="AWSPREVIOUS"):
            invoke(event(secret, first, step))

    def test_of_a_secret_whose_rotation_is_disabled(self, secret: Secret, invoke: Invoke) -> None:
        token = begin(secret)
        secret.server.client().cancel_rotate_secret(SecretId=secret.arn)
        with pytest.raises(errors.RotationDisabledError):
            invoke(event(secret, token, "createSecret"))

    def test_of_a_secret_that_is_deleted(self, secret: Secret, invoke: Invoke) -> None:
        token = begin(secret)
        secret.server.client().delete_secret(SecretId=secret.arn)
        with pytest.raises(errors.SecretDeletedError):
            invoke(event(secret, token, "createSecret"))

    @pytest.mark.parametrize("step", rotation.STEPS)
    def test_of_a_secret_that_rds_manages(
        self, step: str, role: Role, secret: Secret, invoke: Callable[[object], Any]
    ) -> None:
        managed = replace(secret, arn=secret.server.create_secret(f"rds!db-{uuid4()}", role.document))
        with pytest.raises(errors.SecretManagedError):
            invoke(event(managed, begin(managed), step))
        report = invoke({"Step": "preflight", "SecretId": managed.arn})
        [failed] = [finding for finding in report["findings"] if finding["status"] == "failed"]
        assert (failed["check"], failed["code"]) == ("rotation", "secret-managed")

    def test_of_a_secret_that_does_not_exist(self, secret: Secret, invoke: Invoke) -> None:
        arn = secret.arn.replace("test/app", "test/none")
        with pytest.raises(errors.SecretNotFoundError):
            invoke({"Step": "createSecret", "SecretId": arn, "ClientRequestToken": "0" * 32})

    @pytest.mark.parametrize("what", [None, [], "createSecret", {}])
    def test_that_is_no_event(self, what: object, invoke: Callable[[object], None]) -> None:
        with pytest.raises(errors.InvalidEventError):
            invoke(what)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PASSWORD_LENGTH", "abc"),
            ("PGSSLROOTCERT", "missing.pem"),
            ("PGSSLMODE", "prefer"),
            ("ROTATION_STRATEGY", "?"),
        ],
    )
    def test_with_a_bad_environment(
        self, name: str, value: str, secret: Secret, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = begin(secret)
        monkeypatch.setenv(name, value)
        secret.server.calls.clear()
        with pytest.raises(errors.ConfigurationError, match=name):
            invoke(event(secret, token, "createSecret"))
        assert not secret.server.calls


class TestLog:
    def test_names_the_secret_the_version_the_step_and_the_strategy(
        self, secret: Secret, invoke: Invoke, log: Log
    ) -> None:
        token = begin(secret)
        rotation.invoke_steps(invoke, secret.arn, token)
        lines = log()
        assert [line["step"] for line in lines] == list(rotation.STEPS)
        for line in lines:
            assert line["secret_id"] == secret.arn
            assert line["version_id"] == token
            assert line["strategy"] == "auto"
            assert line["version"] == __version__
            assert line["level"] == "INFO"

    def test_tells_a_failure_once_with_its_code_and_hint(
        self, role: Role, secret: Secret, invoke: Invoke, log: Log
    ) -> None:
        token = begin(secret)
        invoke(event(secret, token, "createSecret"))
        with pytest.raises(errors.LoginRefusedError):
            invoke(event(secret, token, "testSecret"))
        [line] = [line for line in log() if line["level"] == "ERROR"]
        assert line["code"] == "login-refused"
        assert line["hint"] == errors.LoginRefusedError.hint
        assert role.name in line["message"]

    def test_is_critical_where_nobody_can_say_which_password_is_in_force(
        self,
        role: Role,
        make_secret: Callable[[object], Secret],
        make_superuser: Callable[[Role], dict[str, Any]],
        invoke: Invoke,
        log: Log,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The superuser changes the password of a role that nobody can log in as: it has expired."""
        monkeypatch.setenv("ROTATION_STRATEGY", "superuser")
        secret = make_secret({**role.document, **make_superuser(role)})
        secret.tag(role.name)
        role.alter("VALID UNTIL '2000-01-01'")
        token = begin(secret)
        invoke(event(secret, token, "createSecret"))
        with pytest.raises(errors.UnprovenPasswordError):
            invoke(event(secret, token, "setSecret"))
        warning, repeated, line = [line for line in log() if line["level"] != "INFO"]
        assert "Only the secret's tag can show" in warning["message"]
        assert "Trying again for" in repeated["message"]
        assert (line["level"], line["code"], line["strategy"]) == ("CRITICAL", "unproven-password", "superuser")

    def test_forgets_the_last_event_before_the_next(
        self, secret: Secret, invoke: Callable[[object], None], log: Log
    ) -> None:
        invoke(event(secret, begin(secret), "createSecret"))
        with pytest.raises(errors.InvalidEventError):
            invoke({})
        line = log()[-1]
        assert "secret_id" not in line
        assert line["version"] == __version__

    def test_withholds_the_text_of_what_nobody_foresaw(self, invoke: Callable[[object], None]) -> None:
        class Hostile(dict[str, str]):
            def __contains__(self, key: object) -> bool:
                raise KeyError("marker")

        with pytest.raises(errors.UnexpectedError, match=r"KeyError in test_handler\.py, line \d+") as caught:
            invoke(Hostile())
        assert "marker" not in everything_in(caught.value)
