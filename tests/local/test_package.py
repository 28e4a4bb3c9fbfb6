"""What `make package` leaves deploys the same stack as SAM does, from the zip that it names."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
from samcli.yamlhelper import yaml_parse

from local import package, release
from tests import ROOT
from tests.deployment.test_template import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.costly("programs")

TEXT = (ROOT / "template.yaml").read_text()


def build(architecture: str, folder: Path) -> None:
    """Stand in for make, which test_build.py tries."""
    (folder / "handler.py").write_text(architecture)


@pytest.fixture
def packages(tmp_path: Path) -> list[tuple[Path, Path, str]]:
    return list(package.package(tmp_path / "package", "code-${AWS::Region}", "rotation/", build))


def test_makes_a_zip_and_a_template_for_each_architecture(packages: list[tuple[Path, Path, str]]) -> None:
    assert len(packages) == len(release.ARCHITECTURES)
    for architecture, (file, template, key) in zip(release.ARCHITECTURES, packages, strict=True):
        with zipfile.ZipFile(file) as zipped:
            assert zipped.read("handler.py").decode() == architecture
        made, source = yaml_parse(template.read_text()), yaml_parse(TEXT)
        assert made["Mappings"]["Build"]["Function"].pop("Architecture") == architecture
        code = made["Resources"]["RotationFunction"]["Properties"].pop("CodeUri")
        assert code == {"Bucket": {"Fn::Sub": "code-${AWS::Region}"}, "Key": key}
        assert key == f"rotation/{file.name}"
        source["Metadata"].pop("AWS::ServerlessRepo::Application")
        source["Mappings"]["Build"]["Function"].pop("Architecture")
        source["Resources"]["RotationFunction"]["Properties"].pop("CodeUri")
        assert made == source


def test_leaves_cfn_lint_nothing_to_say(packages: list[tuple[Path, Path, str]]) -> None:
    assert run("cfn-lint", "--non-zero-exit-code", "informational", str(packages[1][1])) == ""


def test_leaves_nothing_else(packages: list[tuple[Path, Path, str]]) -> None:
    folder = packages[0][0].parent
    assert sorted(folder.iterdir()) == sorted(path for file, template, _ in packages for path in (file, template))


@pytest.mark.parametrize("line", ["      Architecture: x86_64\n", "      CodeUri: lambda\n"])
def test_notices_when_the_template_has_changed(line: str) -> None:
    with pytest.raises(release.NotReadyError, match=line.strip()):
        package.template_for("arm64", TEXT.replace(line, ""), "bucket", "key")


def test_needs_a_bucket(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        package.main([])
    assert ended.value.code == 2
    assert "make package BUCKET=" in capsys.readouterr().err
