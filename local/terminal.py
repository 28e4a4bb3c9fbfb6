"""How a command speaks: at the width and in the colours of a terminal, in a pipe, in JSON; and how it ends."""

from __future__ import annotations

import codecs
import io
import json
import os
import signal
import sys
import textwrap
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from local import CannotRunError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FAILED = StoppedError.status
STATUSES = (
    "Exit status: 0 as it should be; 1 a rotation failed, or something else came out otherwise than promised; "
    "2 wrong options; 3 this machine lacks something that is needed; 128 and the signal's number where it was "
    "interrupted. Started by make, each of them but 0 becomes 2."
)
_ASCII = str.maketrans({"→": "->", "…": "...", "━": "-"})


class _Console(Console):
    """Leaves to run() what becomes of a reader who has seen enough: rich would end the program with status 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Say what rich was told."""
        raise BrokenPipeError


class Screen:
    """Where a command writes: sentences and rows for people, or, with --json, one object instead of all that.

    Whatever changes while it is shown (a spinner, a bar, counts) is on the same console as the lines, so that neither
    overwrites the other: lines that the function logs meanwhile go through log().
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.out = _Console(file=sys.stdout, highlight=False, soft_wrap=True, emoji=False)
        errors = _Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False)
        self.live = self.out if self.out.is_terminal and not as_json else errors

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal, and the user wants to see something there."""
        return self.live.is_terminal and not self.quiet

    @property
    def width(self) -> int:
        """How long a line may be; in a pipe a sentence stays one line."""
        return self.out.width if self.out.is_terminal else sys.maxsize

    def say(self, text: str = "", *, style: str | None = None, indent: str = "") -> None:
        """Write a sentence, wrapped at words."""
        if self.as_json or self.quiet:
            return
        lines = textwrap.wrap(
            text, self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        self.row("\n".join(lines), style=style)

    def row(self, text: str, *, style: str | None = None) -> None:
        """Write a line as it is."""
        if not (self.as_json or self.quiet):
            self.out.print(text, markup=False, style=style)

    def result(self, result: Mapping[str, object]) -> None:
        """Write what came of it, if --json asks for it."""
        if self.as_json:
            self.out.print(json.dumps(result, indent=2, default=str), markup=False)

    def complain(self, text: str) -> None:
        """Write an error, which --quiet does not silence, to standard error."""
        width = self.live.width if sys.stderr.isatty() else sys.maxsize
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        sys.stderr.write("\n".join(lines) + "\n")

    def log(self) -> io.TextIOBase:
        """Return standard error for another writer, whose lines leave alone what is shown on the same terminal."""
        return _Lines(self.live) if sys.stderr.isatty() and self.live.is_terminal else sys.stderr  # type: ignore[return-value]

    @contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show on a terminal that something goes on, and since when; yields what replaces the text."""
        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.live, transient=True, disable=not self.shows_progress) as progress:
            task = progress.add_task(text, total=None)
            yield lambda text: progress.update(task, description=text)


class _Lines(io.TextIOBase):
    """A file whose lines a console prints."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def write(self, text: str) -> int:
        """Print what is no empty rest of a line."""
        if text.strip():
            self.console.print(text.rstrip("\n"), markup=False)
        return len(text)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command to its end, and leave with its exit status; what a person can get wrong ends in a sentence.

    A reader who has seen enough (`| head`) is no error.
    """
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as we run
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="plain")
    try:
        try:
            status = main()
        except SystemExit as ended:
            status = ended.code  # type: ignore[assignment]
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        status = error.status
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
        status = CannotRunError.status
    sys.exit(status)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Put ASCII in place of what an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return error.object[error.start : error.end].translate(_ASCII).encode("ascii", "replace").decode(), error.end
