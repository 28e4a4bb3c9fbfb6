"""Measure how fast the built function is, by itself or in turn with another rotation function."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import measure, page
from benchmarks.share import IMPOSSIBLE, find_root
from benchmarks.world import OWN_HANDLER, build, run_world, version_of
from local import ROOT
from local.terminal import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.world import Function, World

PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "window.svg"
MARK = "<!-- figures -->"
DEFAULT_MB = 512
SIZES = (128, 256, 512, 1024, 1769)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = make_parser().parse_args(arguments)
    with ExitStack() as kept:
        source = options.function
        if source is None:
            source = Path(kept.enter_context(TemporaryDirectory(prefix="benchmark-build-"))) / "function"
            build(source, options.python)
        world = kept.enter_context(run_world(python=options.python, sdk=options.sdk))
        functions = [world.install("this function", source, OWN_HANDLER)]
        if options.against:
            functions.append(world.install(options.name, options.against, options.handler))
        command = f'make bench ARGS="{shlex.join(arguments)}"' if arguments else "make bench"
        machine = f"Python {version_of(options.python)}, {os.cpu_count()} processors"
        parts = [f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine}.\n"]
        if world.groups is None:
            parts.append(f"{IMPOSSIBLE}\n")
        runs = _measure_sizes(world, functions, options)
        if runs:
            default = DEFAULT_MB if DEFAULT_MB in runs else next(iter(runs))
            parts += page.tables(runs, default)
        if options.fleet:
            parts.append(page.fleet(dict(_measure_fleets(world, functions, options)), options.at_once))
    figures = "\n".join(parts)
    sys.stdout.write(figures)
    if options.write:
        before, _, after = options.page.read_text(encoding="utf-8").split(MARK)
        options.page.write_text(f"{before}{MARK}\n{figures}{MARK}{after}", encoding="utf-8")
        if runs:
            picture = options.page.with_name(PICTURE.name)
            picture.write_text(page.draw(runs, "Outage window in milliseconds, by memory size"), encoding="utf-8")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all options."""
    parser = argparse.ArgumentParser(
        prog="make bench",
        usage='make bench ARGS="[OPTIONS]"',
        description=__doc__,
        epilog=None if find_root() else IMPOSSIBLE,
    )
    add = parser.add_argument
    add("--runs", type=int, default=10, metavar="N", help="rotations of each function and size (default: 10; 0: none)")
    add("--sizes", type=_sizes, default=SIZES, metavar="MB,MB", help="memory sizes (default: 128,256,512,1024,1769)")
    add("--latency", type=float, default=15, metavar="MS", help="how far away Secrets Manager is (default: 15 ms)")
    add(
        "--fleet", type=int, default=0, metavar="N", help="rotate N secrets, with a third of the writes they would make"
    )
    add("--at-once", type=int, default=100, metavar="N", help="how many of them at the same time (default: 100)")
    add("--against", type=Path, metavar="DIR", help="the folder of another rotation function, with all that it needs")
    add(
        "--handler",
        default="lambda_function.lambda_handler",
        metavar="MODULE.FUNCTION",
        help="its handler (default: lambda_function.lambda_handler)",
    )
    add("--name", default="the other one", help="what the tables call it")
    add("--function", type=Path, metavar="DIR", help="a folder with this function, built already")
    add("--python", default=sys.executable, metavar="PROGRAM", help="the Python that runs and compiles both")
    add("--sdk", type=Path, metavar="DIR", help="the folder with boto3 for that Python (default: this environment's)")
    add("--write", action="store_true", help="put the figures and the picture into docs/performance.md")
    add("--page", type=Path, default=PAGE, help=argparse.SUPPRESS)
    return parser


def _measure_sizes(world: World, functions: Sequence[Function], options: argparse.Namespace) -> page.Runs:
    """Rotate by each function in turn, for each size; one more, at first, fills the caches and is not counted."""
    secrets = {function.name: world.add_secret(f"app_{number}") for number, function in enumerate(functions)}
    runs: page.Runs = {}
    for size in options.sizes if options.runs else ():
        pair = runs[size] = {function.name: [] for function in functions}
        for number in range(-1, options.runs):
            for function in functions:
                one = measure.rotate(world, function, secrets[function.name], size, options.latency / 1000)
                if number >= 0:
                    pair[function.name].append(one)
    return runs


def _measure_fleets(
    world: World, functions: Sequence[Function], options: argparse.Namespace
) -> Iterator[tuple[str, measure.Fleet]]:
    """Rotate a fleet without a limit, and then by each function with a third of the writes that this came to."""
    for number, function in enumerate(functions):
        arns = [world.add_secret(f"fleet_{number}_{one}") for one in range(options.fleet)]
        if not number:
            free = measure.rotate_fleet(world, function, arns, options.at_once, None)
            yield f"{function.name}, unlimited", free
        yield function.name, measure.rotate_fleet(world, function, arns, options.at_once, free.writes / 3)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


if __name__ == "__main__":
    run(main)
