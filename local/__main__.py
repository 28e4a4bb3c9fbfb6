"""Rotate a PostgreSQL password on this machine through the function itself, and show what happens."""

from __future__ import annotations

import argparse
import signal
import textwrap
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn

from local.breakages import BREAKAGES, demonstrate
from local.chaos import run_chaos
from local.clients import run_rotations, settings_for
from local.fleet import run_fleet
from local.rotate import forget_environment, load_function, show_rotation
from local.serve import address, serve
from local.servers.stack import LOGGED, STRATEGIES, run_stack
from local.terminal import FAILED, STATUSES, Screen, run
from rotation_lambda import __version__
from rotation_lambda.errors import RotationError

if TYPE_CHECKING:
    from collections.abc import Sequence

TAKEN = {
    "--serve": {"--strategy", "--bind", "--logs"},
    "--break": {"--logs"},
    "--chaos": {"--seed"},
    "--fleet": {"--strategy"},
    "": {"--times", "--strategy", "--clients", "--logs"},
}
"""What each mode takes, but for --json and --quiet, which all of them do; the empty one is a plain rotation."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    forget_environment()
    screen = Screen(as_json=options.json, quiet=options.quiet)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return _do(options, screen)
    except RotationError as error:
        screen.result({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        screen.complain(f"{type(error).__name__} ({error.code}): {error}")
        return FAILED
    except KeyboardInterrupt:
        screen.say()
        screen.say("Stopped. Both servers are down, and nothing of them is left.")
        return 0 if options.serve else 128 + signal.SIGINT


def _do(options: argparse.Namespace, screen: Screen) -> int:
    strategy = options.strategy or "single-user"
    if options.serve:
        serve(screen, strategy=strategy, bind=options.bind, logs=options.logs)
    if options.chaos:
        return FAILED if run_chaos(options.chaos, screen, options.seed).locked_out.total() else 0
    if options.fleet:
        result = run_fleet(options.fleet, screen, strategy=strategy)
    else:
        result = _rotate(options, screen, strategy)
    screen.result({"strategy": strategy, **result})
    return 0 if result.get("as_expected", True) else FAILED


def _rotate(options: argparse.Namespace, screen: Screen, strategy: str) -> dict[str, Any]:
    """Rotate the one secret of a stack, in whatever way; return what came of it."""
    breakage, times = BREAKAGES.get(options.breakage), options.times or 1
    if breakage and breakage.part:
        breakage.part.find()
    settings = settings_for(options.clients) if options.clients else LOGGED
    with ExitStack() as kept:
        with screen.waiting("Starting PostgreSQL and Secrets Manager"):
            stack = kept.enter_context(run_stack(strategy=strategy, settings=settings))
        function = load_function(stack, screen.log() if options.logs else None)
        if breakage:
            return demonstrate(breakage, stack, function, screen)
        if options.clients:
            return run_rotations(stack, function, screen, clients=options.clients, times=times)
        return {"rotations": [show_rotation(stack, function, screen) for _ in range(times)]}


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all options; none has a default, so that it can be told which were given."""
    kinds = "\n".join(
        textwrap.fill(f"{name:<21}{one.what}", 78, initial_indent="  ", subsequent_indent=" " * 23)
        for name, one in BREAKAGES.items()
    )
    parser = argparse.ArgumentParser(
        prog="make rotate",
        usage='make rotate ARGS="[OPTIONS]", make local ARGS="[OPTIONS]"',
        description=textwrap.fill(__doc__ or "", 78),
        epilog=f"What can be broken (--break WHAT):\n{kinds}\n\n{textwrap.fill(STATUSES, 78)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--times", type=_positive, metavar="N", help="rotate N times in a row (default: 1)")
    add("--strategy", choices=STRATEGIES, help="whose password changes, and who changes it (default: single-user)")
    add(
        "--clients",
        type=_positive,
        metavar="N",
        help="let N applications log in meanwhile as examples/ shows, and N without its fallback; count what they see",
    )
    add("--logs", action="store_true", default=None, help="show the function's log lines, on standard error")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--serve", action="store_true", help="keep both servers running until Ctrl-C, as make local does")
    mode.add_argument(
        "--break",
        dest="breakage",
        choices=BREAKAGES,
        metavar="WHAT",
        help="start broken; show what a preflight finds, what a rotation ends in, and that its hint helps",
    )
    mode.add_argument(
        "--chaos", type=_positive, metavar="N", help="rotate N times while processes are killed and connections break"
    )
    mode.add_argument("--fleet", type=_positive, metavar="N", help="rotate N secrets, several at the same time")
    add(
        "--bind",
        type=_address,
        metavar="ADDRESS",
        help="serve there as well (default: where containers find this machine)",
    )
    add("--seed", type=int, metavar="N", help="repeat a run of --chaos, which prints its seed")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    form.add_argument("--quiet", action="store_true", help="print errors only")
    add("--version", action="version", version=__version__)
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program, with the status of wrong options, where one would have no effect."""
    modes = {
        "--serve": options.serve,
        "--break": options.breakage,
        "--chaos": options.chaos,
        "--fleet": options.fleet,
    }
    mode = next((name for name, chosen in modes.items() if chosen), "")
    for name in sorted(set().union(*TAKEN.values()) - TAKEN[mode]):
        if getattr(options, name.removeprefix("--")) is not None:
            users = " and ".join(user for user, taken in TAKEN.items() if user and name in taken)
            parser.error(f"{name} has no effect with {mode}" if mode else f"{name} has an effect with {users} only")


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a positive integer")
    return int(text)


def _address(text: str) -> str:
    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    run(main)
