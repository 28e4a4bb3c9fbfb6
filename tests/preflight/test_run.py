"""What a preflight sees beyond the list of breakages, and how it tells it: to Lambda, and to a person in a shell."""

from __future__ import annotations

import json
import os
import re
import runpy
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from local.servers import rotation
from rotation_lambda import deadline, errors, preflight
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import RESERVE_S, Deadline
from rotation_lambda.postgres import Postgres, Session, tls
from rotation_lambda.postgres.roles import Plan
from rotation_lambda.postgres.survey import Survey
from rotation_lambda.postgres.tls import Certificate, Roots
from rotation_lambda.preflight import database as database_checks
from rotation_lambda.preflight import secret as secret_checks
from rotation_lambda.preflight import session as session_checks
from rotation_lambda.preflight.__main__ import main
from rotation_lambda.preflight.findings import IN_THE_WAY, Finding, Report, Seen, Status
from rotation_lambda.preflight.run import TABLE
from rotation_lambda.preflight.session import SessionLook
from rotation_lambda.secrets_manager import Description, SecretsManager
from rotation_lambda.settings import SHIPPED_BUNDLE, PasswordPolicy, Settings, Strategy
from rotation_lambda.staging import SecretVersions, StagingLabel
from rotation_lambda.strategies import KINDS
from rotation_lambda.trust import Trust
from tests.worlds.fakes import FakeClock, FakeSuperusers
from tests.worlds.terminals import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from local.servers.postgres import PostgresServer
    from rotation_lambda.superuser import Superusers
    from tests.conftest import Role, Secret

CURRENT, PENDING, PREVIOUS = StagingLabel.CURRENT, StagingLabel.PENDING, StagingLabel.PREVIOUS
NOW = datetime.now(UTC)
LOGIN = Credential("localhost", 5432, "postgres", "app", "current")
DENIED = errors.AccessDeniedError("denied")
SETTINGS = Settings.from_environment({})
CREDCHECK = "credcheck.encrypted_password_allowed"


def by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def looking(**learnt: Any) -> SessionLook:  # noqa: ANN401 - what checks have learnt before
    """Return a look that has got so far."""
    look = SessionLook(TABLE, "x", {}, FakeClock().deadline())
    for name, value in learnt.items():
        setattr(look, name, value)
    return look


def reached(look: SessionLook, *checks: str) -> dict[str, Finding]:
    """Return the findings of these checks, or of all, without those that another one stands in the way of."""
    return by_check(finding for check in checks or TABLE if (finding := look.find(check)).seen != IN_THE_WAY)


def between(first: str, last: str) -> list[str]:
    checks = list(TABLE)
    return checks[checks.index(first) : checks.index(last) + 1]


OF_SECRET = between("Secrets Manager", "new password")
OF_DATABASE = between("trusted roots", "server's clock")
OF_SESSION = between("primary", "server's clock")


def told(report: Mapping[str, Any]) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in report["findings"]}


@pytest.fixture
def secret(postgres: PostgresServer, make_role: Callable[..., Role], make_secret: Callable[[object], Secret]) -> Secret:
    return make_secret(make_role(postgres).document)


class TestCommand:
    @pytest.fixture(autouse=True)
    def environment(self, secret: Secret, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {**secret.server.environment, "PGSSLROOTCERT": str(postgres.ca_file)}.items():
            monkeypatch.setenv(name, value)

    def test_prints_a_table(self, secret: Secret, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([secret.arn]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"Preflight of {secret.arn}"
        assert [line for line in lines if re.match(r"ok +login AWSCURRENT: role '.*' is let in", line)]
        assert re.fullmatch(r"\d+ ok, \d+ not reached; \d\.\d\d seconds\. Nothing was changed\.", lines[-1])
        assert len([line for line in lines if re.match(r"(ok|not reached) {2,}", line)]) == len(preflight.CHECKS)
        assert secret.document()["password"] not in "\n".join(lines)

    def test_is_a_program(self, secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["preflight", secret.arn])
        monkeypatch.delitem(sys.modules, main.__module__)  # as in a process of its own
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("rotation_lambda.preflight", run_name="__main__")
        assert caught.value.code == 0

    def test_takes_the_secrets_name_as_well(self, secret: Secret) -> None:
        name = secret.arn.rpartition(":")[2][:-7]
        assert main([name]) == 0

    def test_prints_json(self, secret: Secret, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([secret.arn, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert list(told(report)) == list(preflight.CHECKS)
        assert report["status"] == "ok"

    def test_exits_by_the_worst_finding(
        self, postgres: PostgresServer, make_role: Callable[..., Role], make_secret: Callable[[object], Secret]
    ) -> None:
        role = make_role(postgres)
        secret = make_secret(role.document)
        role.alter("VALID UNTIL 'tomorrow'")
        assert main([secret.arn]) == 1
        role.alter("VALID UNTIL 'yesterday'")
        assert main([secret.arn]) == 2

    def test_reports_what_it_has_seen_where_a_session_breaks(
        self, secret: Secret, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def break_off(*_: object) -> Seen:
            raise errors.DatabaseUnreachableError("The session broke.")

        monkeypatch.setitem(TABLE, preflight.CHECKS[1], lambda _: Seen("seen"))
        monkeypatch.setitem(TABLE, preflight.CHECKS[2], break_off)
        assert main([secret.arn, "--json"]) == 2
        report = json.loads(capsys.readouterr().out)
        assert report["findings"][1]["seen"] == "seen"
        [failed] = [finding for finding in report["findings"] if finding["status"] == "failed"]
        assert (failed["check"], failed["code"]) == (preflight.CHECKS[2], "database-unreachable")

    def test_reports_a_fault_of_its_own_as_one_finding(
        self, secret: Secret, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As a stranger's answers may have it: the preflight of all other secrets goes on."""

        def stumble(*_: object) -> Seen:
            raise ValueError("of the secret's")

        monkeypatch.setitem(TABLE, preflight.CHECKS[-1], stumble)
        assert main([secret.arn, "--json"]) == 2
        told = capsys.readouterr().out
        [failed] = [finding for finding in json.loads(told)["findings"] if finding["status"] == "failed"]
        assert (failed["check"], failed["code"]) == (preflight.CHECKS[-1], "unexpected")
        assert "ValueError" in failed["seen"]
        assert "of the secret's" not in told

    def test_needs_a_region(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        assert main(["name"]) == 2
        [failed] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed ")]
        assert re.match(r"failed +environment: No client for secretsmanager .* region", failed)

    def test_says_what_is_wrong_with_an_endpoint(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "vpce-1.example.com")
        assert main(["name"]) == 2
        assert "Invalid endpoint: vpce-1.example.com" in capsys.readouterr().out

    @pytest.mark.parametrize(("argument", "status"), [("--colour", 3), ("--version", 0), ("--help", 0)])
    def test_has_a_status_of_its_own_for_wrong_options(self, argument: str, status: int) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["name", argument])
        assert caught.value.code == status

    def test_says_little_when_asked_to_be_quiet(
        self,
        postgres: PostgresServer,
        make_role: Callable[..., Role],
        make_secret: Callable[[object], Secret],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        role = make_role(postgres)
        secret = make_secret(role.document)
        assert main([secret.arn, "--quiet"]) == 0
        assert [line.split()[1:2] for line in capsys.readouterr().out.splitlines()] == [["of"], [], ["ok,"]]
        role.alter("VALID UNTIL 'yesterday'")
        assert main([secret.arn, "--quiet"]) == 2
        heads = [line[:11] for line in capsys.readouterr().out.splitlines()[2:]]
        assert heads[0] == "failed     "
        assert not [head for head in heads if head.startswith(("ok", "not"))]

    def test_stands_on_one_line_what_another_check_stands_in_the_way_of(
        self, make_secret: Callable[[object], Secret], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([make_secret("nothing").arn]) == 2
        blocked = [line for line in capsys.readouterr().out.splitlines() if "another check" in line]
        assert len(blocked) == 1
        assert blocked[0].startswith(
            "not reached  another check stands in the way: GetSecretValue, KMS key, copies, new password, "
        )

    @pytest.mark.parametrize("colour", [True, False])
    def test_fits_a_terminal_and_shows_how_far_it_is(
        self,
        colour: bool,  # noqa: FBT001 - a parameter
        secret: Secret,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        if not colour:
            monkeypatch.setenv("NO_COLOR", "1")
        with terminal() as screen, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", screen.file)
            patch.setattr(sys, "stderr", screen.file)
            assert main([secret.arn]) == 0
        progress, _, report = screen.shown.rpartition("\r\x1b[K")
        assert "login AWSCURRENT: ok ..." in progress
        lines = re.sub(r"\x1b\[\d*m", "", report).splitlines()
        assert max(len(line) for line in lines if secret.arn not in line) <= 80
        assert len(lines) > len(preflight.CHECKS)
        assert ("\x1b[32mok\x1b[0m " in report) is colour

    def test_writes_what_an_encoding_lacks_as_a_question_mark(
        self, secret: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (tmp_path / "report").open("w", encoding="ascii") as file:
            monkeypatch.setattr(sys, "stdout", file)
            assert main([secret.arn]) == 0
        assert "\n             ? " in (tmp_path / "report").read_text()

    def test_ends_well_where_the_reader_stops_early(self, secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as pipe:  # noqa: PTH123 - a descriptor
            monkeypatch.setattr(sys, "stdout", pipe)
            assert main([secret.arn]) == 0


class TestInLambda:
    def test_is_a_step_that_needs_no_token_and_returns_its_report(
        self, secret: Secret, invoke: Callable[[object], Any]
    ) -> None:
        report = invoke({"Step": "preflight", "SecretId": secret.arn})
        assert json.loads(json.dumps(report)) == report
        assert told(report)["timeout"] == "ok"
        assert "failed" not in told(report).values()

    def test_survives_a_bad_environment(
        self, secret: Secret, invoke: Callable[[object], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSWORD_LENGTH", "abc")
        report = invoke({"Step": "preflight", "SecretId": secret.arn})
        assert told(report)["environment"] == "failed"
        assert {told(report)[check] for check in preflight.CHECKS[2:]} == {"not reached"}

    @pytest.mark.parametrize(("seconds", "status"), [(24.0, "failed"), (25.0, "ok"), (60.0, "ok")])
    def test_knows_the_shortest_timeout(
        self,
        seconds: float,
        status: str,
        secret: Secret,
        postgres: PostgresServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in secret.server.environment.items():
            monkeypatch.setenv(name, value)
        report = preflight.run(secret.arn, {"PGSSLROOTCERT": str(postgres.ca_file)}, seconds=seconds)
        findings = by_check(report.findings)
        assert findings["timeout"].status == status
        assert findings["login AWSCURRENT"].status == "ok"

    def test_stops_at_a_secret_that_is_not_there(self, secret: Secret, invoke: Callable[[object], Any]) -> None:
        report = invoke({"Step": "preflight", "SecretId": f"{secret.arn[:-6]}zzzzzz"})
        assert [check for check, status in told(report).items() if status == "failed"] == ["DescribeSecret"]
        assert told(report)["Secrets Manager"] == "ok"


@dataclass(frozen=True, slots=True)
class Denying(SecretsManager):
    """The real one, with trouble of a test's own."""

    trouble: Mapping[str, errors.RotationError] = field(default_factory=dict)

    def _check(self, name: str) -> None:
        if error := self.trouble.get(name):
            raise error

    def list_secret_version_ids(self) -> list[str]:
        self._check("list")
        return super(Denying, self).list_secret_version_ids()

    def describe(self) -> Description:
        self._check("describe")
        return super(Denying, self).describe()

    def get_random_password(self, policy: PasswordPolicy) -> str:
        self._check("random")
        return super(Denying, self).get_random_password(policy)

    def get_secret_value(self, version: str) -> str:
        self._check("value")
        return super(Denying, self).get_secret_value(version)


class TestSecret:
    def look(self, secret: Secret, **trouble: errors.RotationError) -> dict[str, Finding]:
        keeper = Denying(secret.server.client(), secret.arn, FakeClock().deadline(), trouble)
        return self.findings(keeper, secret.server.function_arn)

    def findings(self, keeper: SecretsManager, function_arn: str | None = None) -> dict[str, Finding]:
        return reached(looking(by_name=keeper, settings=SETTINGS, function_arn=function_arn), *OF_SECRET)

    @pytest.mark.parametrize(
        ("trouble", "check"),
        [("list", "ListSecretVersionIds"), ("random", "GetRandomPassword"), ("value", "GetSecretValue")],
    )
    def test_names_the_permission_that_is_missing(self, trouble: str, check: str, secret: Secret) -> None:
        findings = self.look(secret, **{trouble: DENIED})
        assert (findings[check].status, findings[check].code) == ("failed", "access-denied")

    def test_asks_for_other_permissions_where_one_is_missing_and_not_where_the_secret_is(self, secret: Secret) -> None:
        others = {"ListSecretVersionIds", "GetRandomPassword", "PutSecretValue", "UpdateSecretVersionStage"}
        ways = {"Secrets Manager", "DescribeSecret"}
        for error, reached in ((DENIED, ways | others), (errors.SecretNotFoundError("none."), ways)):
            findings = self.look(secret, describe=error)
            assert findings.keys() == reached
            assert findings["DescribeSecret"].code == error.code

    def test_reads_no_superusers_secret_that_another_function_rotates(self, secret: Secret) -> None:
        settings = replace(SETTINGS, superuser_secret_arns=frozenset({secret.arn}))
        keeper = SecretsManager(secret.server.client(), secret.arn, FakeClock().deadline())
        look = looking(by_name=keeper, settings=settings, function_arn=secret.server.function_arn)
        findings = reached(look, *OF_SECRET)
        assert findings["rotation"].code == "rotation-refused"
        assert findings.keys() == {"Secrets Manager", "clock", "DescribeSecret", "rotation"}

    def test_names_what_it_does_not_try(self, secret: Secret) -> None:
        findings = self.look(secret)
        for action in ("PutSecretValue", "UpdateSecretVersionStage"):
            assert findings[action].status == "not reached"
            assert f"secretsmanager:{action}" in findings[action].action

    @pytest.mark.parametrize(
        ("url", "seen"),
        [
            ("http://nowhere.invalid", "DNS does not know nowhere.invalid"),
            ("https://127.0.0.1:1", "127.0.0.1, a private address; TCP to port 1 fails (Connection refused)"),
        ],
    )
    def test_says_how_far_the_way_to_secrets_manager_leads(self, url: str, seen: str, secret: Secret) -> None:
        client = secret.server.client(retries={"total_max_attempts": 1})
        client.meta.events.register("before-send", lambda request, **_: setattr(request, "url", url))
        meta = SimpleNamespace(endpoint_url=url)
        keeper = SecretsManager(
            cast("Any", SimpleNamespace(meta=meta, describe_secret=client.describe_secret)), "x", FakeClock().deadline()
        )
        findings = self.findings(keeper)
        assert findings["Secrets Manager"].code == "secrets-manager-failed"
        assert seen in findings["Secrets Manager"].seen
        assert len(findings) == 1

    def test_looks_at_the_way_while_there_is_time_for_a_slow_look_up(
        self, secret: Secret, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        client = secret.server.client()
        client.meta.events.register("before-call.secretsmanager.DescribeSecret", lambda **_: done.append("call"))
        monkeypatch.setattr(secret_checks, "_try_way", done.append)
        reached(looking(by_name=SecretsManager(client, secret.arn, FakeClock().deadline())), "Secrets Manager")
        assert done == [client.meta.endpoint_url, "call"]

    @pytest.mark.parametrize(
        ("seconds", "status"),
        [(0, "ok"), (-59, "ok"), (90, "warning"), (-301, "failed"), (None, "not reached")],
    )
    def test_compares_the_clocks(self, seconds: int | None, status: str) -> None:
        theirs = None if seconds is None else time.time() + seconds
        assert secret_checks.compare_clock(theirs, "theirs").of("clock").status == status

    def test_says_that_the_rotation_goes_to_another_function(self, secret: Secret) -> None:
        rotation.begin(secret.server.client(), secret.arn, secret.server.function_arn)
        keeper = SecretsManager(secret.server.client(), secret.arn, FakeClock().deadline())
        other = secret.server.function_arn.replace("function:rotation", "function:other")
        for ours, status in ((other, "warning"), (f"{secret.server.function_arn}:live", "ok"), (None, "ok")):
            findings = self.findings(keeper, ours)
            assert findings["rotation"].status == status

    @pytest.mark.parametrize(
        ("state", "hours", "status"),
        [
            ("InSync", None, "ok"),
            ("InSync", 2, "ok"),
            ("InProgress", 0.9, "ok"),
            ("InProgress", 2, "warning"),
            ("InProgress", None, "warning"),
            ("Failed", 0.9, "warning"),
        ],
    )
    def test_says_that_a_replica_is_not_in_step(
        self, state: str, hours: float | None, status: str, secret: Secret
    ) -> None:
        description = SecretsManager(secret.server.client(), secret.arn, FakeClock().deadline()).describe()
        last = None if hours is None else NOW - timedelta(hours=hours)
        replicated = SecretVersions({}, replicas={"eu-west-1": state})
        finding = looking(description=replace(description, last_rotated=last), versions=replicated).find("replicas")
        assert (finding.status, finding.seen) == (status, f"eu-west-1 {state}")

    def test_says_that_a_rotation_is_overdue(self, secret: Secret) -> None:
        rotation.begin(secret.server.client(), secret.arn, secret.server.function_arn)
        description = SecretsManager(secret.server.client(), secret.arn, FakeClock().deadline()).describe()
        late = replace(description, next_rotation=NOW - timedelta(1))
        assert looking(description=late, settings=SETTINGS).find("rotation").status == "warning"
        unscheduled = replace(description, next_rotation=None, schedule=None, last_rotated=None)
        seen = looking(description=unscheduled, settings=SETTINGS).find("rotation").seen
        assert seen == "on, without a schedule; last never"

    def test_stops_at_a_deleted_secret(self, secret: Secret) -> None:
        secret.server.client().delete_secret(SecretId=secret.arn)
        findings = self.look(secret)
        assert findings["rotation"].code == "secret-deleted"

    def test_stops_where_nothing_was_ever_stored(self, secret: Secret) -> None:
        client = secret.server.client()
        name = f"{secret.arn.rpartition(':')[2]}-empty"
        arn = client.create_secret(Name=name)["ARN"]
        findings = self.findings(SecretsManager(client, arn, FakeClock().deadline()))
        assert findings["labels"].code == "missing-version"
        assert "secret" not in findings

    def test_lists_all_that_is_wrong_with_the_value_and_quotes_none_of_it(
        self, make_secret: Callable[[object], Secret]
    ) -> None:
        value = {"engine": "xyzzy", "host": "xy/zzy", "port": "xyzzy", "username": "", "password": 5, "ssl": "xyzzy"}
        finding = self.look(make_secret(value))["secret"]
        assert (finding.status, finding.code) == ("failed", "invalid-secret")
        for key in value:
            assert f"`{key}`" in finding.seen
        assert "zzy" not in finding.seen

    def test_says_where_else_the_password_stands(
        self, postgres: PostgresServer, make_role: Callable[..., Role], make_secret: Callable[[object], Secret]
    ) -> None:
        document = make_role(postgres).document
        password = document["password"]
        assert self.look(make_secret(document))["copies"].seen == "No other key holds the password."
        url = {"url": f"postgres://{document['username']}:{password}@h/d", "allowStaleCopies": ["note"]}
        secret = make_secret({**document, **url, "note": f"it is {password}"})
        finding = self.look(secret)["copies"]
        assert finding.status == "ok"
        assert finding.seen == (
            "`url`: renewed, as copies of the login. `note`: left as it is, as `allowStaleCopies` says."
        )
        secret.server.client().put_secret_value(
            SecretId=secret.arn, SecretString=json.dumps({**document, **url, "password": "another", "pwd": "another"})
        )
        finding = self.look(secret)["copies"]
        assert finding.status == "warning"
        assert finding.seen.endswith("`url`: holds AWSPREVIOUS's password, and is not renewed.")
        assert finding.action

    def test_says_which_copy_would_stop_a_rotation(self, make_secret: Callable[[object], Secret]) -> None:
        login = {"host": "h", "username": "app", "password": "xyzzy-xyzzy-xyzzy"}
        finding = self.look(make_secret({**login, "a": {"note": "not xyzzy-xyzzy-xyzzy"}}))["copies"]
        assert (finding.status, finding.code) == ("failed", "invalid-secret")
        assert "`a.note`" in finding.seen
        assert "xyzzy" not in finding.seen

    def test_warns_of_a_short_password_in_a_sentence_and_of_another_user(
        self, make_secret: Callable[[object], Secret]
    ) -> None:
        login = {"host": "h", "username": "app", "password": "shop"}
        finding = self.look(make_secret({**login, "note": "the shop", "ro": {"user": "ro", "password": "shop"}}))[
            "copies"
        ]
        assert finding.status == "warning"
        assert "`ro.password`: left as it is: the login of another user, with the same password in it." in finding.seen
        assert "`note`: left as it is" in finding.seen

    @pytest.mark.parametrize(("policy", "status"), [({}, "ok"), ({"length": 8}, "warning")])
    def test_measures_the_new_password(self, policy: dict[str, int], status: str) -> None:
        settings = replace(SETTINGS, password_policy=PasswordPolicy(**policy))  # type: ignore[arg-type]
        finding = looking(current=LOGIN, settings=settings).find("new password")
        assert finding.status == status
        assert "of another kind" in finding.seen
        current = LOGIN.with_password("x" * 32)
        assert "of that kind" in looking(current=current, settings=SETTINGS).find("new password").seen


SURVEY = Survey(
    version="17.5",
    clock=0,
    superuser=False,
    createrole=False,
    valid_until=None,
    days_left=None,
    connection_limit=None,
    connections=1,
    other_rotations=0,
    server_limit=100,
    server_connections=10,
    rds_memberships=[],
    password_commands_restricted=False,
    passwords_checked=False,
    settings={"password_encryption": "scram-sha-256", "log_statement": "none", "log_min_duration_statement": "-1"},
)


@dataclass(slots=True)
class Inside:
    """A session that sees what a test wants to be seen."""

    credential: Credential = LOGIN
    authentication: str = "scram-sha-256"
    encryption: str = "TLSv1.3"
    in_recovery: bool = False
    seen: Survey = SURVEY
    is_open: bool = True
    runs_as: str = "app"
    doubts: str = ""
    cut: dict[str, errors.DatabaseError] = field(default_factory=dict)

    def _answer(self, asked: str) -> None:
        assert self.is_open
        if error := self.cut.get(asked):
            raise error

    def rehearse(self, pending: Credential, trust: Trust) -> Plan:
        """Doubt that a user is the secret's, unless something speaks for it."""
        self._answer("rehearse")
        if self.doubts and not trust.is_ours(self.doubts):
            raise errors.RoleNotPreparedError("said by its value alone.")
        return Plan([], [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def survey(self) -> Survey:
        self._answer("survey")
        return replace(self.seen, clock=round(time.time()))

    def close(self) -> None:
        self.is_open = False


class TestSession:
    def look(self, inside: Inside) -> dict[str, Finding]:
        database = Answering(SslMode.VERIFY_FULL, SHIPPED_BUNDLE, Deadline.after(60_000))
        look = looking(door=inside, strategy=Strategy.SINGLE_USER, current=LOGIN, database=database)
        return reached(look, *OF_SESSION)

    def see(self, **changes: Any) -> dict[str, Finding]:  # noqa: ANN401 - a survey's fields
        return self.look(Inside(seen=replace(SURVEY, **changes)))

    def test_is_all_right(self) -> None:
        assert {finding.status for finding in self.see().values()} == {"ok"}

    def test_knows_a_standby(self) -> None:
        assert self.look(Inside(in_recovery=True))["primary"].code == "database-read-only"

    @pytest.mark.parametrize(("days", "status"), [(None, "ok"), (300, "ok"), (29, "warning"), (-1, "warning")])
    def test_looks_at_valid_until(self, days: int | None, status: str) -> None:
        finding = self.see(valid_until=days and "2031-05-05 00:00:00", days_left=days)["role"]
        assert finding.status == status
        assert bool(finding.action) == (status == "warning")

    def test_opens_a_session_anew_that_was_cut_before_it_looked_around(self) -> None:
        """And believes the new one: meanwhile another server may have the name."""
        cut, again = Inside(cut={"survey": CUT}), Inside(in_recovery=True)
        database = Answering(SslMode.VERIFY_FULL, SHIPPED_BUNDLE, Deadline.after(60_000), answers={"current": again})
        look = looking(door=cut, strategy=Strategy.ALTERNATING_USERS, current=LOGIN, database=database)
        finding = reached(look, "primary")["primary"]
        assert (finding.status, "a standby" in finding.seen) == ("ok", True)
        assert database.tried == ["current"]
        assert not cut.is_open
        assert not again.is_open

    def test_tells_what_cuts_each_session(self) -> None:
        answers = {"current": lambda: Inside(cut={"survey": CUT})}
        database = Answering(SslMode.VERIFY_FULL, SHIPPED_BUNDLE, Deadline.after(60_000), answers=answers)
        look = looking(door=answers["current"](), strategy=Strategy.SINGLE_USER, current=LOGIN, database=database)
        finding = reached(look, "primary")["primary"]
        assert finding.code == CUT.code
        assert "Waited for" in finding.seen

    def test_knows_a_superuser(self) -> None:
        assert "superuser" in self.see(superuser=True)["role"].seen

    @pytest.mark.parametrize(
        ("limits", "status"),
        [
            ({"connection_limit": 2}, "ok"),
            ({"connection_limit": 1}, "warning"),
            ({"server_limit": 14}, "warning"),
        ],
    )
    def test_counts_the_connections_that_are_left(self, limits: dict[str, int], status: str) -> None:
        assert self.see(**limits)["connections"].status == status

    @pytest.mark.parametrize(("iterations", "status"), [(1, "warning"), (4096, "ok"), (2_000_000, "warning")])
    def test_looks_at_the_iterations_of_new_verifiers(self, iterations: int, status: str) -> None:
        settings = {**SURVEY.settings, "scram_iterations": str(iterations)}
        assert self.see(settings=settings)["password encryption"].status == status

    def test_looks_at_the_servers_password_encryption(self) -> None:
        seen = replace(SURVEY, settings={"password_encryption": "md5"})
        assert "SCRAM verifier all the same" in self.look(Inside(seen=seen))["password encryption"].seen
        assert "so does a rotation" in self.look(Inside(seen=seen, authentication="md5"))["password encryption"].seen
        assert self.see(settings={})["password encryption"].status == "warning"

    @pytest.mark.parametrize(
        "setting",
        [
            {"log_statement": "ddl"},
            {"log_min_duration_statement": "0"},
            {"pgaudit.log": "role"},
            {"pg_stat_statements.track_utility": "on"},
        ],
    )
    def test_says_what_would_keep_the_statement(self, setting: dict[str, str]) -> None:
        seen = replace(SURVEY, settings=setting)
        assert self.look(Inside(seen=seen))["server's log"].status == "ok"
        finding = self.look(Inside(seen=seen, authentication="md5"))["server's log"]
        assert finding.status == "warning"
        assert next(iter(setting)).partition(".")[0] in finding.seen

    @pytest.mark.parametrize(
        ("changes", "status", "told"),
        [
            ({}, "ok", ""),
            ({"password_commands_restricted": True}, "failed", "`GRANT rds_password TO`"),
            ({"password_commands_restricted": True, "rds_memberships": ["rds_password"]}, "ok", ""),
            ({"passwords_checked": True}, "warning", "credcheck.encrypted_password_allowed"),
            ({"passwords_checked": True, "settings": {CREDCHECK: "off"}}, "failed", f"Set {CREDCHECK} = on"),
            ({"passwords_checked": True, "settings": {CREDCHECK: "on"}}, "ok", ""),
            ({"other_rotations": 1}, "warning", "two secrets"),
        ],
    )
    def test_says_whether_the_role_may_change_its_password(
        self, changes: dict[str, Any], status: str, told: str
    ) -> None:
        finding = self.see(**changes)["password change"]
        assert finding.status == status
        assert told in finding.action

    def test_names_no_user_that_only_the_value_has_named(self) -> None:
        """Else a writer of the value has a DBA grant rds_password to whom it likes, by a server of its own."""
        with pytest.raises(errors.PasswordChangeError) as caught:
            session_checks.look_at_own_password(replace(SURVEY, password_commands_restricted=True))
        assert caught.value.hint.startswith("`GRANT rds_password TO` the user of this login")


class TestSurvey:
    """On real servers, as an ordinary role."""

    @pytest.mark.parametrize("version", [16, 17, 18])
    def test_sees_the_role_and_the_server(
        self, version: int, postgres_of: Callable[[int], PostgresServer], make_role: Callable[..., Role]
    ) -> None:
        server = postgres_of(version)
        role = make_role(server, options="CONNECTION LIMIT 7 VALID UNTIL '2100-01-01'")
        for name in ("rds_password", "rdsx"):
            server.query(f"CREATE ROLE {name}")
        server.query(f"GRANT rds_password TO {role.name}")
        role.alter("SET rds.restrict_password_commands = on")
        try:
            with door(server).log_in(login(role)) as session, door(server).log_in(login(role)):
                seen = session.survey()
        finally:
            for name in ("rds_password", "rdsx"):
                server.query(f"DROP ROLE {name}")
        assert seen.version.startswith(f"{version}.")
        assert seen.valid_until == "2100-01-01 00:00:00"
        assert (seen.connection_limit, seen.connections, seen.other_rotations) == (7, 2, 1)
        assert seen.rds_memberships == ["rds_password"]
        assert seen.password_commands_restricted
        assert seen.settings["password_encryption"] == "scram-sha-256"
        assert not seen.superuser

    @pytest.mark.parametrize("digits", [-15, 3])
    def test_reads_the_time_whatever_the_users_settings_are(
        self, digits: int, postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        """Of floating-point numbers extra_float_digits leaves one digit (PostgreSQL 19.11.2)."""
        role = make_role(postgres, options="VALID UNTIL '2100-01-01'")
        role.alter(f"SET extra_float_digits = {digits}")
        with door(postgres).log_in(login(role)) as session:
            seen = session.survey()
        assert secret_checks.compare_clock(seen.clock, "theirs").status is None
        assert seen.days_left == (datetime(2100, 1, 1, tzinfo=UTC) - datetime.now(UTC)).days

    @pytest.mark.parametrize("until", ["infinity", None])
    def test_takes_no_end_for_none(
        self, until: str | None, postgres: PostgresServer, make_role: Callable[..., Role]
    ) -> None:
        role = make_role(postgres, options=f"VALID UNTIL '{until}'" if until else "")
        with door(postgres).log_in(login(role)) as session:
            seen = session.survey()
        assert (seen.valid_until, seen.connection_limit, seen.password_commands_restricted) == (None, None, False)


def door(server: PostgresServer) -> Postgres:
    sslmode = SslMode.VERIFY_FULL if server.ca_file else SslMode.DISABLE
    return Postgres(sslmode, str(server.ca_file or SHIPPED_BUNDLE), Deadline.after(60_000))


def login(role: Role, **changes: object) -> Credential:
    return Credential.parse(json.dumps({**role.document, **changes}))


@dataclass(frozen=True, slots=True)
class Answering(Postgres):
    """A database that answers each password as a test says, at an address where somebody listens."""

    answers: Mapping[str, Inside | errors.DatabaseError | Callable[[], Inside | errors.DatabaseError]] = field(
        default_factory=dict
    )
    certificate: Certificate | None = None
    tried: list[str] = field(default_factory=list)

    def log_in(self, credential: Credential, *, scram_only: bool = False, reserve: float = 0.0) -> Session:
        self.tried.append(credential.password)
        answer = self.answers[credential.password]
        if callable(answer):
            answer = answer()
        if isinstance(answer, errors.DatabaseError):
            raise answer
        return cast("Session", answer)

    def look_at_certificate(self, address: str, credential: Credential) -> Certificate | None:
        return self.certificate


REFUSED = errors.LoginRefusedError("refused.")
SHUT = errors.LoginNotAllowedError("shut.")
CUT = errors.ConnectionFailedError("cut.")
POOLER = errors.PoolerError("a pooler.")
CERTIFICATE = Certificate(("localhost",), "an authority", NOW + timedelta(365.5), None, "TLSv1.3")


class Looking:
    @pytest.fixture
    def port(self) -> Any:  # noqa: ANN401 - an iterator of a number
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def look(
        self,
        port: int,
        answers: Mapping[str, Inside | errors.DatabaseError | Callable[[], Inside | errors.DatabaseError]],
        values: Mapping[StagingLabel, Credential | errors.RotationError] | None = None,
        **changes: Any,  # noqa: ANN401 - fields of Answering
    ) -> tuple[dict[str, Finding], Answering]:
        current = replace(LOGIN, port=port, **changes.pop("login", {}))
        labels = {f"version {label}": frozenset({label}) for label in values or {}}
        versions = SecretVersions({"version 1": frozenset({CURRENT}), **labels})
        strategy, learnt = changes.pop("strategy", Strategy.SINGLE_USER), changes.pop("learnt", {})
        user = KINDS[strategy].next_user(current)
        defaults = {"sslmode": SslMode.VERIFY_FULL, "sslrootcert": SHIPPED_BUNDLE, "certificate": CERTIFICATE}
        database = Answering(deadline=Deadline.after(60_000), answers=answers, **{**defaults, **changes})
        look = looking(
            database=database,
            versions=versions,
            values={CURRENT: current, **(values or {})},
            current=current,
            strategy=strategy,
            user=user,
            **learnt,
        )
        return reached(look, *OF_DATABASE), database

    def pending(self, port: int, **changes: Any) -> dict[StagingLabel, Credential | errors.RotationError]:  # noqa: ANN401
        return {PENDING: replace(LOGIN, port=port, **{"password": "pending", **changes})}


class TestDatabase(Looking):
    @pytest.mark.parametrize(("spent", "status"), [(0.01, "ok"), (3.0, "warning")])
    def test_tells_of_a_login_that_costs_the_function_much(self, spent: float, status: str) -> None:
        finding = database_checks._let_in(LOGIN, 3000, spent).of("login AWSCURRENT")
        assert finding.status == status
        assert ("iterations" in finding.action) == (status == "warning")

    def test_tries_one_password_where_that_is_enough(self, port: int) -> None:
        inside = Inside()
        values = {PREVIOUS: LOGIN.with_password("previous")}
        findings, database = self.look(port, {"current": inside}, values)
        assert {finding.status for finding in findings.values()} == {"ok", "not reached"}
        assert database.tried == ["current"]
        assert not inside.is_open

    @pytest.mark.parametrize(
        ("pending", "status"), [(REFUSED, "ok"), (SHUT, "failed"), (Inside(), "warning")], ids=["no", "shut", "yes"]
    )
    def test_tries_a_pending_version_of_its_own(
        self, pending: Inside | errors.DatabaseError, status: str, port: int
    ) -> None:
        findings, _ = self.look(port, {"current": Inside(), "pending": pending}, self.pending(port))
        assert findings["login AWSPENDING"].status == status
        assert findings["login AWSCURRENT"].status == "ok"
        assert not (isinstance(pending, Inside) and pending.is_open)

    def test_does_not_try_the_same_password_twice(self, port: int) -> None:
        findings, database = self.look(port, {"current": Inside()}, self.pending(port, password="current"))
        assert findings["login AWSPENDING"].status == "ok"
        assert database.tried == ["current"]

    @pytest.mark.parametrize(
        ("value", "code"),
        [
            (replace(LOGIN, host="elsewhere.example"), "credential-mismatch"),
            (replace(LOGIN, username="postgres"), "credential-mismatch"),
            (errors.InvalidSecretError("no."), "invalid-secret"),
            (DENIED, "access-denied"),
            (errors.MissingVersionError("none."), ""),
        ],
    )
    def test_sends_nothing_to_where_a_pending_version_points(
        self, value: Credential | errors.RotationError, code: str, port: int
    ) -> None:
        findings, database = self.look(port, {"current": Inside()}, {PENDING: value})
        assert findings["login AWSPENDING"].code == code
        assert database.tried == ["current"]

    @pytest.mark.parametrize("pending", [Inside(), SHUT], ids=["yes", "shut"])
    def test_knows_an_interrupted_rotation(self, pending: Inside | errors.DatabaseError, port: int) -> None:
        findings, _ = self.look(port, {"current": REFUSED, "pending": pending}, self.pending(port))
        assert "stopped before finishSecret" in findings["login AWSCURRENT"].seen
        assert ("role" in findings) == isinstance(pending, Inside)

    @pytest.mark.parametrize("previous", [Inside(), SHUT], ids=["yes", "shut"])
    def test_knows_a_restored_snapshot(self, previous: Inside | errors.DatabaseError, port: int) -> None:
        values = {**self.pending(port), PREVIOUS: replace(LOGIN, port=port, password="previous")}
        answers = {"current": REFUSED, "pending": REFUSED, "previous": previous}
        findings, database = self.look(port, answers, values)
        assert "snapshot" in findings["login AWSCURRENT"].seen
        assert database.tried == ["current", "pending", "previous"]
        assert ("role" in findings) == isinstance(previous, Inside)

    def test_knows_that_no_password_is_in_force(self, port: int) -> None:
        values = {**self.pending(port), PREVIOUS: replace(LOGIN, port=port, password="previous")}
        findings, database = self.look(port, {"current": REFUSED, "pending": REFUSED, "previous": REFUSED}, values)
        assert findings["login AWSPREVIOUS"].seen == "refused, as it has to be after a rotation"
        assert (findings["login AWSCURRENT"].status, findings["login AWSCURRENT"].code) == ("failed", REFUSED.code)
        assert database.tried == ["current", "pending", "previous"]
        assert "role" not in findings

    def test_sends_no_password_of_another_server(self, port: int) -> None:
        values = {PREVIOUS: replace(LOGIN, host="old.example", port=port, password="previous")}
        findings, database = self.look(port, {"current": REFUSED, "previous": Inside()}, values)
        assert findings["login AWSPREVIOUS"].seen.startswith("not tried, since it is for another server")
        assert database.tried == ["current"]

    @pytest.mark.parametrize("strategy", [Strategy.SINGLE_USER, Strategy.SUPERUSER])
    @pytest.mark.parametrize("label", [PENDING, PREVIOUS])
    @pytest.mark.parametrize("answer", [POOLER, errors.DatabaseTimeoutError("silent.")], ids=["pooler", "silence"])
    def test_takes_no_answer_neither_for_a_yes_nor_for_a_no(
        self,
        answer: errors.DatabaseError,
        label: StagingLabel,
        strategy: Strategy,
        port: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A rotation stops there as well: only a refusal leads to another password."""
        monkeypatch.setattr(deadline, "MOST_WAIT_S", 0.6)
        values = {label: replace(LOGIN, port=port, password="asked"), PREVIOUS: LOGIN.with_password("previous")}
        if label is PREVIOUS:
            values = {PREVIOUS: replace(LOGIN, port=port, password="asked")}
        answers: dict[str, Any] = {"current": REFUSED, "asked": answer, "previous": Inside(), "super": Inside()}
        learnt = {"superusers": FakeSuperusers(LOGIN.with_password("super", "master"))}
        findings, database = self.look(port, answers, values, strategy=strategy, learnt=learnt)
        asked, current = findings[f"login {label}"], findings["login AWSCURRENT"]
        assert (asked.status, asked.code) == ("failed", answer.code)
        assert (current.status, current.code) == ("failed", "")
        assert current.seen == f"refused. Whether {label}'s password is in force is not known."
        assert f"`login {label}`" in current.action
        assert not {"previous", "super"} & {*database.tried}
        assert not {"role", "password change"} & findings.keys()

    @pytest.mark.parametrize("previous", [LOGIN.with_password("previous"), LOGIN, DENIED], ids=str)
    def test_says_that_nobody_knows_the_password(self, previous: Credential | errors.RotationError, port: int) -> None:
        findings, _ = self.look(port, {"current": REFUSED, "previous": REFUSED}, {PREVIOUS: previous})
        assert findings["login AWSCURRENT"].code == "login-refused"
        assert "role" not in findings

    def test_does_not_lend_one_role_the_password_of_another(self, port: int) -> None:
        previous = replace(LOGIN, username="app_clone", password="previous")
        _, database = self.look(port, {"current": REFUSED, "previous": Inside()}, {PREVIOUS: previous})
        assert database.tried == ["current"]

    def test_stops_where_a_login_is_not_even_asked_for(self, port: int) -> None:
        findings, database = self.look(port, {"current": errors.PoolerError("a pooler.")}, self.pending(port))
        assert findings["login AWSCURRENT"].code == "pooler-in-between"
        assert database.tried == ["current"]

    def test_warns_of_md5(self, port: int) -> None:
        findings, _ = self.look(port, {"current": Inside(authentication="md5")})
        assert findings["authentication"].status == "warning"

    @pytest.mark.parametrize(
        ("changes", "status", "told"),
        [
            ({}, "ok", "365 days left"),
            ({"certificate": None}, "ok", "did not show itself"),
            ({"certificate": replace(CERTIFICATE, expires=NOW + timedelta(9))}, "warning", "8 days left"),
            ({"sslmode": SslMode.REQUIRE}, "warning", "require: asked for localhost"),
            ({"sslmode": SslMode.DISABLE}, "warning", "none"),
            ({"login": {"sslmode": SslMode.DISABLE}}, "warning", "none"),
            ({"login": {"tls_server_name": "db.example"}}, "ok", "asked for db.example"),
        ],
    )
    def test_looks_at_the_certificate(self, changes: dict[str, Any], status: str, told: str, port: int) -> None:
        findings, _ = self.look(port, {"current": Inside()}, **changes)
        assert findings["TLS"].status == status
        assert told in findings["TLS"].seen

    def test_says_that_no_certificate_is_verified(self, port: int) -> None:
        findings, _ = self.look(port, {"current": Inside()}, sslmode=SslMode.REQUIRE)
        assert findings["trusted roots"].status == "not reached"

    def test_looks_at_the_trusted_roots(self, port: int, tmp_path: Any) -> None:  # noqa: ANN401 - a path
        findings, _ = self.look(port, {"current": Inside()})
        assert "the shipped RDS and Amazon roots: 86 certificates" in findings["trusted roots"].seen
        for region, count, status in (("eu-west-1", 8, "ok"), ("il-central-1", 86, "warning")):
            login = {"tls_server_name": f"db.c1x2y3.{region}.rds.amazonaws.com"}
            finding = self.look(port, {"current": Inside()}, login=login)[0]["trusted roots"]
            assert finding.status == status
            assert f"{count} certificate{'s' if count > 1 else ''}," in finding.seen
            assert region in finding.seen
            assert ("make bundle" in finding.action) == (status == "warning")
        (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
        for file in ("broken.pem", "missing.pem"):
            findings, _ = self.look(port, {"current": Inside()}, sslrootcert=str(tmp_path / file))
            assert findings["trusted roots"].code == "invalid-configuration"

    @pytest.mark.parametrize(("file", "status"), [(SHIPPED_BUNDLE, "warning"), ("system", "ok")])
    def test_tells_in_time_that_a_root_expires_which_the_platform_does_not_renew(
        self, file: str, status: str, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tls, "read_roots", lambda _: Roots(3, NOW + timedelta(99), NOW))
        findings, _ = self.look(port, {"current": Inside()}, sslrootcert=file)
        assert findings["trusted roots"].status == status

    @pytest.mark.parametrize("times", [1, 5])
    def test_waits_for_dns(self, port: int, times: int) -> None:
        answers: list[errors.DatabaseError] = [errors.DatabaseTimeoutError("DNS is silent.")] * times

        def look_up(_: Credential) -> list[str]:
            if answers:
                raise answers.pop()
            return ["127.0.0.1"]

        findings, _ = self.look(port, {"current": Inside()}, look_up=look_up)
        assert (findings["DNS"].status, findings["login AWSCURRENT"].status) == ("ok", "ok")

    def test_asks_twice_for_a_host_that_dns_does_not_know(self, port: int) -> None:
        asked = []

        def look_up(current: Credential) -> list[str]:
            asked.append(current.host)
            raise errors.HostNotFoundError("unknown.")

        findings, _ = self.look(port, {}, look_up=look_up)
        assert (findings["DNS"].code, len(asked)) == ("host-not-found", 2)

    @pytest.mark.parametrize("seconds", [RESERVE_S, 0.0])
    def test_begins_no_look_up_that_it_has_no_time_for(self, port: int, seconds: float) -> None:
        """A look-up has no end of its own, and a report that comes too late is none."""
        asked: list[object] = []
        learnt = {"deadline": FakeClock().deadline(seconds)}
        findings, _ = self.look(port, {}, look_up=asked.append, learnt=learnt)
        assert (findings["DNS"].code, asked) == ("database-timeout", [])

    @pytest.mark.parametrize("number", [1, 3, 20, 300])
    def test_takes_no_longer_where_a_host_has_many_addresses(
        self, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, tried = FakeClock(), []

        def connect(address: tuple[str, int], timeout: float) -> None:
            tried.append(address)
            clock.sleep(timeout)
            raise TimeoutError

        monkeypatch.setattr(socket, "create_connection", connect)
        monkeypatch.setattr(database_checks, "time", SimpleNamespace(monotonic=lambda: clock.now))
        addresses = [f"192.0.2.{last}" for last in range(number)]
        findings = reached(looking(deadline=clock.deadline(30), current=LOGIN, addresses=addresses), "TCP")
        assert findings["TCP"].code == "database-timeout"
        assert set(tried) == {(address, LOGIN.port) for address in addresses}
        assert clock.now <= 30 - RESERVE_S

    def test_says_which_addresses_do_not_answer(self, port: int) -> None:
        findings, _ = self.look(port, {"current": Inside()}, look_up=lambda _: ["127.0.0.1", "127.0.0.2"])
        assert findings["TCP"].status == "warning"
        assert "127.0.0.2" in findings["TCP"].seen

    def test_tells_silence_from_refusal(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "create_connection", timing_out)
        monkeypatch.setattr(deadline, "MOST_WAIT_S", 0.6)
        findings, database = self.look(port, {})
        assert findings["TCP"].code == "database-timeout"
        assert database.tried == []


def timing_out(*_: object, **__: object) -> None:
    raise TimeoutError


def test_the_worst_finding_decides() -> None:
    findings = [Finding("x", status, "seen") for status in (Status.OK, Status.WARNING, Status.NOT_REACHED)]
    assert Report("arn", tuple(findings), 0.1).worst is Status.WARNING
    assert Report("arn", (findings[2], findings[0]), 0.1).worst is Status.OK
    assert [Report("arn", (finding,), 0.1).exit_status for finding in findings] == [0, 1, 0]


def test_a_finding_tells_no_verifier_that_a_server_has_put_into_its_answer() -> None:
    verifier = "md5" + "0a" * 16
    finding = Seen(f"role {verifier} is let in", f"Look for {verifier}.").of("role")
    assert (finding.seen, finding.action) == ("role … is let in", "Look for ….")


def test_a_report_is_wrapped_at_words_and_indented_below_the_status() -> None:
    findings = (
        Finding("TLS", Status.FAILED, "the name differs from the name in the certificate", "Use the name."),
        Finding("role", Status.NOT_REACHED, IN_THE_WAY),
    )
    assert Report("a/very-long-name-that-cannot-be-wrapped", findings, 0.123).to_text(40).splitlines() == [
        "Preflight of a/very-long-name-that-cannot-be-wrapped",
        "",
        "failed       TLS: the name differs from",
        "             the name in the certificate",
        "             → Use the name.",
        "not reached  another check stands in the",
        "             way: role",
        "",
        "1 failed, 1 not reached; 0.12 seconds. Nothing was changed.",
    ]


def test_every_check_has_a_name_of_its_own() -> None:
    assert len(set(preflight.CHECKS)) == len(preflight.CHECKS)


class TestAlternatingUsers(Looking):
    """The two labels are two users' passwords: one says nothing about the other."""

    @pytest.mark.parametrize("answer", [Inside(), REFUSED], ids=["let in", "refused"])
    def test_take_the_other_users_password_as_it_is(self, port: int, answer: Inside | errors.DatabaseError) -> None:
        values = self.pending(port, username=f"{LOGIN.username}_clone")
        answers = {"current": Inside(), "pending": answer}
        findings, _ = self.look(port, answers, values, strategy=Strategy.ALTERNATING_USERS)
        assert findings["login AWSPENDING"].status == "ok"

    def test_know_a_version_that_another_strategy_has_made(self, port: int) -> None:
        findings, database = self.look(
            port, {"current": Inside()}, self.pending(port), strategy=Strategy.ALTERNATING_USERS
        )
        assert findings["login AWSPENDING"].code == "credential-mismatch"
        assert database.tried == ["current"]

    @pytest.mark.parametrize("answer", [Inside(), REFUSED], ids=["let in", "refused"])
    def test_are_not_mended_where_the_current_password_is_refused(
        self, port: int, answer: Inside | errors.DatabaseError
    ) -> None:
        values = self.pending(port, username=f"{LOGIN.username}_clone")
        answers = {"current": REFUSED, "pending": answer}
        findings, _ = self.look(port, answers, values, strategy=Strategy.ALTERNATING_USERS)
        assert findings["login AWSCURRENT"].code == "login-refused"
        assert isinstance(answer, errors.DatabaseError) or not answer.is_open

    def test_may_have_a_standby_for_a_host(self, port: int) -> None:
        findings, _ = self.look(port, {"current": Inside(in_recovery=True)}, strategy=Strategy.ALTERNATING_USERS)
        assert findings["primary"].status == "ok"
        assert "a standby" in findings["primary"].seen


class TestSuperuser:
    def look(
        self,
        superuser: Inside | Callable[[], Inside],
        values: Mapping[StagingLabel, Credential] | None = None,
        answers: Mapping[str, Inside | errors.DatabaseError] | None = None,
    ) -> dict[str, Finding]:
        database = Answering(
            SslMode.VERIFY_FULL, SHIPPED_BUNDLE, Deadline.after(60_000), answers={"super": superuser, **(answers or {})}
        )
        look = looking(
            database=database,
            superusers=cast("Superusers", FakeSuperusers(LOGIN.with_password("super", "master"))),
            strategy=Strategy.ALTERNATING_USERS,
            current=LOGIN,
            user=f"{LOGIN.username}_clone",
            versions=SecretVersions({}),
            values={CURRENT: LOGIN, **(values or {})},
            doors={CURRENT: Inside()},
            door=Inside(),
        )
        return reached(look, "superuser secret", "superuser login", "password change")

    def test_does_not_change_anything_on_a_standby(self) -> None:
        inside = Inside(in_recovery=True)
        assert self.look(inside)["superuser login"].code == "database-read-only"
        assert not inside.is_open

    def test_is_not_told_that_a_user_is_not_the_secrets_where_that_is_not_known(self) -> None:
        """The password of the other user may well be in force: a rotation stops with the error of that login."""
        clone = LOGIN.with_password("clone", f"{LOGIN.username}_clone")
        finding = self.look(Inside(doubts=clone.username), {PREVIOUS: clone}, {"clone": POOLER})["password change"]
        assert (finding.status, finding.code) == ("failed", POOLER.code)

    @pytest.mark.parametrize(("answer", "code"), [(REFUSED, "role-not-prepared"), (Inside(), "")], ids=["no", "yes"])
    def test_is_told_by_the_other_users_password_whose_it_is(
        self, answer: Inside | errors.DatabaseError, code: str
    ) -> None:
        clone = LOGIN.with_password("clone", f"{LOGIN.username}_clone")
        finding = self.look(Inside(doubts=clone.username), {PENDING: clone}, {"clone": answer})["password change"]
        assert finding.code == code

    @pytest.mark.parametrize(
        "cut",
        [{"survey": CUT}, {"rehearse": errors.PasswordChangeError("cut.", sqlstate=None, lost=True)}],
        ids=["survey", "rehearse"],
    )
    def test_is_asked_anew_where_the_session_was_cut(self, cut: dict[str, errors.DatabaseError]) -> None:
        sessions = iter([Inside(LOGIN.with_password("super", "master"), cut=cut), Inside()])
        assert self.look(lambda: next(sessions))["password change"].status == "ok"

    def test_is_asked_no_further_where_passwords_are_looked_into(self) -> None:
        assert self.look(Inside(seen=replace(SURVEY, passwords_checked=True)))["password change"].status == "warning"


def test_a_rehearsal_that_breaks_off_says_why(postgres: PostgresServer, make_role: Callable[..., Role]) -> None:
    role = make_role(postgres)
    with door(postgres).log_in(login(role)) as session:
        postgres.query("SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = %s", (role.name,))
        with pytest.raises(errors.PasswordChangeError, match="the session broke"):
            session.rehearse(login(role, username=f"{role.name}_clone"), Trust(login(role), lambda _: True))
