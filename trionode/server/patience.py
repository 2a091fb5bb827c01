"""How long a client may take: at least so many bytes in so many seconds that are waited for it.

What counts is what the client has acknowledged, and not what fits into the kernel's buffer: that holds megabytes, which
a slow but honest client may need a minute for, while the socket takes nothing more all that time.
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
"""2 kB/s: a tablet at the edge of the network's reach gets its package, and who reads a byte now and then is cut."""

LAST_SECONDS = 3.0
"""What a client may take to take anything at all, once the server wants to end."""

LOOK_SECONDS = 0.5
"""How often somebody who waits for a client looks whether the limits have changed."""


class Patience:
    """The limit: a client takes `bytes` in each `seconds`, or is cut off. May be changed while clients are served."""

    def __init__(self, seconds: float = DEFAULT_SECONDS, bytes: int = DEFAULT_BYTES) -> None:  # noqa: A002 - its unit
        self.set(seconds, bytes)
        self._ending = False
        self._waits: set[trio.CancelScope] = set()

    def set(self, seconds: float, bytes: int) -> None:  # noqa: A002 - its unit
        """Change the limit."""
        self._seconds = seconds
        self._bytes = max(1, bytes)

    @property
    def seconds(self) -> float:
        """The time a client has."""
        return min(self._seconds, LAST_SECONDS) if self._ending else self._seconds

    @property
    def bytes(self) -> int:
        """What it must take in that time: when the server wants to end, anything at all."""
        return 1 if self._ending else self._bytes

    @property
    def piece_bytes(self) -> int:
        """How much may be handed over at a time where nobody can tell how much of it has gone."""
        return self._bytes

    def begin_ending(self) -> None:
        """Let no client that has stopped reading delay the end; who takes something goes on."""
        self._ending = True
        for scope in self._waits:
            scope.deadline = min(scope.deadline, trio.current_time() + self.seconds)

    @contextmanager
    def for_piece(self) -> Iterator[None]:
        """Bound the handing over of one piece of `piece_bytes` at most. Raises `TooSlowError`."""
        with trio.fail_after(self.seconds) as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)


class Progress:
    """Waits for one client's socket to take more. Time spent on anything else does not count against the client."""

    def __init__(self, socket: trio.socket.SocketType, patience: Patience) -> None:
        self._socket = socket
        self._patience = patience
        self._waited = 0.0
        self._pushed = 0
        self._queued: int | None = None

    def pushed(self, size: int) -> None:
        """Count bytes that the kernel has taken."""
        self._pushed += size

    async def wait_writable(self) -> None:
        """Wait until the socket takes more bytes. Raises `TooSlowError` when the client has taken too few for long."""
        if self._queued is None:
            self._queued, self._pushed = _unacknowledged(self._socket), 0
        ready = False
        while not ready:
            began = trio.current_time()
            with trio.move_on_after(min(LOOK_SECONDS, max(0.0, self._patience.seconds - self._waited))):
                await trio.lowlevel.wait_writable(self._socket)
                ready = True
            self._waited += trio.current_time() - began
            if self._waited >= self._patience.seconds:
                self._judge()

    def _judge(self) -> None:
        """Look back on a period of waiting that is over, and begin the next."""
        assert self._queued is not None
        queued = _unacknowledged(self._socket)
        offered = self._queued + self._pushed
        # A client that has taken all there was is not slow, however little that was.
        if offered - queued < min(self._patience.bytes, offered):
            raise trio.TooSlowError
        self._waited, self._pushed, self._queued = 0.0, 0, queued


def _unacknowledged(socket: trio.socket.SocketType) -> int:
    """Return how many bytes are in the socket's send buffer (SIOCOUTQ: on TCP, those not yet acknowledged)."""
    try:
        found: int = struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    except (OSError, ValueError) as error:  # closed meanwhile
        raise trio.ClosedResourceError from error
    return found
