"""Waiting for libpq with an end, in time and in bytes: what a stalled or hostile server can cost."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import contextmanager
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_DATA, getpagesize, getrlimit, setrlimit
from select import select
from threading import Lock
from typing import TYPE_CHECKING

from psycopg2 import OperationalError
from psycopg2.extensions import POLL_OK, POLL_READ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

MOST_BYTES = 1024 * 1024
"""What a server may send over one connection; an honest one sends some kilobytes. libpq has no limit below 1 GB."""

MOST_MEMORY = 16 * 1024 * 1024
"""What one read may allocate: libpq makes room for a long message at once, and reads until there is no more."""

_ONE_AT_A_TIME = Lock()  # the limit is the process's: a second thread would take the first one's for the usual one
_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux, which Lambda runs on; elsewhere bytes are not counted
_STATM = Path("/proc/self/statm")  # proc_pid_statm(5)
_BYTES_RECEIVED = 128  # where struct tcp_info has tcpi_bytes_received (linux/tcp.h; since Linux 4.1)


def wait(connection: Connection, seconds: float) -> None:
    """Return when the asynchronous connection has done what it was asked.

    libpq's own waiting has no end (connect_timeout covers the login alone), so a stalled network would hold the step
    until Lambda kills it; and it keeps whatever it is sent: rows, notifications, parameters, one endless message.
    Raises TimeoutError, with the seconds, if that takes longer, and OperationalError past MOST_BYTES or MOST_MEMORY.
    """
    end = time.monotonic() + seconds
    while True:
        with _limited_memory():
            state = connection.poll()
        if _received(connection.fileno()) > MOST_BYTES:
            raise OperationalError(f"the server sent more than {MOST_BYTES >> 10} KB")
        if state == POLL_OK:
            return
        descriptor, left = [connection.fileno()], end - time.monotonic()
        wanted = (descriptor, []) if state == POLL_READ else ([], descriptor)
        if left <= 0 or not any(select(*wanted, [], left)):
            raise TimeoutError(f"{seconds:.1f}")


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let the process allocate no more than MOST_MEMORY meanwhile."""
    if _TCP_INFO is None:
        yield
        return
    with _ONE_AT_A_TIME:
        soft, hard = getrlimit(RLIMIT_DATA)
        used = int(_STATM.read_bytes().split()[5]) * getpagesize()
        most = used + MOST_MEMORY
        setrlimit(RLIMIT_DATA, (most if soft == RLIM_INFINITY else min(soft, most), hard))
        try:
            yield
        finally:
            setrlimit(RLIMIT_DATA, (soft, hard))


def _received(descriptor: int) -> int:
    if _TCP_INFO is None:
        return 0
    with socket.socket(fileno=os.dup(descriptor)) as tcp:
        info = tcp.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED + 8)
    return int(struct.unpack_from("Q", info, _BYTES_RECEIVED)[0])
