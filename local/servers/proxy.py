"""A TCP proxy between the function and a server, which cuts, stalls and delays what passes at any byte."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from select import select
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Direction = Literal["ask", "answer"]


@dataclass(slots=True)
class Passage:
    """What passes next: `data` of one direction of the connection of that number, from the byte `position` on.

    `turn` counts, over all connections, how often one side has begun to speak after the other.
    """

    connection: int
    direction: Direction
    position: int
    turn: int
    data: bytes


class Cut(Exception):  # noqa: N818 - what is done, not what went wrong
    """Raised by a rule: pass on only so many bytes, and then reset the connection on both sides."""

    def __init__(self, after: int = 0) -> None:
        super().__init__(after)
        self.after = after


class Stall(Cut):
    """Raised by a rule: pass on only so many bytes, and then nothing more; the connection stays open."""


Rule = Callable[[Passage], None]
"""Sees what is about to pass, and lets it pass by returning, at once or later; or raises Cut or Stall."""


@dataclass(slots=True)
class Proxy:
    """A proxy at 127.0.0.1:`port`. Its `rule` can be changed at any time; None lets everything pass."""

    target: tuple[str, int]
    rule: Rule | None = None
    port: int = 0
    turns: int = 0
    connections: int = 0
    _threads: list[Thread] = field(default_factory=list, repr=False)
    _over: Event = field(default_factory=Event, repr=False)

    def _serve(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = Thread(target=self._carry, args=(client, self.connections), name="proxy", daemon=True)
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _carry(self, client: socket.socket, number: int) -> None:
        with client, suppress(OSError), socket.create_connection(self.target) as server:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            passed = dict.fromkeys(("ask", "answer"), 0)
            speaks: Direction | None = None
            while not self._over.is_set():
                for source in select([client, server], [], [], 0.2)[0]:
                    direction: Direction = "ask" if source is client else "answer"
                    sink = server if source is client else client
                    data = source.recv(65536)
                    if not data:
                        return
                    if speaks != direction:
                        speaks = direction
                        self.turns += 1
                    try:
                        if self.rule:
                            self.rule(Passage(number, direction, passed[direction], self.turns, data))
                    except Cut as cut:
                        sink.sendall(data[: cut.after])
                        if isinstance(cut, Stall):
                            self._hold(client)
                        _reset(client, server)
                        return
                    passed[direction] += len(data)
                    sink.sendall(data)

    def _hold(self, client: socket.socket) -> None:
        """Keep silent until the client gives up."""
        while not self._over.is_set():
            if select([client], [], [], 0.1)[0] and not client.recv(65536):
                return


def _reset(*sockets: socket.socket) -> None:
    """Have them closed by RST instead of FIN, so that the other side sees an error and not an end."""
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def run_proxy(host: str, port: int, rule: Rule | None = None) -> Iterator[Proxy]:
    """Run a proxy before host:port; afterwards it has ended every connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        proxy = Proxy((host, port), rule, listener.getsockname()[1])
        thread = Thread(target=proxy._serve, args=(listener,), name="proxy", daemon=True)  # noqa: SLF001
        thread.start()
        try:
            yield proxy
        finally:
            proxy._over.set()  # noqa: SLF001
            listener.shutdown(socket.SHUT_RDWR)
            for one in (thread, *proxy._threads):  # noqa: SLF001
                one.join(5)


def cut_at(direction: Direction, position: int, how: type[Cut] = Cut) -> Rule:
    """Return the rule that cuts (or stalls) every connection once so many bytes have passed in the direction."""

    def rule(passage: Passage) -> None:
        if passage.direction == direction and passage.position + len(passage.data) > position:
            raise how(max(0, position - passage.position))

    return rule


def delay(seconds: float) -> Rule:
    """Return the rule that lets everything pass so much later."""
    return lambda _: time.sleep(seconds)
