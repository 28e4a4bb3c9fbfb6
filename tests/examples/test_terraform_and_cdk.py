"""The examples for Terraform and the CDK fit the template: Terraform itself says so, where it and its provider are."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import ROOT
from tests.conftest import leave_out
from tests.deployment.cloudformation import as_written, deploy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.costly("programs")

TEMPLATE = as_written()
TERRAFORM = (ROOT / "examples" / "terraform" / "main.tf").read_text()
CDK = (ROOT / "examples" / "cdk" / "app.py").read_text()


def terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = ["terraform", *arguments, "-no-color"]
    environment = {**kept, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def initialised(tmp_path: Path) -> Iterator[Path | None]:
    """Yield the example's folder with the provider at hand; None where Terraform or the provider is not here."""
    folder = tmp_path / "terraform"
    shutil.copytree(ROOT / "examples" / "terraform", folder)
    plugins = os.environ.get("TERRAFORM_PLUGINS")
    place = [f"-plugin-dir={plugins}"] if plugins else []
    if shutil.which("terraform") is None:
        leave_out("Terraform is not on this machine: its example was only compared with the template.")
        yield None
    elif not plugins and "CI" in os.environ:
        leave_out("Terraform's AWS provider is not on this machine: the example was only compared with the template.")
        yield None
    else:
        ended = terraform(folder, "init", "-backend=false", "-input=false", *place)
        if ended.returncode:
            leave_out("Terraform's AWS provider cannot be had: the example was only compared with the template.")
        yield folder if ended.returncode == 0 else None


@pytest.mark.timeout(300)
def test_terraform_takes_its_example(initialised: Path | None) -> None:
    if initialised is not None:
        ended = terraform(initialised, "validate")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Success!" in ended.stdout


def test_terraform_has_parameters_and_outputs_of_the_template() -> None:
    block = TERRAFORM.partition("parameters = {\n")[2].partition("  }")[0]
    parameters = dict(re.findall(r"^ +(\w+) += (\S+)$", block, re.MULTILINE))
    deploy({**{name: value.strip('"') for name, value in parameters.items()}, "AlarmEmail": "dba@example.com"})
    used = re.findall(r'outputs\["(\w+)"\]', TERRAFORM)
    assert len(used) >= 2
    assert set(used) <= TEMPLATE["Outputs"].keys()


def test_terraform_does_not_rotate_when_it_is_applied() -> None:
    assert "rotate_immediately  = false" in TERRAFORM
    provider = re.search(r'source +=.+/aws"\n +version = ">= (\d+)\.(\d+)"', TERRAFORM)
    assert provider
    assert (int(provider[1]), int(provider[2])) >= (5, 33)  # the first to have it; others rotate, or fail
    assert "CAPABILITY_AUTO_EXPAND" in TERRAFORM  # for the template's Transform


def test_the_cdk_names_parameters_and_resources_of_the_template() -> None:
    tree = ast.parse(CDK)
    [parameters] = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "parameters" and isinstance(node.value, ast.Dict)
    ]
    assert {ast.literal_eval(key) for key in parameters.keys if key} <= TEMPLATE["Parameters"].keys()
    named = re.findall(r'get_resource\("(\w+)"\)', CDK)
    assert {"RotationFunction", "SecretsManagerMayInvoke"} <= set(named) <= TEMPLATE["Resources"].keys()
    assert "rotate_immediately_on_update=False" in CDK


def test_a_secret_under_the_prefix_of_both_is_one_that_the_function_may_rotate() -> None:
    for text in (TERRAFORM, CDK):
        assert '"prod/"' in text
        assert '"prod/shop/orders"' in text


def test_ci_says_that_it_leaves_the_cdk_out() -> None:
    """Its synthesis takes 40 seconds of a core; docs/terraform-and-cdk.md has the command."""
    leave_out("The CDK is no dependency of this project: its example was only compared with the template.")
    assert "python app.py" in (ROOT / "examples" / "cdk" / "cdk.json").read_text()
