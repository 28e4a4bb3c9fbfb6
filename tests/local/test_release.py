"""A release is made of a version that the changelog, the tag and the template agree on, and can be built again."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from local import release
from rotation_lambda import __version__
from tests import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.costly("programs")

READY = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-12-01\n\n### Added\n\n- A thing.\n"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        ("[Unreleased]\n", "[Unreleased]\n\n### Fixed\n\n- Another.\n", "has changes under .Unreleased."),
        ("## [Unreleased]\n", "", "has to begin with a section"),
        ("[1.2.0]", "[1.1.0]", r"is \[1.1.0\] - 2026-12-01; __version__ is 1.2.0"),
        ("2026-12-01", "soon", r"is \[1.2.0\] - soon; __version__ is 1.2.0"),
        ("2026-12-01", "2026-13-01", "has the date 2026-13-01"),
        ("## [1.2.0]", "### [1.2.0]", "has changes under"),
        ("## [1.2.0] - 2026-12-01\n\n### Added\n\n- A thing.\n", "", "is missing; __version__ is 1.2.0"),
    ],
)
def test_the_changelog_has_to_tell_of_the_version(old: str, new: str, complaint: str | None) -> None:
    text = READY.replace(old, new)
    if complaint is None:
        release.check_changelog(text, "1.2.0")
    else:
        with pytest.raises(release.NotReadyError, match=complaint):
            release.check_changelog(text, "1.2.0")


def test_the_changelog_of_this_project_has_its_version() -> None:
    """It may be followed by changes that are not released; without those `make release` would go on."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    release.check_changelog(
        re.sub(r"(## \[Unreleased\]\n).*?(?=^## )", r"\1\n", text, flags=re.MULTILINE | re.DOTALL), __version__
    )


def test_the_template_may_not_name_another_version() -> None:
    release.check_template((ROOT / "template.yaml").read_text(encoding="utf-8"), __version__)
    release.check_template("SemanticVersion: 1.2.0", "1.2.0")
    with pytest.raises(release.NotReadyError, match=r"SemanticVersion 1\.1\.0; __version__ is 1\.2\.0"):
        release.check_template('    SemanticVersion: "1.1.0"\n', "1.2.0")


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., None]:
    """Return what runs git in a repository with one commit."""

    def run(*arguments: str) -> None:
        person = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", "-C", str(tmp_path), *person, *arguments], check=True, capture_output=True)  # noqa: S607

    run("init")
    (tmp_path / "file").write_text("1")
    run("add", ".")
    run("commit", "-m", "one")
    return run


class TestRepository:
    def test_a_commit_that_is_not_tagged_or_bears_the_tag_is_ready(
        self, git: Callable[..., None], tmp_path: Path
    ) -> None:
        release.check_repository(tmp_path, "1.2.0")
        git("tag", "v1.2.0")
        release.check_repository(tmp_path, "1.2.0")

    def test_a_change_that_is_not_committed_stops_it(self, git: Callable[..., None], tmp_path: Path) -> None:
        git("tag", "v1.0.0")
        (tmp_path / "file").write_text("2")
        with pytest.raises(release.NotReadyError, match="not committed"):
            release.check_repository(tmp_path, "1.2.0")

    def test_a_version_that_another_commit_has_already_stops_it(self, git: Callable[..., None], tmp_path: Path) -> None:
        git("tag", "v1.2.0")
        git("commit", "--allow-empty", "-m", "two")
        with pytest.raises(release.NotReadyError, match=r"The tag v1\.2\.0 is on another commit"):
            release.check_repository(tmp_path, "1.2.0")

    def test_a_folder_that_is_no_repository_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(release.NotReadyError, match=r"git failed: .*not a git repository"):
            release.check_repository(tmp_path, "1.2.0")


def build_small(architecture: str, folder: Path) -> None:
    """Write what the real build would leave, in little."""
    (folder / "package").mkdir()
    (folder / "package" / "handler.py").write_text(f"machine = {architecture!r}")
    (folder / "LICENSE").write_text("MIT")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Publish where an older release has left a file, on a machine with an index of its own."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "rotation-lambda-0.0.1.cdx.json").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", "https://user:password@index.example/simple")
        return list(release.publish(folder, build_small))


def test_the_files_are_the_same_each_time_and_their_sums_are_theirs(published: list[Path], tmp_path: Path) -> None:
    second = {file.name: file.read_bytes() for file in release.publish(tmp_path, build_small)}
    first = {file.name: file.read_bytes() for file in published}
    assert first == second
    name = f"rotation-lambda-{__version__}"
    assert [*first] == [f"{name}-x86_64.zip", f"{name}-arm64.zip", f"{name}.cdx.json", "SHA256SUMS"]
    sums = dict(line.split("  ")[::-1] for line in first["SHA256SUMS"].decode().splitlines())
    assert sums == {name: hashlib.sha256(first[name]).hexdigest() for name in first if name != "SHA256SUMS"}


def test_a_zip_has_every_file_readable_for_lambda_and_no_date(published: list[Path]) -> None:
    file = next(file for file in published if "arm64" in file.name)
    with zipfile.ZipFile(file) as package:
        assert package.namelist() == ["LICENSE", "package/handler.py"]
        assert package.read("package/handler.py") == b"machine = 'arm64'"
        assert {entry.date_time for entry in package.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 & 0o444 for entry in package.infolist()} == {0o444}


def test_what_an_older_release_left_is_removed(published: list[Path]) -> None:
    assert {*published[0].parent.iterdir()} == {*published}


def test_a_build_that_differs_from_itself_is_not_released(tmp_path: Path) -> None:
    def build(_: str, folder: Path) -> None:
        (folder / "file").write_text(str(folder))

    with pytest.raises(release.NotReadyError, match="Two builds for x86_64 differ"):
        list(release.publish(tmp_path, build))
    assert not list(tmp_path.iterdir())


def test_the_bill_of_materials_has_what_is_pinned_and_no_trace_of_this_machine(published: list[Path]) -> None:
    file = next(file for file in published if file.suffix == ".json")
    document = json.loads(file.read_text())
    pinned = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert [(one["name"], one["version"]) for one in document["components"]] == pinned
    assert all(one["externalReferences"][0]["hashes"] for one in document["components"])
    main = document["metadata"]["component"]
    assert (document["bomFormat"], main["name"], main["version"]) == ("CycloneDX", "rotation-lambda", __version__)
    assert "index.example" not in file.read_text()
    assert str(ROOT) not in file.read_text()


def test_nothing_is_built_of_what_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "__version__", "0.0.1")
    with pytest.raises(release.NotReadyError, match=r"^(The newest section of |)CHANGELOG.md (is|has) "):
        release.main([])
