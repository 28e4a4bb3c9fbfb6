"""What is published of a version: a zip for each architecture, an SBOM and checksums, once everything fits together."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from local import ROOT, StoppedError
from local.terminal import run
from rotation_lambda import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ARCHITECTURES = ("x86_64", "arm64")
FOLDER = ROOT / "build" / "release"
NAME = f"rotation-lambda-{__version__}"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can have, as in those of `sam package`
_PYPI = "https://pypi.org/simple"  # whatever index this machine installs from


class NotReadyError(StoppedError):
    """The version cannot be released as it is; the message says what to do."""


def check_changelog(text: str, version: str) -> None:
    """Raise NotReadyError unless the version is the newest section, with a date, and nothing stands before it."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    heads = [section.partition("\n")[0] for section in sections]
    if heads[:1] != ["[Unreleased]"]:
        raise NotReadyError("CHANGELOG.md has to begin with a section [Unreleased], even if it is empty.")
    if sections[0].partition("\n")[2].strip():
        raise NotReadyError(
            f"CHANGELOG.md has changes under [Unreleased]. Move them under `## [{version}] - {date.today()}`, "  # noqa: DTZ011
            "or raise __version__ in rotation_lambda/__init__.py first."
        )
    head = re.fullmatch(r"\[(.+)\] - (\d{4}-\d\d-\d\d)", heads[1] if len(heads) > 1 else "")
    if head is None or head[1] != version:
        raise NotReadyError(
            f"The newest section of CHANGELOG.md is {' '.join(heads[1:2]) or 'missing'}; __version__ is {version}. "
            f"Let both name the version to release: `## [{version}] - {date.today()}`."  # noqa: DTZ011
        )
    try:
        date.fromisoformat(head[2])
    except ValueError:
        raise NotReadyError(f"CHANGELOG.md has the date {head[2]} for {version}, which is none.") from None


def check_template(text: str, version: str) -> None:
    """Raise NotReadyError if template.yaml names another version."""
    for found in re.findall(r"SemanticVersion: *\"?([\w.-]+)", text):
        if found != version:
            raise NotReadyError(f"template.yaml has SemanticVersion {found}; __version__ is {version}.")


def check_repository(root: Path, version: str) -> None:
    """Raise NotReadyError if files differ from the commit, or if the version is another commit's already."""
    if _git(root, "status", "--porcelain"):
        raise NotReadyError("The work tree has changes that are not committed. Commit them first.")
    tagged = _git(root, "rev-parse", "--quiet", "--verify", f"v{version}^{{commit}}", missing=True)
    if tagged and tagged != _git(root, "rev-parse", "HEAD"):
        raise NotReadyError(f"The tag v{version} is on another commit. Raise __version__.")


def _git(root: Path, *arguments: str, missing: bool = False) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise NotReadyError("git is not on this machine. Install it: a release is built from a commit.") from None
    if ended.returncode and not missing:
        raise NotReadyError(f"git failed: {ended.stderr.strip()}")
    return ended.stdout.strip()


def build(architecture: str, folder: Path) -> None:
    """Build the function into `folder` as `make build` does; NotReadyError with make's output if it fails."""
    where = ROOT / "lambda" / architecture
    command = ["make", "--makefile", str(ROOT / "Makefile"), "build-RotationFunction"]
    environment = {**os.environ, "ARTIFACTS_DIR": str(folder), "PYTHON": sys.executable}
    ended = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise NotReadyError(f"The build for {architecture} failed:\n{ended.stdout}{ended.stderr}".rstrip())


def pack(folder: Path, file: Path) -> None:
    """Write all files of a folder into a zip that depends on their names and contents only."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (path.stat().st_mode & 0xFFFF) << 16
            package.writestr(entry, path.read_bytes())


def make_sbom(file: Path) -> None:
    """Have cyclonedx-bom list the pinned requirements; the function's own version, which it cannot read, is added."""
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "--index-url", _PYPI]
    command += ["--pyproject", "pyproject.toml", "--output-reproducible", "requirements.txt"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if made.returncode:
        raise NotReadyError(f"The SBOM failed:\n{made.stderr}".rstrip())
    document = json.loads(made.stdout)
    document["metadata"]["component"]["version"] = __version__
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def publish(folder: Path, build: Callable[[str, Path], None] = build) -> Iterator[Path]:
    """Make each file of the release in `folder` and yield it; each build is done twice, to compare."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for architecture in ARCHITECTURES:
        file = folder / f"{NAME}-{architecture}.zip"
        with TemporaryDirectory() as work:
            packed = []
            for once in ("first", "second"):
                built = Path(work, once)
                built.mkdir()
                build(architecture, built)
                pack(built, Path(work, f"{once}.zip"))
                packed.append(Path(work, f"{once}.zip").read_bytes())
        if packed[0] != packed[1]:
            raise NotReadyError(f"Two builds for {architecture} differ: this release cannot be reproduced.")
        file.write_bytes(packed[0])
        yield file
    sbom = folder / f"{NAME}.cdx.json"
    make_sbom(sbom)
    yield sbom
    sums = folder / "SHA256SUMS"
    files = sorted(path for path in folder.iterdir() if path != sums)
    sums.write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files))
    yield sums


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what `make release` asks; return the exit status. NotReadyError if the version is not ready."""
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.parse_args(arguments)
    check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__)
    check_template((ROOT / "template.yaml").read_text(encoding="utf-8"), __version__)
    check_repository(ROOT, __version__)
    sys.stdout.write(f"Building {NAME}, twice for each architecture …\n")
    for file in publish(FOLDER):
        sys.stdout.write(f"  {file.relative_to(ROOT)}  {file.stat().st_size:,} bytes\n")
    sys.stdout.write(f"Next: git tag v{__version__}, and publish these files.\n")
    return 0


if __name__ == "__main__":
    run(main)
