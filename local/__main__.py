"""Rotate a PostgreSQL credential on this machine through the function itself, and tell what happens."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from local.breakages import BREAKAGES, demonstrate
from local.chaos import run_chaos
from local.clients import run_rotations, settings_for
from local.rotate import load_function, show_rotation
from local.serve import serve
from local.servers.stack import LOGGED, STRATEGIES, run_stack
from rotation_lambda.errors import RotationError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--times", type=_positive, default=1, metavar="N", help="rotate N times in a row (default: 1)")
    parser.add_argument(
        "--strategy", choices=STRATEGIES, default="single-user", help="whose password changes, and who changes it"
    )
    parser.add_argument(
        "--clients",
        type=_positive,
        metavar="N",
        help="let N applications log in meanwhile as examples/ shows, and N without its fallback; count what they see",
    )
    parser.add_argument("--logs", action="store_true", help="show the function's log lines, on standard error")
    parser.add_argument(
        "--serve", action="store_true", help="keep both servers running until Ctrl-C, and rotate nothing"
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS", help="serve there as well (default: where containers find this machine)"
    )
    parser.add_argument(
        "--break",
        dest="breakage",
        choices=BREAKAGES,
        metavar="WHAT",
        help=f"start broken; show what a preflight finds and what a rotation ends in ({', '.join(BREAKAGES)})",
    )
    parser.add_argument(
        "--chaos", type=_positive, metavar="N", help="rotate N times while processes are killed and connections break"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="what --chaos printed, for the same dice again")
    options = parser.parse_args(arguments)
    _check(parser, options)
    breakage = BREAKAGES.get(options.breakage)
    if breakage and breakage.part and breakage.part.missing:
        parser.exit(1, f"{breakage.part.missing}\n")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    try:
        if options.serve:
            serve(console, strategy=options.strategy, bind=options.bind)
        if options.chaos:
            return int(run_chaos(options.chaos, console, options.seed).locked_out.total() > 0)
        settings = settings_for(options.clients) if options.clients else LOGGED
        with run_stack(strategy=options.strategy, settings=settings) as stack:
            function = load_function(stack, logs=options.logs)
            if breakage:
                console.print(*demonstrate(breakage, stack, function), sep="\n", markup=False)
                return 0
            if options.clients:
                return int(not run_rotations(stack, function, console, clients=options.clients, times=options.times))
            for _ in range(options.times):
                show_rotation(stack, function, console)
    except RotationError as error:
        console.print(f"\n{type(error).__name__} ({error.code}): {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; both servers are down, and nothing of them is left.")
        return 0 if options.serve else 128 + signal.SIGINT
    return 0


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program, with status 2, where an option would be passed over without a word."""
    modes = {"--serve": options.serve, "--break": options.breakage, "--chaos": options.chaos}
    mode = next((name for name, chosen in modes.items() if chosen), None)
    if options.clients and mode:
        parser.error(f"--clients is for rotations as they should be, and not for {mode}")
    if options.strategy != "single-user" and mode in {"--break", "--chaos"}:
        parser.error(f"{mode} knows the strategy single-user only")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
