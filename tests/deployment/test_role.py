"""The template's role is enough for a rotation, and no more: actions on a moto that enforces IAM, the rest as written.

moto judges actions alone (resource "*", no conditions); resources and conditions are read from the resolved policies.
"""

from __future__ import annotations

import ast
import json
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from psycopg2 import sql

from local.servers import rotation
from rotation_lambda import preflight
from rotation_lambda.errors import AccessDeniedError, RotationError
from tests import ROOT
from tests.deployment.cloudformation import PARTITIONS, SECRET, TWO_ANSWERS, Stack, deploy
from tests.deployment.test_template import FURTHER, KEY, NEW, SUPERUSER, SUPERUSER_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from mypy_boto3_rds import RDSClient

    from local.servers.postgres import PostgresServer
    from local.servers.secrets_manager import SecretsManagerServer
    from tests.conftest import Role, Secret

PREFIX = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/*"
VPC = {"SubnetIds": "subnet-1", "SecurityGroupIds": "sg-1"}
EVERYTHING = {
    **TWO_ANSWERS,
    **VPC,
    "FurtherSecretArns": FURTHER,
    "KmsKeyArn": KEY,
    "SuperuserSecretArn": SUPERUSER,
    "SuperuserKmsKeyArn": SUPERUSER_KEY,
}


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(statements: list[dict[str, Any]], service: str) -> set[str]:
    granted = {action for statement in statements for action in listed(statement["Action"])}
    return {action for action in granted if action.startswith(f"{service}:")}


def called(adapter: str, service: str) -> set[str]:
    """Return the actions behind the client's methods that an adapter names, to call them: one call, one action."""
    file = ROOT / "rotation_lambda" / f"{adapter}.py"
    return {
        f"{service}:{node.attr.title().replace('_', '')}".replace("Db", "DB")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("client") and node.attr != "exceptions"
    }


LISTS = "secretsmanager:ListSecrets"  # the daily preflight's, which finds the secrets by it
CALLED = called("secrets_manager", "secretsmanager") - {LISTS}
WITH_SUPERUSER = {**TWO_ANSWERS, "SuperuserSecretArn": SUPERUSER}
MANAGED = {
    **WITH_SUPERUSER,
    "RotationStrategy": "alternating-users",
    "SslMode": "require",
}  # no authority signs for RDS
ADAPTERS = [("secrets_manager", "secretsmanager", ("secrets", "preflight")), ("rds", "rds", ("superuser",))]


@dataclass(frozen=True, slots=True)
class Look:
    """What a preflight found in a secret, by check, and the actions that it needed."""

    arn: str
    findings: dict[str, dict[str, str]]
    called: set[str]

    def checks(self, status: str) -> set[str]:
        return {check for check, finding in self.findings.items() if finding["status"] == status}


class Account:
    """moto's IAM, with a role that has what the template's has."""

    def __init__(self, server: SecretsManagerServer) -> None:
        self.server = server

    @contextmanager
    def credentials(self, stack: Stack, without: str = "") -> Iterator[dict[str, str]]:
        """Assume the role of the stack, with one action taken away."""
        iam = self.server.client("iam")
        arn = iam.create_role(RoleName="template", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        granted = sorted(action for one in stack.statements() for action in listed(one["Action"]) if action != without)
        statement = {"Effect": "Allow", "Action": granted, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName="template", PolicyName="all", PolicyDocument=policy)
        session = self.server.client("sts").assume_role(RoleArn=arn, RoleSessionName="function")["Credentials"]
        names = {
            "AccessKeyId": "ACCESS_KEY_ID",
            "SecretAccessKey": "SECRET_ACCESS_KEY",
            "SessionToken": "SESSION_TOKEN",
        }
        try:
            yield {f"AWS_{names[key]}": session[key] for key in names}
        finally:
            iam.delete_role_policy(RoleName="template", PolicyName="all")
            iam.delete_role(RoleName="template")

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Let moto refuse what no policy allows; for all of its servers, since it has one state for them."""
        self._calls_without_policies("0")
        try:
            yield
        finally:
            self._calls_without_policies("1e9")

    def _calls_without_policies(self, number: str) -> None:
        connection = HTTPConnection(self.server.address, self.server.port, timeout=10)
        connection.request("POST", "/moto-api/reset-auth", number, {"Content-Type": "text/plain"})
        assert connection.getresponse().status == 200
        connection.close()


@pytest.fixture
def granted(
    secrets_manager: SecretsManagerServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractContextManager[None]]:
    """Let the function run under the template's role and variables, or with one action taken away from the role."""

    @contextmanager
    def grant(stack: Stack, without: str = "", masterarn: str = "") -> Iterator[None]:
        account = Account(secrets_manager)
        with account.credentials(stack, without) as credentials, monkeypatch.context() as patch, account.enforced():
            variables = stack.properties("RotationFunction")["Environment"]["Variables"] | credentials
            for name in variables.keys() - {"PGSSLROOTCERT"}:  # the stand-in's authority is not in the shipped bundle
                patch.setenv(name, str(variables[name]).replace(SUPERUSER, masterarn))
            yield

    return grant


@pytest.fixture
def manage(
    postgres: PostgresServer,
    make_role: Callable[..., Role],
    make_secret: Callable[[object], Secret],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Role, str], dict[str, Any]]:
    """Let RDS have the server as an instance or a cluster, and keep its superuser's secret.

    Returns what the role's secret has to say of it: where RDS has it, which leads to the server of these tests.
    """
    rds: RDSClient = make_secret({}).server.client("rds")
    name, login = f"managed-{uuid4().hex[:8]}", {"MasterUsername": "postgres", "MasterUserPassword": "not-a-secret"}
    place: dict[str, Any] = {"Port": postgres.port, **login}
    resolve = socket.getaddrinfo

    def lead_home(host: str, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - as it comes, so it goes
        return resolve(postgres.host if host.startswith(f"{name}.") else host, *rest, **more)

    def make(role: Role, kind: str) -> dict[str, Any]:
        superuser = make_role(role.server, f"master_{uuid4().hex[:8]}", options="CREATEROLE")
        names = map(sql.Identifier, (role.name, superuser.name))
        role.server.query(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(*names))
        if kind == "Instance":
            made = {"DBInstanceClass": "db.t4g.micro", "Engine": "postgres", "AllocatedStorage": 20, **place}
            instance = rds.create_db_instance(DBInstanceIdentifier=name, **made)["DBInstance"]
            arn, host = instance["DBInstanceArn"], instance["Endpoint"]["Address"]
        else:
            cluster = rds.create_db_cluster(DBClusterIdentifier=name, Engine="aurora-postgresql", **place)["DBCluster"]
            arn, host = cluster["DBClusterArn"], cluster["Endpoint"]
        secret = make_secret({"username": superuser.name, "password": superuser.password})
        tag = {"Key": f"aws:rds:primaryDB{kind}Arn", "Value": arn}
        secret.server.client().tag_resource(SecretId=secret.arn, Tags=[tag])
        monkeypatch.setattr(socket, "getaddrinfo", lead_home)
        return {"masterarn": secret.arn, "host": host}

    return make


@pytest.fixture
def rotate(
    secrets_manager: SecretsManagerServer,
    postgres: PostgresServer,
    make_role: Callable[..., Role],
    make_secret: Callable[[object], Secret],
    make_superuser: Callable[[Role], dict[str, Any]],
    manage: Callable[[Role, str], dict[str, Any]],
    invoke: Callable[[object], None],
    granted: Callable[..., AbstractContextManager[None]],
) -> Callable[..., None]:
    """Rotate a fresh secret, as the function does that runs under the template's role."""

    def run(stack: Stack, without: str = "", *, lost: bool = False, superuser: str = "") -> None:
        role = make_role(postgres)
        keys = {"": dict, "own": lambda: make_superuser(role)}.get(superuser, lambda: manage(role, superuser))()
        secret = make_secret({**role.document, **keys})
        client = secrets_manager.client()
        if lost:  # the password was changed, then the rotation was cancelled: only a version without a label has it
            token = rotation.begin(client, secret.arn, secrets_manager.function_arn)
            rotation.invoke_steps(invoke, secret.arn, token, steps=["createSecret", "setSecret"])
            rotation.cancel(client, secret.arn)
        token = rotation.begin(client, secret.arn, secrets_manager.function_arn)
        with granted(stack, without, keys.get("masterarn", "")):
            rotation.invoke_steps(invoke, secret.arn, token)
        assert secret.labels["AWSCURRENT"] == token
        document = secret.document()
        postgres.connect(document["username"], document["password"]).close()
        assert role.lets_in(document["password"]) is (document["username"] == role.name)

    return run


@pytest.fixture
def look(
    postgres: PostgresServer,
    make_role: Callable[..., Role],
    make_secret: Callable[[object], Secret],
    make_superuser: Callable[..., dict[str, Any]],
    invoke: Callable[[object], Any],
    granted: Callable[..., AbstractContextManager[None]],
) -> Callable[..., Look]:
    """Ask the function that runs under the template's role for a preflight of a fresh secret."""

    def run(without: str = "", stack: Stack | None = None) -> Look:
        role = make_role(postgres)
        keys = make_superuser(role) if stack else {}
        secret = make_secret({**role.document, **keys})
        secret.server.calls.clear()
        with granted(stack or deploy(), without, keys.get("masterarn", "")):
            report = invoke({"Step": "preflight", "SecretId": secret.arn})
        findings = {finding["check"]: finding for finding in json.loads(json.dumps(report))["findings"]}
        return Look(secret.arn, findings, {f"secretsmanager:{call}" for call in secret.server.calls})

    return run


class TestEnough:
    @pytest.mark.parametrize("strategy", ["auto", "single-user"])
    def test_for_a_rotation(self, strategy: str, rotate: Callable[..., None]) -> None:
        rotate(deploy({**TWO_ANSWERS, "RotationStrategy": strategy}))

    @pytest.mark.parametrize("strategy", ["auto", "alternating-users", "superuser"])
    def test_for_a_rotation_by_a_superuser(self, strategy: str, rotate: Callable[..., None]) -> None:
        rotate(deploy({**WITH_SUPERUSER, "RotationStrategy": strategy}), superuser="own")

    @pytest.mark.parametrize("kind", ["Instance", "Cluster"])
    def test_for_a_rotation_by_a_superuser_whose_secret_rds_manages(
        self, kind: str, rotate: Callable[..., None]
    ) -> None:
        rotate(deploy(MANAGED), superuser=kind)

    @pytest.mark.parametrize("kind", ["Instance", "Cluster"])
    def test_and_not_without_either_question_to_rds(
        self, kind: str, rotate: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        action = f"rds:DescribeDB{kind}s"
        with pytest.raises(AccessDeniedError, match=f"The superuser's secret, .*: {action} on arn:.* was denied"):
            rotate(deploy(MANAGED), action, superuser=kind)
        assert f"{action} on arn:" in caplog.text

    def test_for_a_rotation_that_has_to_find_a_lost_password(self, rotate: Callable[..., None]) -> None:
        rotate(deploy(), lost=True)

    @pytest.mark.parametrize("action", sorted(CALLED))
    def test_and_not_without_any_one_action(
        self, action: str, rotate: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(RotationError):
            rotate(deploy(), action, lost=action == "secretsmanager:ListSecretVersionIds")
        assert f"{action} on " in caplog.text


class TestEnoughForAPreflight:
    """UNTRIED are the actions that change something: a preflight tells how to ask IAM for them."""

    UNTRIED = frozenset({"PutSecretValue", "UpdateSecretVersionStage"})
    NOT_DUE = frozenset({"login AWSPENDING", "login AWSPREVIOUS", "superuser secret", "superuser login", "rotation"})

    def test_which_finds_nothing_denied(self, look: Callable[..., Look]) -> None:
        seen = look()
        assert seen.called == CALLED - {f"secretsmanager:{name}" for name in self.UNTRIED}
        assert seen.checks("failed") | seen.checks("warning") == set()
        assert {call.removeprefix("secretsmanager:") for call in seen.called} <= seen.checks("ok")
        assert seen.checks("not reached") == self.UNTRIED | self.NOT_DUE

    def test_of_a_superuser_too(self, look: Callable[..., Look]) -> None:
        seen = look(stack=deploy(WITH_SUPERUSER))
        assert seen.checks("failed") | seen.checks("warning") == set()
        assert {"superuser secret", "superuser login", "password change"} <= seen.checks("ok")

    @pytest.mark.parametrize(
        ("action", "hidden"),
        [
            ("DescribeSecret", {"clock", "rotation", "labels", "GetSecretValue", "login AWSCURRENT"}),
            ("GetSecretValue", {"KMS key", "secret", "DNS", "login AWSCURRENT"}),
            ("ListSecretVersionIds", set()),
            ("GetRandomPassword", set()),
        ],
    )
    def test_which_names_the_one_that_is_taken_away_and_goes_on(
        self, action: str, hidden: set[str], look: Callable[..., Look]
    ) -> None:
        """`hidden` is what cannot be known without it; everything else is looked at as ever."""
        seen = look(f"secretsmanager:{action}")
        assert seen.checks("failed") == {action}
        assert seen.findings[action]["code"] == "access-denied"
        assert seen.findings[action]["seen"].startswith(f"secretsmanager:{action} on {seen.arn} was denied")
        assert "template.yaml" in seen.findings[action]["action"]
        assert list(seen.findings) == list(preflight.CHECKS)
        assert seen.checks("ok") >= {"timeout", "environment", "Secrets Manager"}
        for other in {"DescribeSecret", "ListSecretVersionIds", "GetRandomPassword"} - {action}:
            assert seen.findings[other]["status"] == "ok", other
        assert hidden <= seen.checks("not reached")
        if not hidden:
            assert seen.checks("not reached") == self.UNTRIED | self.NOT_DUE

    def test_of_all_secrets_of_the_function(
        self, invoke: Callable[[object], Any], granted: Callable[..., AbstractContextManager[None]]
    ) -> None:
        with granted(deploy()):
            assert invoke({"Step": "preflight"}) == {"reports": [], "left_out": []}
        with granted(deploy(), LISTS), pytest.raises(AccessDeniedError, match=f"{LISTS} on \\* was denied"):
            invoke({"Step": "preflight"})

    @pytest.mark.parametrize("action", sorted(UNTRIED))
    def test_which_does_not_pretend_to_know_of_what_it_does_not_try(
        self, action: str, look: Callable[..., Look]
    ) -> None:
        seen = look(f"secretsmanager:{action}")
        assert seen.checks("failed") == set()
        assert seen.findings[action]["status"] == "not reached"
        assert f"--policy-source-arn ROLE_ARN --action-names secretsmanager:{action}" in seen.findings[action]["action"]


class TestNoMore:
    @pytest.mark.parametrize(
        ("adapter", "service", "policies"),
        ADAPTERS,
    )
    def test_actions_than_the_code_calls(self, adapter: str, service: str, policies: tuple[str, ...]) -> None:
        statements = [statement for policy in policies for statement in deploy(EVERYTHING).statements(policy)]
        assert actions(statements, service) == called(adapter, service)

    def test_services_than_it_needs(self) -> None:
        policies = {policy["PolicyName"] for policy in deploy().properties("Role")["Policies"]}
        assert policies == {"logs", "preflight", "secrets"}

    @pytest.mark.parametrize(
        ("answers", "policies"),
        [
            ({"PreflightSchedule": "rate(2 hours)"}, {"preflight"}),
            ({"KmsKeyArn": KEY}, {"key"}),
            (VPC, {"vpc"}),
            ({"SuperuserSecretArn": SUPERUSER}, {"superuser"}),
            ({"SuperuserSecretArns": SUPERUSER}, {"superuser"}),
            ({"SuperuserSecretArn": SUPERUSER, "SuperuserKmsKeyArn": SUPERUSER_KEY}, {"superuser", "superuser-key"}),
        ],
    )
    def test_than_what_the_answers_add(self, answers: dict[str, str], policies: set[str]) -> None:
        role = deploy({**TWO_ANSWERS, "PreflightSchedule": "none", **answers}).properties("Role")
        assert {policy["PolicyName"] for policy in role["Policies"]} == policies | {"logs", "secrets"}

    @pytest.mark.parametrize(
        ("answers", "secrets"),
        [
            ({}, [SECRET]),
            ({"FurtherSecretArns": f"{FURTHER},{FURTHER}"}, [SECRET, FURTHER, FURTHER]),
            ({"SecretArn": "", **NEW}, ["<Secret>"]),
            ({"SecretArn": "", **NEW, "FurtherSecretArns": FURTHER}, ["<Secret>", FURTHER]),
            ({"SecretArn": "none", "SecretNamePrefix": "prod/"}, [PREFIX]),
            ({"SecretNamePrefix": "prod/"}, [SECRET, PREFIX]),
            (
                {"SecretArn": "none", **NEW, "FurtherSecretArns": FURTHER, "SecretNamePrefix": "prod/"},
                ["<Secret>", FURTHER, PREFIX],
            ),
        ],
    )
    def test_secrets_than_are_named(self, answers: dict[str, str], secrets: list[str]) -> None:
        stack = deploy({**TWO_ANSWERS, **answers, "KmsKeyArn": KEY})
        own, random = stack.statements("secrets")
        assert own["Resource"] == secrets
        assert (random["Action"], random["Resource"]) == ("secretsmanager:GetRandomPassword", "*")
        [key] = stack.statements("key")
        assert key["Condition"]["StringLike"] == {"kms:EncryptionContext:SecretARN": secrets}

    @pytest.mark.parametrize(
        ("name", "covered"),
        [("prod/shop/orders", True), ("prod/x", True), ("production/x", False), ("dev/prod/x", False), ("prod", False)],
    )
    def test_secrets_than_those_under_the_prefix(self, name: str, covered: bool) -> None:  # noqa: FBT001 - parametrised
        """Read as IAM reads a resource: * is any text, slashes included."""
        stack = deploy({"SecretNamePrefix": "prod/", "AlarmEmail": "dba@example.com", "KmsKeyArn": KEY})
        [pattern] = stack.statements("secrets")[0]["Resource"]
        [context] = stack.statements("key")[0]["Condition"]["StringLike"]["kms:EncryptionContext:SecretARN"]
        arn = f"arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-a1B2c3"
        assert (fnmatchcase(arn, pattern), fnmatchcase(arn, context)) == (covered, covered)

    def test_to_find_the_secrets_of_the_function_than_their_names(self) -> None:
        [statement] = deploy().statements("preflight")
        assert (statement["Action"], statement["Resource"]) == ("secretsmanager:ListSecrets", "*")

    @pytest.mark.parametrize(
        ("answers", "secrets"),
        [
            ({"SuperuserSecretArn": SUPERUSER}, [SUPERUSER]),
            ({"SuperuserSecretArns": f"{SUPERUSER},{FURTHER}"}, [SUPERUSER, FURTHER]),
            ({"SuperuserSecretArn": SUPERUSER, "SuperuserSecretArns": FURTHER}, [SUPERUSER, FURTHER]),
        ],
    )
    def test_superusers_than_are_named(self, answers: dict[str, str], secrets: list[str]) -> None:
        stack = deploy({**TWO_ANSWERS, **answers, "SuperuserKmsKeyArn": SUPERUSER_KEY})
        assert stack.statements("superuser")[0]["Resource"] == secrets
        [key] = stack.statements("superuser-key")
        assert key["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"] == secrets
        variables = stack.properties("RotationFunction")["Environment"]["Variables"]
        assert variables["SUPERUSER_SECRET_ARNS"].split(",") == secrets

    def test_of_the_superuser_than_to_read_its_secret(self) -> None:
        secret, database = deploy(EVERYTHING).statements("superuser")
        assert actions([secret], "secretsmanager") == {"secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"}
        assert secret["Resource"] == [SUPERUSER]
        assert set(database["Action"]) == {"rds:DescribeDBClusters", "rds:DescribeDBInstances"}
        assert database["Resource"] == [f"arn:aws:rds:us-east-1:123456789012:{kind}:*" for kind in ("cluster", "db")]

    def test_wildcards_than_the_services_ask_for(self) -> None:
        for statement in deploy(EVERYTHING).statements():
            assert not [action for action in listed(statement["Action"]) if "*" in action]
            if "*" in listed(statement["Resource"]):
                assert actions([statement], "secretsmanager") <= {
                    "secretsmanager:GetRandomPassword",
                    "secretsmanager:ListSecrets",
                }
                assert not actions([statement], "kms")

    def test_of_the_logs_than_its_own_group(self) -> None:
        [statement] = deploy().statements("logs")
        assert (statement["Action"], statement["Resource"]) == (
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            "<LogGroup>.Arn",
        )

    def test_principals_than_lambda(self) -> None:
        [statement] = deploy().properties("Role")["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}

    def test_than_the_boundary_lets_it(self) -> None:
        boundary = {"PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/edge", "RolePath": "/rotation/"}
        role = deploy({**TWO_ANSWERS, **boundary}).properties("Role")
        assert (role["PermissionsBoundary"], role["Path"]) == (boundary["PermissionsBoundaryArn"], "/rotation/")
        assert "PermissionsBoundary" not in deploy().properties("Role")


class TestKeys:
    @pytest.mark.parametrize("partition", PARTITIONS)
    def test_are_used_through_secrets_manager_alone(self, partition: str) -> None:
        own = {name: value.replace("arn:aws:", f"arn:{partition}:") for name, value in EVERYTHING.items()}
        stack = deploy(own, partition)
        statements = [one for one in stack.statements() if actions([one], "kms")]
        statements += stack.properties("ReadSecretPolicy")["PolicyDocument"]["Statement"][-1:]
        region, suffix = PARTITIONS[partition]
        assert len(statements) == 3
        for statement in statements:
            assert statement["Condition"]["StringEquals"]["kms:ViaService"] == f"secretsmanager.{region}.{suffix}"

    def test_of_the_superuser_only_decrypt_its_own_secret(self) -> None:
        [statement] = deploy(EVERYTHING).statements("superuser-key")
        assert (statement["Action"], statement["Resource"]) == ("kms:Decrypt", SUPERUSER_KEY)
        assert statement["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"] == [SUPERUSER]

    def test_of_the_secrets_encrypt_as_well(self) -> None:
        [statement] = deploy(EVERYTHING).statements("key")
        assert (statement["Action"], statement["Resource"]) == (["kms:Decrypt", "kms:GenerateDataKey"], KEY)


class TestReadingPolicy:
    @pytest.mark.parametrize(("answers", "secret"), [({}, SECRET), ({"SecretArn": "", **NEW}, "<Secret>")])
    def test_lets_an_application_read_this_secret_and_no_other(self, answers: dict[str, str], secret: str) -> None:
        stack = deploy({**EVERYTHING, **answers})
        read, deny, decrypt = stack.properties("ReadSecretPolicy")["PolicyDocument"]["Statement"]
        assert actions([read], "secretsmanager") == {"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"}
        assert read["Resource"] == deny["Resource"] == secret
        assert (decrypt["Action"], decrypt["Resource"]) == ("kms:Decrypt", KEY)
        assert decrypt["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"] == secret
        assert stack.outputs["ReadSecretPolicyArn"] == "<ReadSecretPolicy>"

    def test_has_no_key_where_there_is_none(self) -> None:
        assert len(deploy().properties("ReadSecretPolicy")["PolicyDocument"]["Statement"]) == 2

    @pytest.mark.parametrize("may", ["true", "false"])
    @pytest.mark.parametrize("stage", [None, "AWSCURRENT", "AWSPREVIOUS", "AWSPENDING", "blue"])
    def test_denies_a_read_that_names_pending_and_nothing_else(self, stage: str | None, may: str) -> None:
        """AWS's caching clients, ECS, RDS Proxy and the CSI driver name no label: a condition on it denies them all."""
        stack = deploy({**TWO_ANSWERS, "ReadersMayReadPending": may})
        statements = stack.properties("ReadSecretPolicy")["PolicyDocument"]["Statement"]
        request = {} if stage is None else {"secretsmanager:VersionStage": stage}
        assert allows(statements, "secretsmanager:GetSecretValue", request) is (stage != "AWSPENDING" or may == "true")
        assert allows(statements, "secretsmanager:DescribeSecret", {})
        assert not allows(statements, "secretsmanager:PutSecretValue", {})


def allows(statements: list[dict[str, Any]], action: str, request: dict[str, str]) -> bool:
    """Decide as IAM does: a Deny that applies wins; a condition on a key that the request has not does not apply."""
    effects = set()
    for statement in statements:
        condition = dict(statement.get("Condition", {}))
        equals = condition.pop("StringEquals", {})
        assert not condition, "An operator that this test does not know."
        if action in actions([statement], "secretsmanager") and equals.items() <= request.items():
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def test_every_call_is_found_in_the_adapter() -> None:
    assert {f"secretsmanager:{name}" for name in ("DescribeSecret", "GetSecretValue", "PutSecretValue")} <= CALLED
    assert not [action for action in CALLED if not re.fullmatch(r"secretsmanager:[A-Z][A-Za-z]+", action)]
    assert called("rds", "rds") == {"rds:DescribeDBClusters", "rds:DescribeDBInstances"}
