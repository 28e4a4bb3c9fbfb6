"""Waiting for libpq with an end, in time and in bytes: what a stalled or hostile server can cost."""

from __future__ import annotations

import os
import socket
import struct
import time
from select import select
from typing import TYPE_CHECKING

from psycopg2 import OperationalError
from psycopg2.extensions import POLL_OK, POLL_READ

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever psycopg2 calls it

MOST_BYTES = 1024 * 1024
"""What a server may send over one connection; an honest one sends some kilobytes. libpq has no limit below 1 GB."""

_USUAL_BYTES, _PAUSE_S = 64 * 1024, 0.02
_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux, which Lambda runs on; elsewhere bytes are not counted
_BYTES_RECEIVED = 128  # where struct tcp_info has tcpi_bytes_received (linux/tcp.h; since Linux 4.1)


def wait(connection: Connection, seconds: float) -> None:
    """Return when the asynchronous connection has done what it was asked.

    libpq's own waiting has no end (connect_timeout covers the login alone), so a stalled network would hold the step
    until Lambda kills it; and it keeps whatever it is sent: rows, notifications, parameters, one endless message.
    Raises TimeoutError, with the seconds, if that takes longer, and OperationalError past MOST_BYTES.
    """
    end = time.monotonic() + seconds
    while True:
        _check_flood(connection.fileno())
        if (state := connection.poll()) == POLL_OK:
            return
        descriptor, left = [connection.fileno()], end - time.monotonic()
        wanted = (descriptor, []) if state == POLL_READ else ([], descriptor)
        if left <= 0 or not any(select(*wanted, [], left)):
            raise TimeoutError(f"{seconds:.1f}")


def _check_flood(descriptor: int) -> None:
    """Return while little has come, read or unread; a long message is read in one call for as long as more is there.

    Where it is more than usual, what is under way is let come first, to be counted before it is read.
    """
    if _received(descriptor) <= _USUAL_BYTES:
        return
    time.sleep(_PAUSE_S)
    if _received(descriptor) > MOST_BYTES:
        raise OperationalError(f"the server sent more than {MOST_BYTES >> 10} KB")


def _received(descriptor: int) -> int:
    if _TCP_INFO is None:
        return 0
    with socket.socket(fileno=os.dup(descriptor)) as tcp:
        info = tcp.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED + 8)
    return int(struct.unpack_from("Q", info, _BYTES_RECEIVED)[0])
