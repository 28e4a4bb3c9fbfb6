"""The benchmarks measure what they say, in a tiny run: no time is asserted, but what a rotation does is counted."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as program
from benchmarks import measure, page, share
from benchmarks.world import OWN_HANDLER, run_world
from tests import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.world import World

pytestmark = pytest.mark.costly("programs")

BAD = """
from rotation_lambda.handler import lambda_handler

def fails(event, context):
    if event["Step"] == "finishSecret":
        raise LookupError("testing")
    lambda_handler(event, context)

def does_nothing(event, context):
    if event["Step"] != "finishSecret":
        lambda_handler(event, context)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a build leaves it, but for the dependencies, which this environment has."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT / "rotation_lambda", folder / "rotation_lambda")
    (folder / "bad.py").write_text(BAD)
    return folder


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with run_world(python=sys.executable, sdk=None) as world:
        yield world


class TestRotation:
    def test_makes_10_calls_and_6_logins(self, world: World, built: Path) -> None:
        """AWS's sample calls Secrets Manager 14 times; with it there are 4 logins, of which 2 are refused."""
        function = world.install("ours", built, OWN_HANDLER)
        run = measure.rotate(world, function, world.add_secret("one"), share.WHOLE_MB, 0.002)
        assert run.calls == {
            "DescribeSecret": 5,
            "GetSecretValue": 2,
            "GetRandomPassword": 1,
            "PutSecretValue": 1,
            "UpdateSecretVersionStage": 1,
        }
        assert run.logins == 6
        assert list(run.walls) == list(run.cpus) == ["init", "createSecret", "setSecret", "testSecret", "finishSecret"]
        assert 0 < run.window < run.wall

    @pytest.mark.parametrize(
        ("handler", "message"),
        [("bad.fails", "finishSecret failed with LookupError"), ("bad.does_nothing", "has not succeeded")],
    )
    def test_that_does_not_succeed_is_not_measured(self, handler: str, message: str, world: World, built: Path) -> None:
        function = world.install(handler, built, handler)
        with pytest.raises(RuntimeError, match=message):
            measure.rotate(world, function, world.add_secret(handler), share.WHOLE_MB, 0)


class TestFleet:
    def test_counts_what_is_lost_and_who_is_locked_out(self, world: World, built: Path) -> None:
        function = world.install("lossy", built, "bad.fails")
        fleet = measure.rotate_fleet(world, function, [world.add_secret(f"lossy{n}") for n in "123"], 2, None)
        assert fleet.lost == {"finishSecret: LookupError": 3}
        assert (fleet.locked_out, fleet.throttled) == (3, 0)
        assert "| 3 | 3 in finishSecret: LookupError | 3 |" in page.fleet({"lossy": fleet}, 2)


def test_the_program_writes_figures_and_picture(built: Path, tmp_path: Path) -> None:
    target = tmp_path / "performance.md"
    target.write_text(f"before\n{program.MARK}\nformer\n{program.MARK}\nafter\n")
    options = ["--runs", "1", "--sizes", "1769", "--latency", "1", "--fleet", "1", "--function", str(built)]
    other = ["--against", str(built), "--handler", OWN_HANDLER, "--name", "the same again"]
    assert program.main([*options, *other, "--write", "--page", str(target)]) == 0
    before, figures, after = target.read_text().split(program.MARK)
    assert (before, after) == ("before\n", "\nafter\n")
    assert figures.startswith('\n`make bench ARGS="--runs 1 ')
    assert "former" not in figures
    for row in ("Start and createSecret", "finishSecret", "1769 MB"):
        assert f"\n| {row} | " in figures
    assert figures.count(" | 0 | none | 0 |\n") == 3
    picture = ET.fromstring(target.with_name("window.svg").read_text())  # noqa: S314 - our own
    assert {"1769 MB", "this function", "the same again"} <= set(picture.itertext())


def test_spread_is_a_median_between_quartiles() -> None:
    assert page.spread([4, 1, 2, 3, 5], 0) == "3 (2 to 4)"
    assert page.spread([7], 1) == "7.0 (7.0 to 7.0)"


def test_picture_has_a_place_for_each_median() -> None:
    runs = {
        size: {"ours": [measure.Run({}, {}, window, Counter(), 6) for window in (window, 2.0 * window)]}
        for size, window in ((128, 400.0), (512, 100.0))
    }
    told = set(ET.fromstring(page.draw(runs, "Window")).itertext())  # noqa: S314 - our own
    assert {"Window", "600", "150", "128 MB", "512 MB", "800", "0"} <= told


class TestShare:
    """Stand-ins for the folders of control groups; real ones, where there are any, limit the rotations above."""

    def mounts(self, tmp_path: Path, line: str) -> Path:
        file = tmp_path / "mounts"
        file.write_text(f"proc /proc proc rw 0 0\n{line}\n")
        return file

    def test_of_version_1(self, tmp_path: Path) -> None:
        root = tmp_path / "cpu"
        root.mkdir()
        assert share.find_root(self.mounts(tmp_path, f"cgroup {root} cgroup rw,cpu,cpuacct 0 0")) == root
        with share.of(256, root) as command:
            assert command[-1] == str(root / share.group_name() / "cgroup.procs")
            settings = {file.name: file.read_text() for file in (root / share.group_name()).iterdir()}
        assert settings == {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "2894", "cpu.shares": "262144"}

    def test_of_version_2(self, tmp_path: Path) -> None:
        root = tmp_path / "unified"
        root.mkdir()
        (root / "cgroup.subtree_control").touch()
        assert share.find_root(self.mounts(tmp_path, f"cgroup2 {root} cgroup2 rw 0 0")) == root
        with share.of(512, root):
            settings = {file.name: file.read_text() for file in (root / share.group_name()).iterdir()}
        assert settings == {"cpu.max": "5788 20000", "cpu.weight": "10000"}

    @pytest.mark.parametrize(
        "line", ["cgroup /nowhere cgroup rw,cpu 0 0", "cgroup /nowhere cgroup rw,memory 0 0", "none / x rw"]
    )
    def test_is_the_whole_where_there_is_no_root(self, line: str, tmp_path: Path) -> None:
        assert share.find_root(self.mounts(tmp_path, line)) is None
        with share.of(128, None) as command:
            assert command == []
