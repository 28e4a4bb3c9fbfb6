"""No option is dropped silently, and each mistake is named."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from local.__main__ import TAKEN, main
from local.breakages import BREAKAGES
from local.servers.installation import NotInstalledError
from local.servers.stack import STRATEGIES
from rotation_lambda import __version__

VALUES = {
    "--times": "--times 2",
    "--strategy": "--strategy superuser",
    "--clients": "--clients 2",
    "--logs": "--logs",
    "--bind": "--bind 127.0.0.1",
    "--seed": "--seed 1",
}
MODES = {"": "", "--serve": "--serve", "--break": "--break dns", "--chaos": "--chaos 2", "--fleet": "--fleet 2"}
USELESS = [
    (f"{MODES[mode]} {VALUES[name]}", f"{name} has no effect with {mode}" if mode else f"{name} has an effect with ")
    for mode, name in itertools.product(MODES, VALUES)
    if name not in TAKEN[mode]
]


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_option_and_every_mode_is_looked_at() -> None:
    assert TAKEN.keys() == MODES.keys()
    assert set().union(*TAKEN.values()) == VALUES.keys()


@pytest.mark.parametrize(("arguments", "complaint"), USELESS)
def test_an_option_without_an_effect_is_refused(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(arguments, capsys).startswith(f"make rotate: error: {complaint}")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--clients 0", "argument --clients: '0' is not a positive integer"),
        ("--clients -1", "argument --clients: '-1' is not a positive integer"),
        ("--times many", "argument --times: 'many' is not a positive integer"),
        ("--chaos 0", "argument --chaos: '0' is not a positive integer"),
        ("--seed x --chaos 1", "argument --seed: invalid int value: 'x'"),
        ("--strategy auto", "argument --strategy: invalid choice: 'auto'"),
        ("--break everything", "argument --break: invalid choice: 'everything'"),
        ("--json --quiet", "argument --quiet: not allowed with argument --json"),
        ("--serve --chaos 3", "argument --chaos: not allowed with argument --serve"),
        ("--break dns --chaos 3", "argument --chaos: not allowed with argument --break"),
        ("--serve --bind nonsense", "argument --bind: 'nonsense' is not an IPv4 address"),
        ("--serve --bind ::1", "argument --bind: '::1' is not an IPv4 address"),
        ("--serve --bind 192.0.2.1", "argument --bind: this machine cannot listen on 192.0.2.1: "),
        ("rotate", "unrecognized arguments: rotate"),
    ],
)
def test_what_makes_no_sense_is_named(arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(arguments, capsys).startswith(f"make rotate: error: {complaint}")


def test_help_has_every_option_breakage_and_status_in_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    told = " ".join(text.split())
    assert f"--strategy {{{','.join(STRATEGIES)}}}" in told
    assert all(f"{name} {one.what}" in told for name, one in BREAKAGES.items())
    assert "Exit status: 0 as it should be; 1 " in told
    assert {*VALUES, "--json", "--quiet", "--version"} <= set(told.replace("[", " ").split())


def test_the_version_is_the_functions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")


@pytest.mark.parametrize(("name", "package"), [("pooler", "pgbouncer"), ("credcheck", "postgresql-17-credcheck")])
def test_a_demonstration_says_what_to_install(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = BREAKAGES[name].part
    assert part is not None
    monkeypatch.setitem(BREAKAGES, name, replace(BREAKAGES[name], part=replace(part, file=None)))
    with pytest.raises(NotInstalledError, match=f"is not on this machine. Install it: `apt-get install {package}`"):
        main(["--break", name])
