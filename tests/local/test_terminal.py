"""Commands write what fits where it is read, and end in a status and a sentence instead of a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from local import StoppedError, terminal
from local.servers.installation import NotInstalledError
from local.servers.postgres import PortTakenError
from local.terminal import Screen
from tests import ROOT
from tests.worlds.terminals import terminal as open_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

SENTENCE = (
    "A sentence that has more words than a line of eighty columns has room for, wherever it is shown to a reader."
)


def test_a_terminal_gets_lines_that_end_at_words() -> None:
    with open_terminal(40) as shown, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        patch.setattr(sys, "stdout", shown.file)
        Screen().say(SENTENCE, indent="  ")
    assert [line.strip() for line in shown.shown.splitlines()] == [
        "A sentence that has more words than a",
        "line of eighty columns has room for,",
        "wherever it is shown to a reader.",
    ]


def test_a_pipe_gets_one_line_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say(SENTENCE, style="bold red")
    assert capsys.readouterr().out == f"{SENTENCE}\n"


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_colours_where_it_has_them(variables: dict[str, str], coloured: bool) -> None:  # noqa: FBT001
    with open_terminal() as shown, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", shown.file)
        Screen().row("failed", style="red")
    assert shown.shown == ("\x1b[31mfailed\x1b[0m\n" if coloured else "failed\n")


def test_json_comes_instead_of_the_text_and_quiet_lets_errors_through(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("text")
    screen.result({"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    screen = Screen(quiet=True)
    screen.row("text")
    screen.result({"a": 1})
    screen.complain("It failed.")
    assert capsys.readouterr() == ("", "It failed.\n")


def test_what_the_function_logs_stands_above_what_is_waited_for() -> None:
    """Two writers on one terminal: each line of the log is whole, and none is overwritten."""
    lines = [f'{{"line": {number}}}' for number in range(20)]
    with open_terminal() as shown, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", shown.file)
        patch.setattr(sys, "stderr", shown.file)
        screen = Screen()
        log = screen.log()
        with screen.waiting("setSecret") as tell:
            for line in lines:
                log.write(f"{line}\n")
            tell("setSecret: no answer yet")
    assert "setSecret: no answer yet" in shown.shown
    visible = re.sub(r"\x1b\[\d*K", "", shown.shown)
    assert [
        line for line in re.split(r"[\r\n]|\x1b\[\d*A", re.sub(r"\x1b\[[\d;?]*[a-zJl]", "", visible)) if line in lines
    ] == lines


def test_what_is_waited_for_is_not_shown_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().waiting("Starting") as tell:
        tell("Started")
    assert Screen().log() is sys.stderr
    assert capsys.readouterr() == ("", "")


def ends(program: Callable[[], int]) -> object:
    with pytest.raises(SystemExit) as ended:
        terminal.run(program)
    return ended.value.code


class TestRun:
    @pytest.mark.parametrize(
        ("error", "status", "said"),
        [
            (NotInstalledError("PgBouncer is not on this machine."), 3, "PgBouncer is not on this machine.\n"),
            (PortTakenError("PostgreSQL 17 did not start"), 3, "PostgreSQL 17 did not start\n"),
            (StoppedError("No local stack is running."), 1, "No local stack is running.\n"),
            (PermissionError(13, "Permission denied", "/nowhere"), 3, "Permission denied: /nowhere\n"),
            (OSError("no space"), 3, "no space\n"),
            (KeyboardInterrupt(), 130, ""),
        ],
    )
    def test_says_in_a_sentence_what_a_person_can_get_wrong(
        self, error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def program() -> int:
            raise error

        assert ends(program) == status
        assert capsys.readouterr().err == said

    def test_does_not_hide_a_fault_of_its_own(self) -> None:
        with pytest.raises(KeyError):
            terminal.run(lambda: int(os.environ["MISSING"]))

    @pytest.mark.parametrize("status", [0, 1])
    def test_ends_with_the_status_of_the_command(self, status: int) -> None:
        assert ends(lambda: status) == status


WRITERS = {
    "at-once": "main = lambda: [print('line', flush=True) for _ in range(9)] and 0",
    "at-the-end": "main = lambda: print('line') or 0",
    "before-it-exits": "import sys; main = lambda: print('line') or sys.exit(0)",
    "by-rich": "main = lambda: [terminal.Screen().say('A sentence.') for _ in range(9)] and 0",
}


@pytest.mark.parametrize("program", WRITERS.values(), ids=WRITERS)
def test_a_reader_who_has_seen_enough_is_no_fault(program: str) -> None:
    """As `make bundle | head -n 1`, where head has gone before anything is written: who is quicker, is no matter."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", f"from local import terminal; {program}; terminal.run(main)"]
    ended = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ended.stderr, ended.returncode) == (b"", 0)


def test_a_stream_that_is_closed_is_no_fault() -> None:
    program = "from local import terminal; terminal.run(lambda: print('shown') or terminal.Screen().say('told') or 0)"
    command = ["/bin/sh", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable, program]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_every_command_ends_by_run() -> None:
    """What a person starts: its mistakes end in a sentence, and its pipes as they are."""
    commands = [file for file in (ROOT / "local").glob("*.py") if "__main__" in file.read_text()]
    assert {file.stem for file in commands} >= {"__main__", "bundle", "events", "package", "pages", "release"}
    assert [file.stem for file in commands if not file.read_text().endswith("\n    run(main)\n")] == []


def test_what_ascii_lacks_is_written_with_what_it_has() -> None:
    program = "from local import terminal; terminal.run(lambda: print('→ … é') or 0)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("-> ... ?\n", "")
