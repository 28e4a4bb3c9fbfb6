"""The built function is the wheel and its runtime dependencies for Lambda's machine, and the same at every build."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import marshal
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local import release
from rotation_lambda import __version__
from tests import ROOT
from tests.deployment import cloudformation

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.costly("programs")

ELF_MACHINE = {"x86_64": 62, "arm64": 183}  # elf(5), e_machine
MOST_BYTES = 10_000_000  # with bytecode, which is in it where this machine has the runtime's Python
SOURCE = ("Makefile", "pyproject.toml", "LICENSE", "requirements.txt", "requirements-build.txt", "lambda")
FUNCTION = cloudformation.as_written()["Resources"]["RotationFunction"]["Properties"]


def make_environment() -> dict[str, str]:
    """Return what a shell outside the virtual environment has, pip's own settings for its registry included."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"} or name.startswith("PIP_")}
    return {**kept, "LC_ALL": "C.UTF-8", "SAM_CLI_TELEMETRY": "0", "PYTHON": sys.executable}


def run(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    ended = subprocess.run(
        command, cwd=cwd, env={**make_environment(), **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def sam_build(architecture: str, folder: Path) -> Path:
    """Build as `make build` does, but into a folder of the test's own."""
    template = folder.with_suffix(".yaml")
    text = (ROOT / "template.yaml").read_text()
    assert text.count("Architecture: x86_64\n") == 1
    template.write_text(text.replace("Architecture: x86_64\n", f"Architecture: {architecture}\n"))
    sam = str(Path(sys.executable).with_name("sam"))
    run(sam, "build", "--build-dir", str(folder), "--template-file", str(template), "--base-dir", str(ROOT))
    return folder / "RotationFunction"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("build")
    return {architecture: sam_build(architecture, folder / architecture) for architecture in ELF_MACHINE}


@pytest.fixture(params=ELF_MACHINE)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Return the permissions and the hash of every file."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mode & 0o777, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.rglob("*")
        if file.is_file()
    }


def top(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_holds_the_wheel_and_what_it_needs_and_nothing_else(built: Mapping[str, Path], architecture: str) -> None:
    locked = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    distributions = {f"{name.replace('-', '_')}-{version}.dist-info" for name, version in locked}
    packages = {"aws_lambda_powertools", "jmespath", "psycopg2", "psycopg2_binary.libs", "typing_extensions.py"}
    own = {"rotation_lambda", f"rotation_lambda-{__version__}.dist-info"}
    assert top(built[architecture]) - {"__pycache__"} == distributions | packages | own


def test_holds_the_whole_house(built: Mapping[str, Path], architecture: str) -> None:
    house = ROOT / "rotation_lambda"
    files = {str(path.relative_to(house)) for path in house.rglob("*") if path.suffix in {".py", ".pem"}}
    shipped = built[architecture] / "rotation_lambda"
    assert {str(path.relative_to(shipped)) for path in shipped.rglob("*.*") if path.suffix != ".pyc"} == files


def test_holds_the_handler_that_the_template_names(built: Mapping[str, Path], architecture: str) -> None:
    module, _, name = FUNCTION["Handler"].rpartition(".")
    source = (built[architecture] / module.replace(".", "/")).with_suffix(".py").read_text()
    assert name in {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def test_has_no_program(built: Mapping[str, Path], architecture: str) -> None:
    assert not [name for name in contents(built[architecture]) if name.startswith("bin/")]


def make(folder: Path, *, clone: Path = ROOT, **variables: str) -> str:
    """Build as SAM does, by make alone; return what that prints."""
    folder.mkdir()
    words = ("--makefile", f"{clone}/Makefile", "build-RotationFunction", *map("=".join, variables.items()))
    return run("make", *words, cwd=clone / "lambda" / "x86_64", ARTIFACTS_DIR=str(folder))


def bytecode(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*.pyc"))}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build with this machine's Python in the part of the runtime's."""
    folder = tmp_path_factory.mktemp("compiled") / "built"
    make(folder, RUNTIME="{}.{}".format(*sys.version_info))
    return folder


class TestBytecode:
    def test_is_of_every_module_and_is_not_compared_with_the_source(self, compiled: Path) -> None:
        files, sources = bytecode(compiled), set(compiled.rglob("*.py"))
        assert {Path(importlib.util.source_from_cache(str(file))) for file in files} == sources
        for content in files.values():
            magic, flags = content[:4], struct.unpack_from("<I", content, 4)[0]
            assert magic == importlib.util.MAGIC_NUMBER
            assert flags == 0b01  # PEP 552: by hash, not checked
            place = marshal.loads(content[16:]).co_filename  # noqa: S302 - our own
            assert place.startswith("/var/task/")
            assert str(compiled).encode() not in content

    def test_is_said_to_be_left_out_where_no_python_can_make_it(self, tmp_path: Path) -> None:
        other = "3.11" if sys.version_info[:2] != (3, 11) else "3.12"
        told = make(tmp_path / "built", RUNTIME=other, PYTHON=sys.executable, PATH="/usr/bin:/bin")
        assert bytecode(tmp_path / "built") == {}
        assert [line for line in told.splitlines() if f"no Python {other} here" in line]


def test_is_for_the_machine_and_the_python_of_the_template(built: Mapping[str, Path], architecture: str) -> None:
    libraries = [path for path in built[architecture].rglob("*") if re.search(r"\.so(\.|$)", path.name)]
    assert {struct.unpack_from("<H", path.read_bytes(), 18)[0] for path in libraries} == {ELF_MACHINE[architecture]}
    [driver] = built[architecture].glob("psycopg2/_psycopg.*.so")
    assert f"cpython-{FUNCTION['Runtime'].removeprefix('python').replace('.', '')}-" in driver.name


def test_is_readable_for_lambda_whatever_the_umask(built: Mapping[str, Path], architecture: str) -> None:
    assert {mode & 0o644 for mode, _ in contents(built[architecture]).values()} == {0o644}


def test_is_small(built: Mapping[str, Path], architecture: str) -> None:
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as file:
        for name in contents(built[architecture]):
            file.write(built[architecture] / name, name)
    assert len(package.getvalue()) < MOST_BYTES


def test_is_the_same_when_built_again_elsewhere(compiled: Path, tmp_path: Path) -> None:
    """With its bytecode, from a clone in another place, whose path has a space."""
    clone = tmp_path / "an other"
    clone.mkdir()
    for name in (*SOURCE, "rotation_lambda"):
        run("cp", "-R", str(ROOT / name), str(clone))
    make(tmp_path / "artifacts", clone=clone, RUNTIME="{}.{}".format(*sys.version_info))
    assert contents(tmp_path / "artifacts") == contents(compiled)


def test_is_the_same_in_a_release(built: Mapping[str, Path], tmp_path: Path) -> None:
    """By make alone, and under another umask."""
    before = os.umask(0o077)
    try:
        release.build("arm64", tmp_path)
    finally:
        os.umask(before)
    assert contents(tmp_path) == contents(built["arm64"])


def test_leaves_the_repository_as_it_was(built: Mapping[str, Path]) -> None:
    left = {path.name for path in (ROOT / "lambda").rglob("*")}
    assert left == {"x86_64", "arm64", "platforms"}
    assert not list(ROOT.glob("*.egg-info"))
    assert not (ROOT / "build" / "lib").exists()


def test_every_dependency_that_ships_is_pinned_by_hash() -> None:
    for file in ("requirements.txt", "requirements-build.txt"):
        requirements = re.split(r"\n(?=[a-z])", (ROOT / file).read_text().strip())
        assert all(re.match(r"[\w-]+==\S+ \\\n +--hash=sha256:", requirement) for requirement in requirements)


def test_the_version_stands_in_one_place() -> None:
    assert __version__ not in (ROOT / "pyproject.toml").read_text()
    assert __version__ not in (ROOT / "template.yaml").read_text().partition("Resources:")[2]
