"""The minimum data rate of a client, in bytes for each period spent waiting for it.

Acknowledged bytes count, not those that the kernel has buffered: the buffer holds megabytes, for which a slow but
working client may need a minute, while the socket accepts nothing more.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_SECONDS = 30.0
DEFAULT_BYTES = 64 << 10
"""2 kB/s: less than a tablet at the edge of the wireless network takes."""

LAST_SECONDS = 3.0
"""Time in which a client must take at least one byte once the server is ending."""

RECHECK_SECONDS = 0.5
"""Interval at which a wait for a client checks whether the limits have changed."""


class MinDataRate:
    """The limit: a client that takes less than `bytes` in `seconds` is cut off. May change while clients are served."""

    def __init__(self, seconds: float = DEFAULT_SECONDS, bytes: int = DEFAULT_BYTES) -> None:  # noqa: A002 - its unit
        self.configure(seconds, bytes)
        self._ending = False
        self._waits: set[trio.CancelScope] = set()

    def configure(self, seconds: float, bytes: int) -> None:  # noqa: A002 - its unit
        """Change the limit."""
        self._seconds = seconds
        self._bytes = max(1, bytes)

    @property
    def seconds(self) -> float:
        """Length of a period."""
        return min(self._seconds, LAST_SECONDS) if self._ending else self._seconds

    @property
    def bytes(self) -> int:
        """Minimum in a period: one byte once the server is ending."""
        return 1 if self._ending else self._bytes

    @property
    def piece_bytes(self) -> int:
        """Size of the pieces that are sent where acknowledgements are not visible."""
        return self._bytes

    def begin_ending(self) -> None:
        """Shorten the time for clients that have stopped reading; those that take something continue."""
        self._ending = True
        for scope in self._waits:
            scope.deadline = min(scope.deadline, trio.current_time() + self.seconds)

    @contextmanager
    def for_piece(self) -> Iterator[None]:
        """Limit the time of sending one piece of at most `piece_bytes`. Raises `TooSlowError`."""
        with trio.fail_after(self.seconds) as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)


class Progress:
    """Waits until one client's socket accepts more bytes. Only this waiting counts against the client."""

    def __init__(self, socket: trio.socket.SocketType, rate: MinDataRate) -> None:
        self._socket = socket
        self._rate = rate
        self._waited = 0.0
        self._written = 0
        self._queued: int | None = None

    def count_written(self, size: int) -> None:
        """Count bytes that the kernel has accepted."""
        self._written += size

    async def wait_writable(self) -> None:
        """Wait until the socket accepts more bytes. Raises `TooSlowError` for a client below the minimum rate."""
        if self._queued is None:
            self._queued, self._written = _unacknowledged(self._socket), 0
        ready = False
        while not ready:
            began = trio.current_time()
            with trio.move_on_after(min(RECHECK_SECONDS, max(0.0, self._rate.seconds - self._waited))):
                await trio.lowlevel.wait_writable(self._socket)
                ready = True
            self._waited += trio.current_time() - began
            if self._waited >= self._rate.seconds:
                self._end_period()

    def _end_period(self) -> None:
        """Check the period of waiting that is over, and begin the next. Raises `TooSlowError`."""
        assert self._queued is not None
        queued = _unacknowledged(self._socket)
        offered = self._queued + self._written
        # A client that has taken everything is not slow, however little that was.
        if offered - queued < min(self._rate.bytes, offered):
            raise trio.TooSlowError
        self._waited, self._written, self._queued = 0.0, 0, queued


def _unacknowledged(socket: trio.socket.SocketType) -> int:
    """Return how many bytes are in the socket's send buffer (SIOCOUTQ: on TCP, those not yet acknowledged)."""
    try:
        found: int = struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    except (OSError, ValueError) as error:  # closed meanwhile
        raise trio.ClosedResourceError from error
    return found
