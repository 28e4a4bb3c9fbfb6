"""The template deploys what its parameters ask for, in every partition, and refuses what cannot work, by name."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rotation_lambda import deadline
from rotation_lambda.settings import SHIPPED_BUNDLE, Settings, Strategy
from tests import ROOT
from tests.deployment import cloudformation
from tests.deployment.cloudformation import PARTITIONS, SECRET, TWO_ANSWERS, RefusedError, deploy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEMPLATE = cloudformation.as_written()
SUPERUSER = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/master-d4E5f6"
FURTHER = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/shop/stock-g7H8i9"
KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
SUPERUSER_KEY = "arn:aws:kms:us-east-1:123456789012:key/66666666-7777-8888-9999-000000000000"
TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"
SIGNING = "arn:aws:lambda:us-east-1:123456789012:code-signing-config:csc-0123456789abcdef0"
LAYER = "arn:aws:lambda:us-east-1:123456789012:layer:authority:3"
NEW = {"NewSecretName": "prod/shop/orders", "DatabaseHost": "db.example.com", "DatabaseUsername": "orders"}
ALWAYS = {"ErrorAlarm", "Role", "RotationFailures", "RotationFunction", "SecretsManagerMayInvoke"}
DAILY = {"EventBridgeMayInvoke", "ExpiryAlarm", "OverdueAlarm", "PreflightAlarm", "PreflightRule"}
ONE = {"ReadSecretPolicy", "RotationSchedule"}
VPC = {"SubnetIds": "subnet-1", "VpcId": "vpc-1"}

# Answers that belong together, and the resources that they add to ALWAYS: one of each line makes a stack.
CHOICES: list[list[tuple[dict[str, str], set[str]]]] = [
    [
        ({"SecretArn": SECRET}, ONE),
        (NEW, ONE | {"Secret"}),
        ({"SecretNamePrefix": "prod/"}, set()),
        ({"SecretArn": SECRET, "SecretNamePrefix": "prod/"}, ONE),
        ({"SecretArn": SECRET, "ScheduleExpression": "none"}, {"ReadSecretPolicy"}),
    ],
    [({}, set()), ({"FurtherSecretArns": f"{FURTHER},{FURTHER[:-1]}0"}, set())],
    [({}, set()), ({"KmsKeyArn": KEY}, set())],
    [({"AlarmEmail": "dba@example.com"}, {"AlarmTopic", "AlarmTopicPolicy"}), ({"AlarmTopicArn": TOPIC}, set())],
    [({}, DAILY), ({"PreflightSchedule": "none"}, set())],
    [({}, set()), ({"CreateDashboard": "true"}, {"Dashboard"})],
    [
        ({}, set()),
        ({"SuperuserSecretArn": SUPERUSER, "RotationStrategy": "alternating-users"}, set()),
        ({"SuperuserSecretArn": SUPERUSER, "SuperuserKmsKeyArn": SUPERUSER_KEY}, set()),
        ({"SuperuserSecretArns": f"{SUPERUSER},{SUPERUSER[:-1]}0", "RotationStrategy": "superuser"}, set()),
    ],
    [
        ({}, set()),
        ({"SubnetIds": "subnet-1,subnet-2", "SecurityGroupIds": "sg-1,sg-2"}, set()),
        (VPC, {"SecurityGroup"}),
        ({**VPC, "CreateEndpoint": "true"}, {"SecurityGroup", "Endpoint", "EndpointSecurityGroup"}),
        ({**VPC, "SecurityGroupIds": "sg-1,sg-2", "CreateEndpoint": "true"}, {"Endpoint", "EndpointSecurityGroup"}),
        (
            {**VPC, "SecurityGroupIds": "sg-1", "CreateRdsEndpoint": "true", "CreateEndpoint": "true"},
            {"Endpoint", "RdsEndpoint", "EndpointSecurityGroup"},
        ),
        ({**VPC, "CreateRdsEndpoint": "true"}, {"SecurityGroup", "RdsEndpoint", "EndpointSecurityGroup"}),
    ],
    [({}, set()), ({"SslRootCert": "/opt/ca.pem", "SslRootLayerArn": LAYER}, set())],
    [({}, {"LogGroup"}), ({"RetainLogGroup": "true"}, {"RetainedLogGroup"})],
    [({}, set()), ({"MonitoringKmsKeyArn": KEY}, set())],
    [({}, set()), ({"CodeSigningConfigArn": SIGNING}, set())],
    [({}, set()), ({"PermissionsBoundaryArn": "arn:aws:iam::aws:policy/Boundary", "RolePath": "/rotation/"}, set())],
]


def combinations() -> Iterator[tuple[dict[str, str], set[str]]]:
    """Yield each choice with each one of every other line, among the first choices of all lines and the last ones."""
    rows: set[tuple[int, ...]] = set()
    for lines in itertools.combinations(range(len(CHOICES)), 2):
        for chosen in itertools.product(*(range(len(CHOICES[line])) for line in lines)):
            for last in (False, True):
                row = {number: len(line) - 1 if last else 0 for number, line in enumerate(CHOICES)}
                rows.add(tuple((row | dict(zip(lines, chosen, strict=True))).values()))
    for choices in sorted(rows):
        picked = [line[choice] for line, choice in zip(CHOICES, choices, strict=True)]
        answers = {name: value for some, _ in picked for name, value in some.items()}
        yield answers, ALWAYS.union(*(added for _, added in picked))


def run(*command: str) -> str:
    """Run a program of the virtual environment and return what it said; AssertionError where it failed."""
    program, *arguments = command
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "SAM_CLI_TELEMETRY": "0", "LC_ALL": "C.UTF-8"}
    ended = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


class TestAsWritten:
    @pytest.mark.costly("programs")
    def test_leaves_cfn_lint_nothing_to_say(self) -> None:
        assert run("cfn-lint", "--non-zero-exit-code", "informational", "template.yaml") == ""
        assert "cfn-lint" not in (ROOT / "template.yaml").read_text()

    @pytest.mark.costly("programs")
    def test_leaves_sam_nothing_to_say(self) -> None:
        """samconfig.toml turns --lint on and names a region."""
        assert "is a valid SAM Template" in run("sam", "validate")

    def test_describes_every_parameter_in_one_line(self) -> None:
        for name, body in TEMPLATE["Parameters"].items():
            assert re.fullmatch(r"\S.{10,103}", body["Description"]), name

    def test_groups_every_parameter_once(self) -> None:
        groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = Counter(name for group in groups for name in group["Parameters"])
        assert grouped == Counter(TEMPLATE["Parameters"].keys())

    def test_uses_every_parameter_and_every_condition(self) -> None:
        used = set(cloudformation.references([TEMPLATE[part] for part in ("Conditions", "Resources", "Outputs")]))
        assert used >= TEMPLATE["Parameters"].keys() | TEMPLATE["Conditions"].keys()

    def test_fits_where_a_template_is_handed_over_whole(self) -> None:
        """CloudFormation takes 51,200 bytes without S3, which is how Terraform sends it."""
        assert len((ROOT / "template.yaml").read_bytes()) < 51_200

    def test_can_be_included_by_the_cdk(self) -> None:
        """Whose CfnInclude loses the short form of Fn::Contains."""
        assert "!Contains" not in (ROOT / "template.yaml").read_text()

    def test_names_no_partition(self) -> None:
        assert "arn:aws:" not in (ROOT / "template.yaml").read_text()

    def test_makes_no_circle(self) -> None:
        resources = TEMPLATE["Resources"]
        waits = {name: set(cloudformation.references(body)) & resources.keys() for name, body in resources.items()}
        while free := {name for name, others in waits.items() if not others & waits.keys()}:
            waits = {name: others for name, others in waits.items() if name not in free}
        assert waits == {}


@pytest.mark.timeout(300)
class TestCombinations:
    def test_makes_what_the_answers_ask_for_and_nothing_else(self) -> None:
        seen = 0
        for answers, resources in combinations():
            stack = deploy(answers)
            assert stack.resources.keys() == resources, answers
            seen += 1
        assert seen > 400

    def test_sam_transforms_the_template_alike_whatever_is_answered(self) -> None:
        """So that deploy() may transform it once."""
        plain = cloudformation.transformed(TWO_ANSWERS)
        for line in CHOICES:
            for answers, _ in line:
                assert cloudformation.transformed({**deploy().parameters, **answers}) == plain

    def test_sam_adds_no_resource_of_its_own(self) -> None:
        assert cloudformation.transformed(TWO_ANSWERS)["Resources"].keys() == TEMPLATE["Resources"].keys()

    @pytest.mark.parametrize("partition", PARTITIONS)
    def test_stays_in_its_partition(self, partition: str) -> None:
        region, suffix = PARTITIONS[partition]
        for answers, _ in combinations():
            if answers.get("RolePath"):
                continue
            own = {name: value.replace("arn:aws:", f"arn:{partition}:") for name, value in answers.items()}
            text = str(deploy(own, partition))
            assert set(re.findall(r"arn:(aws[a-z-]*):", text)) <= {partition}, answers
            assert set(re.findall(r"'(secretsmanager\.[^']*)'", text)) <= {
                "secretsmanager.amazonaws.com",
                f"secretsmanager.{region}.{suffix}",
            }


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"SecretArn": "none"}, "SecretArn for an existing secret, NewSecretName for one"),
        ({"SecretArn": "", "FurtherSecretArns": FURTHER}, "SecretNamePrefix for many"),
        (NEW, "not both"),
        ({"SecretArn": "", **NEW, "DatabaseHost": ""}, "DatabaseHost"),
        ({"SecretArn": "", **NEW, "DatabaseUsername": ""}, "DatabaseUsername"),
        ({"AlarmEmail": ""}, "reaches a person"),
        ({"AlarmTopicArn": TOPIC}, "not both"),
        ({"ScheduleExpression": "none", "RotateImmediately": "true"}, "needs ScheduleExpression"),
        ({"SecretArn": "none", "SecretNamePrefix": "prod/", "RotateImmediately": "true"}, "needs SecretArn or NewS"),
        ({"RotationStrategy": "alternating-users"}, "SuperuserSecretArn"),
        ({"RotationStrategy": "superuser"}, "SuperuserSecretArn"),
        ({"SuperuserKmsKeyArn": SUPERUSER_KEY}, "SuperuserSecretArn"),
        (
            dict.fromkeys(("ExcludeNumbers", "ExcludePunctuation", "ExcludeUppercase", "ExcludeLowercase"), "true"),
            "no ch",
        ),
        ({"SslRootLayerArn": LAYER}, "SslRootCert"),
        ({"SslRootLayerArn": LAYER, "SslRootCert": "system"}, "SslRootCert"),
        ({"SecurityGroupIds": "sg-1"}, "needs SubnetIds"),
        ({"SubnetIds": "subnet-1"}, "SecurityGroupIds, or VpcId"),
        ({"VpcId": "vpc-1"}, "needs SubnetIds"),
        ({"CreateEndpoint": "true"}, "VpcId"),
        ({"CreateRdsEndpoint": "true"}, "CreateRdsEndpoint=true needs VpcId"),
        ({"SubnetIds": "subnet-1", "SecurityGroupIds": "sg-1", "CreateEndpoint": "true"}, "VpcId"),
        (
            {
                "SubnetIds": "subnet-1",
                "VpcId": "vpc-1",
                "CreateEndpoint": "true",
                "SecretsManagerEndpointUrl": "https://x",
            },
            "private DNS",
        ),
        ({"SecretArn": SECRET.rpartition("-")[0]}, "SecretArn"),  # a partial ARN
        ({"SecretArn": "prod/shop/orders"}, "SecretArn"),
        ({"FurtherSecretArns": f"{FURTHER}, {FURTHER}"}, "FurtherSecretArns"),
        ({"NewSecretName": "orders"}, "NewSecretName"),
        ({"DatabaseUsername": 'o"rders'}, "DatabaseUsername"),
        ({"DatabaseUsername": "two users"}, "DatabaseUsername"),  # a tag would name both
        ({"SecretNamePrefix": "prod"}, "SecretNamePrefix"),  # production/ begins so as well
        ({"SecretNamePrefix": "prod*/"}, "SecretNamePrefix"),
        ({"PreflightSchedule": "daily"}, "PreflightSchedule"),
        ({"DatabaseHost": "db,other"}, "DatabaseHost"),
        ({"ScheduleExpression": "monthly"}, "ScheduleExpression"),
        ({"ScheduleWindow": "25h"}, "ScheduleWindow"),
        ({"PasswordLength": "7"}, "PasswordLength"),
        ({"SslMode": "prefer"}, "SslMode"),
        ({"RolePath": "rotation"}, "RolePath"),
        ({"Timeout": "20"}, "Timeout"),
    ],
)
def test_refuses_what_cannot_work(answers: Mapping[str, str], says: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(says)):
        deploy({**TWO_ANSWERS, **answers})


MAY_BE_NONE = sorted(name for name, body in TEMPLATE["Parameters"].items() if body["Default"] == "none")


@pytest.mark.parametrize("empty", ["", "none"])
def test_takes_the_word_none_and_an_empty_value_for_what_is_left_out(empty: str) -> None:
    """SAM cannot hand over an empty value, and drops some of them without a word."""
    asked = {"SecretArn": SECRET, "AlarmEmail": "dba@example.com", "ScheduleExpression": empty}
    left_out = dict.fromkeys([*MAY_BE_NONE, "PreflightSchedule"], empty)
    said, unsaid = deploy({**left_out, **asked}), deploy({**asked, "PreflightSchedule": "none"})
    assert (said.resources, said.outputs) == (unsaid.resources, unsaid.outputs)
    variables = said.properties("RotationFunction")["Environment"]["Variables"]
    assert variables.pop("SUPERUSER_SECRET_ARNS") == "none"  # which the code reads as a word: no secret may name one
    assert not [text for text in str(said.resources).split("'") if text == "none"]


def test_lets_be_left_out_all_that_has_no_value_of_its_own() -> None:
    assert [name for name, body in TEMPLATE["Parameters"].items() if body["Default"] == ""] == []
    for name in [*MAY_BE_NONE, "ScheduleExpression", "PreflightSchedule"]:
        for empty in ("", "none"):
            assert re.fullmatch(TEMPLATE["Parameters"][name]["AllowedPattern"], empty), name


@pytest.mark.parametrize("strategy", ["auto", "single-user", "alternating-users", "superuser"])
def test_offers_every_strategy_of_the_code(strategy: str) -> None:
    stack = deploy({**TWO_ANSWERS, "RotationStrategy": strategy, "SuperuserSecretArn": SUPERUSER})
    assert stack.properties("RotationFunction")["Environment"]["Variables"]["ROTATION_STRATEGY"] == strategy
    assert set(Strategy) == set(TEMPLATE["Parameters"]["RotationStrategy"]["AllowedValues"])


class TestEnvironment:
    @staticmethod
    def variables(**answers: str) -> dict[str, str]:
        """Return the function's environment, as Lambda would have it."""
        function = deploy({**TWO_ANSWERS, **answers}).properties("RotationFunction")
        return {name: str(value) for name, value in function["Environment"]["Variables"].items()}

    def test_sets_every_variable_that_the_settings_read(self) -> None:
        read = {
            node.value
            for node in ast.walk(ast.parse((ROOT / "rotation_lambda" / "settings.py").read_text()))
            if isinstance(node, ast.Constant) and re.fullmatch(r"[A-Z]+(_[A-Z]+)+|PG[A-Z]+", str(node.value))
        } - {"EXCLUDE_"}
        variables = TEMPLATE["Resources"]["RotationFunction"]["Properties"]["Environment"]["Variables"]
        assert variables.keys() - {"AWS_ENDPOINT_URL_SECRETS_MANAGER"} == read

    def test_has_the_defaults_of_the_code(self) -> None:
        """And one that the code cannot have: a stack without a superuser secret lets no secret name one."""
        theirs = replace(Settings.from_environment({}), superuser_secret_arns=frozenset())
        assert Settings.from_environment(self.variables()) == theirs

    def test_leaves_out_what_is_not_answered(self) -> None:
        assert not {"EXCLUDE_CHARACTERS", "AWS_ENDPOINT_URL_SECRETS_MANAGER"} & self.variables().keys()

    @pytest.mark.parametrize("characters", ["", "none", "/@\"'\\", ",;=%"])
    def test_excludes_the_characters_that_are_given(self, characters: str) -> None:
        settings = Settings.from_environment(self.variables(ExcludeCharacters=characters))
        assert settings.password_policy.exclude_characters == characters.replace("none", "")

    @pytest.mark.parametrize(
        ("answers", "variable", "value"),
        [
            ({"SslRootCert": "system"}, "PGSSLROOTCERT", "system"),
            ({"SslRootCert": SHIPPED_BUNDLE}, "PGSSLROOTCERT", SHIPPED_BUNDLE),
            ({"SslMode": "require"}, "PGSSLMODE", "require"),
            ({"PasswordLength": "40"}, "PASSWORD_LENGTH", "40"),
            ({"ExcludePunctuation": "true"}, "EXCLUDE_PUNCTUATION", "true"),
            ({"SecretsManagerEndpointUrl": "https://vpce"}, "AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://vpce"),
            ({}, "SUPERUSER_SECRET_ARNS", "none"),
            ({"SuperuserSecretArn": SUPERUSER}, "SUPERUSER_SECRET_ARNS", SUPERUSER),
            ({"SuperuserSecretArns": f"{FURTHER},{SECRET}"}, "SUPERUSER_SECRET_ARNS", f"{FURTHER},{SECRET}"),
            (
                {"SuperuserSecretArn": SUPERUSER, "SuperuserSecretArns": FURTHER},
                "SUPERUSER_SECRET_ARNS",
                f"{SUPERUSER},{FURTHER}",
            ),
        ],
    )
    def test_hands_an_answer_on(self, answers: dict[str, str], variable: str, value: str) -> None:
        variables = self.variables(**answers)
        assert variables[variable] == value
        Settings.from_environment(variables)


class TestFunction:
    def test_gives_a_step_more_time_than_the_code_asks_for(self) -> None:
        timeout = TEMPLATE["Parameters"]["Timeout"]
        assert timeout["MinValue"] > deadline.MINIMUM_S
        assert timeout["Default"] >= 2 * deadline.MINIMUM_S
        assert deploy({**TWO_ANSWERS, "Timeout": "45"}).properties("RotationFunction")["Timeout"] == "45"

    def test_logs_in_json_to_its_own_group(self) -> None:
        stack = deploy()
        assert stack.properties("RotationFunction")["LoggingConfig"] == {"LogGroup": "<LogGroup>", "LogFormat": "JSON"}
        assert stack.properties("LogGroup")["RetentionInDays"] == "90"
        assert "DeletionPolicy" not in stack.resources["LogGroup"]
        assert "KmsKeyId" not in stack.properties("LogGroup")

    def test_keeps_its_log_for_as_long_as_cloudwatch_can(self) -> None:
        from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER  # noqa: PLC0415 - it takes a second

        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", "AWS::Logs::LogGroup").schema
        days = TEMPLATE["Parameters"]["LogRetentionDays"]["AllowedValues"]
        assert days == schema["properties"]["RetentionInDays"]["enum"]

    def test_keeps_its_log_when_the_stack_goes_if_asked(self) -> None:
        """Under another name, since CloudFormation makes the new group before it deletes the old one."""
        stack = deploy({**TWO_ANSWERS, "RetainLogGroup": "true"})
        group = stack.resources["RetainedLogGroup"]
        assert (group["DeletionPolicy"], group["UpdateReplacePolicy"]) == ("Retain", "Retain")
        assert group["Properties"]["LogGroupName"] != deploy().properties("LogGroup")["LogGroupName"]
        assert stack.properties("RotationFunction")["LoggingConfig"]["LogGroup"] == "<RetainedLogGroup>"
        assert stack.statements("logs")[0]["Resource"] == "<RetainedLogGroup>.Arn"
        assert stack.outputs["LogGroupName"] == "<RetainedLogGroup>"

    @pytest.mark.parametrize("retain", ["false", "true"])
    def test_encrypts_its_log_and_its_topic_with_the_key_that_is_given(self, retain: str) -> None:
        stack = deploy({**TWO_ANSWERS, "MonitoringKmsKeyArn": KEY, "RetainLogGroup": retain})
        group = "RetainedLogGroup" if retain == "true" else "LogGroup"
        assert stack.properties(group)["KmsKeyId"] == KEY
        assert stack.properties("AlarmTopic")["KmsMasterKeyId"] == KEY
        assert "KmsMasterKeyId" not in deploy().properties("AlarmTopic")

    def test_runs_signed_code_only_if_asked(self) -> None:
        stack = deploy({**TWO_ANSWERS, "CodeSigningConfigArn": SIGNING})
        assert stack.properties("RotationFunction")["CodeSigningConfigArn"] == SIGNING
        assert "CodeSigningConfigArn" not in deploy().properties("RotationFunction")

    def test_is_for_the_machine_that_it_is_built_for(self) -> None:
        """Both are read from one place of the template, which is no parameter: no deployment can contradict a build."""
        function = TEMPLATE["Resources"]["RotationFunction"]
        [machine] = deploy().properties("RotationFunction")["Architectures"]
        looked_up = {"Fn::FindInMap": ["Build", "Function", "Architecture"]}
        assert function["Properties"]["Architectures"] == [looked_up]
        assert function["Metadata"]["WorkingDirectory"] == {
            "Fn::Sub": ["lambda/${Architecture}", {"Architecture": looked_up}]
        }
        assert (ROOT / "lambda" / machine / "platforms").exists()
        assert "Architecture" not in TEMPLATE["Parameters"]

    def test_leaves_concurrency_alone(self) -> None:
        assert "ReservedConcurrentExecutions" not in deploy().properties("RotationFunction")

    def test_is_in_no_vpc_unless_asked(self) -> None:
        assert "VpcConfig" not in deploy().properties("RotationFunction")

    @pytest.mark.parametrize(
        ("answers", "groups"),
        [
            ({"SecurityGroupIds": "sg-1,sg-2"}, ["sg-1", "sg-2"]),
            ({"VpcId": "vpc-1"}, ["<SecurityGroup>.GroupId"]),
            ({"VpcId": "vpc-1", "SecurityGroupIds": "sg-1"}, ["sg-1"]),
        ],
    )
    def test_is_in_the_subnets_with_its_security_groups(self, answers: dict[str, str], groups: list[str]) -> None:
        stack = deploy({**TWO_ANSWERS, "SubnetIds": "subnet-1,subnet-2", **answers})
        config = {"SubnetIds": ["subnet-1", "subnet-2"], "SecurityGroupIds": groups}
        assert stack.properties("RotationFunction")["VpcConfig"] == config
        assert stack.outputs["SecurityGroupIds"] == ",".join(groups)

    def test_trusts_the_authority_in_the_layer(self) -> None:
        stack = deploy({**TWO_ANSWERS, "SslRootCert": "/opt/ca.pem", "SslRootLayerArn": LAYER})
        assert stack.properties("RotationFunction")["Layers"] == [LAYER]
        assert deploy().properties("RotationFunction")["Layers"] == []


class TestEndpoint:
    ANSWERS: Mapping[str, str] = {**TWO_ANSWERS, "SubnetIds": "subnet-1", "VpcId": "vpc-1", "CreateEndpoint": "true"}

    @pytest.mark.parametrize(
        ("answers", "group"), [({}, "<SecurityGroup>.GroupId"), ({"SecurityGroupIds": "sg-1,sg-2"}, "sg-1")]
    )
    def test_lets_the_function_in_on_443_and_nobody_else(self, answers: dict[str, str], group: str) -> None:
        stack = deploy({**self.ANSWERS, **answers})
        [ingress] = stack.properties("EndpointSecurityGroup")["SecurityGroupIngress"]
        assert (ingress["FromPort"], ingress["ToPort"], ingress["SourceSecurityGroupId"]) == (443, 443, group)
        assert stack.properties("Endpoint")["SecurityGroupIds"] == ["<EndpointSecurityGroup>.GroupId"]

    @pytest.mark.parametrize(("partition", "region"), [(name, region) for name, (region, _) in PARTITIONS.items()])
    def test_takes_the_name_of_the_service_over(self, partition: str, region: str) -> None:
        own = {name: value.replace("arn:aws:", f"arn:{partition}:") for name, value in self.ANSWERS.items()}
        endpoint = deploy(own, partition).properties("Endpoint")
        assert endpoint["ServiceName"] == f"com.amazonaws.{region}.secretsmanager"
        assert endpoint["PrivateDnsEnabled"] is True

    def test_of_rds_shares_the_security_group(self) -> None:
        stack = deploy({**self.ANSWERS, "CreateRdsEndpoint": "true"})
        assert stack.properties("RdsEndpoint")["ServiceName"] == "com.amazonaws.us-east-1.rds"
        assert stack.properties("RdsEndpoint")["SecurityGroupIds"] == ["<EndpointSecurityGroup>.GroupId"]
        assert "<RdsEndpoint>" in stack.properties("RotationFunction")["Description"]

    def test_of_rds_has_another_name_in_china(self) -> None:
        """As `aws ec2 describe-vpc-endpoint-services` lists it there. That of Secrets Manager has not."""
        own = {name: value.replace("arn:aws:", "arn:aws-cn:") for name, value in self.ANSWERS.items()}
        endpoint = deploy({**own, "CreateRdsEndpoint": "true"}, "aws-cn").properties("RdsEndpoint")
        assert endpoint["ServiceName"] == "cn.com.amazonaws.cn-north-1.rds"

    def test_is_there_before_rotation_is_switched_on(self) -> None:
        assert "<Endpoint>" in deploy(self.ANSWERS).properties("RotationFunction")["Description"]
        schedule = deploy(self.ANSWERS).resources["RotationSchedule"]
        assert schedule["Properties"]["RotationLambdaARN"] == "<RotationFunction>.Arn"


class TestSchedule:
    def test_waits_until_secrets_manager_may_invoke_the_function(self) -> None:
        assert deploy().resources["RotationSchedule"]["DependsOn"] == "SecretsManagerMayInvoke"

    def test_only_this_account_may_have_it_invoked_and_for_any_secret(self) -> None:
        assert deploy().properties("SecretsManagerMayInvoke") == {
            "FunctionName": "<RotationFunction>.Arn",
            "Action": "lambda:InvokeFunction",
            "Principal": "secretsmanager.amazonaws.com",
            "SourceAccount": cloudformation.ACCOUNT,
        }

    @pytest.mark.parametrize(("answers", "at_once"), [({}, "false"), ({"RotateImmediately": "true"}, "true")])
    def test_tests_first_and_rotates_at_once_only_if_asked(self, answers: dict[str, str], at_once: str) -> None:
        assert deploy({**TWO_ANSWERS, **answers}).properties("RotationSchedule") == {
            "SecretId": SECRET,
            "RotationLambdaARN": "<RotationFunction>.Arn",
            "RotateImmediatelyOnUpdate": at_once,
            "RotationRules": {"ScheduleExpression": "cron(0 3 1 * ? *)", "Duration": "2h"},
        }


class TestNewSecret:
    @staticmethod
    def made(**answers: str) -> tuple[cloudformation.Stack, dict[str, Any]]:
        stack = deploy({"AlarmEmail": "dba@example.com", **NEW, **answers})
        return stack, stack.properties("Secret")

    @pytest.mark.parametrize("superuser", ["", SUPERUSER])
    def test_has_a_value_that_the_code_can_read(self, superuser: str) -> None:
        from rotation_lambda.credential import Credential  # noqa: PLC0415

        _, secret = self.made(SuperuserSecretArn=superuser, DatabaseUsername="Orders-v2.x@shop")
        generated = secret["GenerateSecretString"]
        assert generated["GenerateStringKey"] == "password"
        text = generated["SecretStringTemplate"].removesuffix("}") + ',"password":"generated"}'
        credential = Credential.parse(text)
        assert (credential.username, credential.address) == ("Orders-v2.x@shop", ("db.example.com", 5432))
        assert credential.masterarn == (superuser or None)

    def test_says_in_a_tag_which_user_it_is_for(self) -> None:
        assert self.made()[1]["Tags"] == [{"Key": "rotation:users", "Value": "orders"}]

    def test_tells_the_deployer_that_the_first_test_has_to_fail(self) -> None:
        stack, _ = self.made()
        assert "Until then the login test of this deployment fails" in stack.outputs["NextStep"]
        assert "NextStep" not in deploy().outputs

    def test_outlives_the_stack(self) -> None:
        stack, _ = self.made()
        assert stack.resources["Secret"]["DeletionPolicy"] == "Retain"
        assert stack.resources["Secret"]["UpdateReplacePolicy"] == "Retain"

    def test_is_the_one_that_is_rotated_read_and_told(self) -> None:
        stack, _ = self.made()
        assert stack.properties("RotationSchedule")["SecretId"] == "<Secret>"
        assert stack.outputs["SecretArn"] == "<Secret>"
        assert stack.statements("secrets")[0]["Resource"] == ["<Secret>"]

    def test_is_encrypted_with_the_key_that_is_given(self) -> None:
        assert self.made(KmsKeyArn=KEY)[1]["KmsKeyId"] == KEY
        assert "KmsKeyId" not in self.made()[1]


class TestFailures:
    @pytest.mark.parametrize(
        ("answers", "topic"),
        [({}, "<AlarmTopic>"), ({"AlarmEmail": "", "AlarmTopicArn": TOPIC}, TOPIC)],
    )
    def test_reach_the_topic(self, answers: dict[str, str], topic: str) -> None:
        stack = deploy({**TWO_ANSWERS, **answers})
        assert stack.properties("ErrorAlarm")["AlarmActions"] == [topic]
        assert [target["Arn"] for target in stack.properties("RotationFailures")["Targets"]] == [topic]
        assert stack.outputs["AlarmTopicArn"] == topic

    def test_reach_a_mailbox(self) -> None:
        stack = deploy()
        assert stack.properties("AlarmTopic")["Subscription"] == [{"Protocol": "email", "Endpoint": "dba@example.com"}]
        statements = stack.properties("AlarmTopicPolicy")["PolicyDocument"]["Statement"]
        services = {statement["Principal"]["Service"] for statement in statements}
        assert services == {"cloudwatch.amazonaws.com", "events.amazonaws.com"}

    def test_are_known_by_their_names_in_cloudtrail(self) -> None:
        pattern = deploy().properties("RotationFailures")["EventPattern"]
        assert pattern["detail-type"] == ["AWS Service Event via CloudTrail"]
        assert set(pattern["detail"]["eventName"]) == {"RotationFailed", "TestRotationFailed", "RotationAbandoned"}
        assert pattern["detail"].keys() == {"eventSource", "eventName"}

    def test_are_counted_by_lambda_for_this_function_alone(self) -> None:
        alarm = deploy().properties("ErrorAlarm")
        assert (alarm["Namespace"], alarm["MetricName"], alarm["Threshold"]) == ("AWS/Lambda", "Errors", 1)
        assert alarm["Dimensions"] == [{"Name": "FunctionName", "Value": "<RotationFunction>"}]


def test_tells_what_others_need_to_know() -> None:
    told = {"FunctionArn", "RoleArn", "SecretArn", "ReadSecretPolicyArn", "AlarmTopicArn", "LogGroupName"}
    assert deploy().outputs.keys() == told
    prefix = {"SecretArn": "none", "SecretNamePrefix": "prod/", "AlarmEmail": "dba@example.com"}
    assert deploy(prefix).outputs.keys() == told - {"SecretArn", "ReadSecretPolicyArn"}
    assert deploy({**TWO_ANSWERS, "SubnetIds": "subnet-1", "VpcId": "vpc-1"}).outputs.keys() == told | {
        "SecurityGroupIds"
    }
