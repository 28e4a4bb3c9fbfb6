"""Terminals for programs that look whether they write to one: a real one, of so many columns, and what it shows."""

from __future__ import annotations

import os
import pty
import struct
import termios
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import ioctl
from threading import Thread
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Terminal:
    """A terminal; `file` is what a program writes to, and `shown` what it wrote, once the block is over."""

    file: TextIO
    shown: str = ""
    _parts: list[bytes] = field(default_factory=list)

    def _read(self, primary: int) -> None:
        while True:
            try:
                part = os.read(primary, 65536)
            except OSError:  # Linux says so where the other side is closed
                return
            if not part:
                return
            self._parts.append(part)


@contextmanager
def terminal(columns: int = 80, encoding: str = "utf-8") -> Iterator[Terminal]:
    """Open a terminal for this process or its children; afterwards all that was written to it has been read."""
    primary, secondary = pty.openpty()
    ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(secondary, "w", encoding=encoding) as file:  # noqa: PTH123 - a descriptor
        one = Terminal(file)
        reader = Thread(target=one._read, args=(primary,))
        reader.start()
        yield one
    reader.join(30)
    os.close(primary)
    one.shown = b"".join(one._parts).decode().replace("\r\n", "\n")
