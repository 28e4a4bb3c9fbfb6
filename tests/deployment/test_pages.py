"""What README.md and docs/ say about deploying is true of the template, the makefile, samconfig.toml and SAM itself."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib

import botocore.session
import pytest
from botocore import xform_name

from rotation_lambda import metrics
from tests import ROOT
from tests.deployment.cloudformation import as_written, deploy
from tests.deployment.test_template import run
from tests.worlds.pages import TEXT

TEMPLATE = as_written()
CONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())


def starting_with(program: str) -> list[list[str]]:
    """Return the words after the program's name, of every command of a shell block that begins with it."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", TEXT, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")]


def overrides() -> list[dict[str, str]]:
    """Return the answers of every `make deploy` that gives any."""
    arguments = [word[5:] for line in starting_with("make") for word in line if word.startswith("ARGS=")]
    given = [shlex.split(words.partition("--parameter-overrides ")[2]) for words in arguments]
    return [dict(answer.split("=", 1) for answer in answers) for answers in given if answers]


def test_the_table_has_every_parameter_with_its_default() -> None:
    table = re.findall(r"^\| `(\w+)` \| (?:`(.+?)`)? ?\| (\S.*) \|$", TEXT, re.MULTILINE)
    assert {name: default for name, default, _ in table if name in TEMPLATE["Parameters"]} == {
        name: str(body["Default"]) for name, body in TEMPLATE["Parameters"].items()
    }


@pytest.mark.parametrize("answers", overrides(), ids=lambda answers: "-".join(answers)[:60])
def test_every_example_deploys(answers: dict[str, str]) -> None:
    deploy(answers)


def test_there_are_examples() -> None:
    assert len(overrides()) >= 6


def test_names_no_output_that_there_is_not() -> None:
    assert set(re.findall(r"OutputKey=='(\w+)'", TEXT)) <= TEMPLATE["Outputs"].keys()


def test_names_no_parameter_that_there_is_not() -> None:
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:=[\w-]*)?`", TEXT))
    named = {name for name in named if not name.endswith("Error")}
    known = (
        TEMPLATE["Parameters"].keys()
        | TEMPLATE["Outputs"].keys()
        | {"HostedRotationLambda", "SecretId", "SecretRotation", *metrics.UNITS}
    )
    assert {name for name in named if name.startswith(("Secret", "Superuser", "Kms", "Exclude", "Rotat"))} <= known


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line[0] for line in starting_with("make")} | set(re.findall(r"`make ([a-z]+)", TEXT))
    assert named <= targets
    assert {"build", "deploy", "events", "local"} <= named


ALL_HELP = """
import json, sys
from click.testing import CliRunner
from samcli.cli.main import cli
json.dump({words: CliRunner().invoke(cli, [*words.split(), "--help"]).output for words in sys.argv[1:]}, sys.stdout)
"""
"""Prints the help of each command named, all by one process: to load SAM takes a second."""


@pytest.mark.costly("programs")
def test_sam_knows_every_command_and_option() -> None:
    used: dict[tuple[str, ...], set[str]] = {}
    for words in starting_with("sam"):
        command = tuple(itertools.takewhile(lambda word: not word.startswith("-"), words))
        used.setdefault(command, set()).update(word for word in words if word.startswith("-"))
    assert used.keys() >= {("local", "invoke"), ("local", "start-lambda"), ("delete",)}
    helps = json.loads(run("python", "-c", ALL_HELP, *map(" ".join, used)))
    for command, options in used.items():
        assert options <= set(re.findall(r"--[\w-]+", helps[" ".join(command)])), command


CUSTOM = {
    ("cloudformation", "deploy"): {"--template-file", "--stack-name", "--capabilities", "--parameter-overrides"},
    ("ec2", "authorize-security-group-ingress"): {"--group-id", "--protocol", "--port", "--source-group"},
    ("logs", "tail"): {"--since", "--format", "--follow"},
    ("s3", "cp"): set[str](),
    ("sso", "login"): set[str](),
}
"""What the AWS CLI adds to the API's operations."""
ANYWHERE = {"--cli-binary-format", "--endpoint-url", "--output", "--query"}


def test_the_api_knows_every_aws_command_and_option() -> None:
    """In blocks, and in the hints that the tables quote."""
    found = re.findall(r"(?<![\w/])aws ([a-z][\w-]+) ([a-z][\w-]+)([^\n`»]*)", TEXT)
    used: dict[tuple[str, str], set[str]] = {}
    for service, operation, rest in found:
        used.setdefault((service, operation), set()).update(re.findall(r"--[a-z][\w-]+", rest))
    assert used.keys() >= {("secretsmanager", "rotate-secret"), ("lambda", "invoke"), ("logs", "tail")}
    for (service, operation), options in used.items():
        known = CUSTOM[service, operation] if (service, operation) in CUSTOM else inputs(service, operation)
        assert options <= known | ANYWHERE, (service, operation)


def inputs(service: str, operation: str) -> set[str]:
    """Return the options that the AWS CLI makes of an operation's parameters."""
    model = botocore.session.get_session().get_service_model(service)
    [name] = [name for name in model.operation_names if xform_name(name, "-") == operation]
    shape = model.operation_model(name).input_shape
    members = {} if shape is None else shape.members
    options = {f"--{xform_name(member, '-')}" for member in members}
    return options | {f"--no-{option[2:]}" for option in options}


def test_every_event_is_there() -> None:
    named = set(re.findall(r"build/local/(\w+)\.json", TEXT))
    assert {"create_secret", "set_secret", "test_secret", "finish_secret"} <= named
    assert named <= {file.stem for file in (ROOT / "events").glob("*.json")}


@pytest.mark.parametrize("environment", ["default", "dev", "prod"])
def test_samconfig_deploys_each_environment_without_flags(environment: str) -> None:
    section = CONFIG[environment]
    assert section["global"]["parameters"]["stack_name"].startswith("secret-rotation")
    assert section["deploy"]["parameters"]["capabilities"] == "CAPABILITY_IAM"
    assert section["deploy"]["parameters"]["resolve_s3"] is True
    assert section["build"]["parameters"]["cached"] is False


def test_samconfig_has_three_environments_and_three_stacks() -> None:
    environments = {name for name in CONFIG if name != "version"}
    assert environments == {"default", "dev", "prod"}
    assert len({CONFIG[name]["global"]["parameters"]["stack_name"] for name in environments}) == 3


def test_samconfig_leads_sam_local_to_what_make_events_writes() -> None:
    for command in ("local_invoke", "local_start_lambda"):
        parameters = CONFIG["default"][command]["parameters"]
        assert (parameters["template_file"], parameters["env_vars"]) == (
            "build/local/template.yaml",
            "build/local/environment.json",
        )
        assert parameters["region"] == "us-east-1"
