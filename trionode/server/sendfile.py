"""Writing to a socket: a file's bytes without a copy, in fair turns, and never for ever.

How much one `sendfile` may send looks like a trade: large windows are fast, and a small request waits until every
ready download has sent one (measured with 64 downloads: 48 ms at 512 KiB). Turns remove it: of all downloads only
`TURNS` may send between two rounds of the loop, in the order they came, and each gives its turn back after one window.
A newcomer then waits for a few windows, and not for every other download.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

import trio

from ..pages import bring_in, in_memory
from .patience import Patience, Progress

if TYPE_CHECKING:
    from types import TracebackType

WINDOW_BYTES = 512 << 10
"""What one turn sends at most."""

TURNS = 1
"""How many send between two rounds of the loop. One large window costs less than two of half its size, and others wait
for it as long (64 downloads, loopback: 0.29 and 0.42 s of processor time for 1 GB; a small request 3 ms both times)."""

FREE_BYTES = 64 << 10
"""What each answer sends without waiting for a turn: small answers, and the beginning of every other."""


class ShortFile(OSError):
    """A file ended before the bytes that were promised of it: it was cut while it was sent."""


class SendTurns:
    """The turns of one process: first come, first served. A context manager for each turn."""

    def __init__(self, turns: int = TURNS) -> None:
        self._free = trio.Semaphore(turns)

    async def __aenter__(self) -> None:
        """Wait for a turn."""
        await self._free.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give it back. No checkpoint: it must not be kept by one that is cancelled."""
        self._free.release()


class Checked(Protocol):
    """Tells whether a file's bytes are right, makes them right, and is told how many of them went out."""

    @property
    def trusted(self) -> bool:
        """Whether they are right now. Cheap: asked before every window."""
        ...

    async def ready(self) -> None:
        """Return once they are right. What it raises ends the sending."""
        ...

    def moved(self, count: int) -> None:
        """Take note that the kernel has taken that many more."""
        ...


async def send_file(
    socket: trio.socket.SocketType,
    fd: int,
    offset: int,
    count: int,
    turns: SendTurns,
    *,
    already_sent: int = 0,
    checked: Checked | None = None,
    patience: Patience | None = None,
) -> None:
    """Send `count` bytes of `fd` from `offset` on; the descriptor's own position is neither used nor moved.

    `already_sent` is what this answer has sent before. `checked` is asked before each window goes out, and what it
    raises ends the sending. Raises `BrokenResourceError` (the client is gone), `TooSlowError` (it takes too
    little for `patience`) or `ShortFile`. Cancelled, it has sent part of it.
    """
    progress = Progress(socket, patience or Patience())
    end = offset + count
    looked = -1  # up to here all was in memory, a moment ago
    free = offset + max(0, FREE_BYTES - already_sent)
    while offset < end:
        window = min(WINDOW_BYTES, end - offset)
        if looked < offset + window:
            # Behind what was there, the kernel has read on in order: then the last page tells for all.
            first = offset if looked < offset else offset + window - 1
            if not in_memory(fd, first, offset + window - first):
                await bring_in(fd, offset, window)
            looked = offset + window
        if offset < free:
            window = min(window, free - offset)
            await trio.lowlevel.checkpoint()
            sent = _send_checked(socket, fd, offset, window, checked)
        else:
            async with turns:
                sent = _send_checked(socket, fd, offset, window, checked)
        if sent < 0:
            assert checked is not None
            await checked.ready()  # without a turn: it may take long
            continue
        offset += sent
        progress.pushed(sent)
        if sent < window:
            await progress.wait_writable()
            looked = -1  # that may have taken long


async def send_copied(
    stream: trio.abc.SendStream,
    fd: int,
    offset: int,
    count: int,
    turns: SendTurns,
    *,
    piece: int,
    already_sent: int = 0,
    checked: Checked | None = None,
) -> None:
    """Send as `send_file` does, through a stream that has to see the bytes, such as TLS: read in pieces of that size.

    A piece is small enough to be still in the processor's cache when it is encrypted. Patience is the stream's own.
    """
    end = offset + count
    free = offset + max(0, FREE_BYTES - already_sent)
    while offset < end:
        window = min(piece, end - offset)
        if offset >= free:
            # A turn only to begin with: the piece is encrypted at once, and then waits for its client.
            async with turns:
                pass
        if not in_memory(fd, offset, window):
            await bring_in(fd, offset, window)
        data = os.pread(fd, window, offset)
        if checked is not None and not checked.trusted:
            await checked.ready()
            continue
        if len(data) < window:
            raise ShortFile(f"the file ends at {offset + len(data)}")
        await stream.send_all(data)
        offset += window
        if checked is not None:
            checked.moved(window)


def _send_checked(socket: trio.socket.SocketType, fd: int, offset: int, window: int, checked: Checked | None) -> int:
    """Do as `_send_some`, or send nothing and return -1 when the bytes are not known to be right."""
    if checked is None:
        return _send_some(socket, fd, offset, window)
    if not checked.trusted:
        return -1
    sent = _send_some(socket, fd, offset, window)
    checked.moved(sent)
    return sent


def _send_some(socket: trio.socket.SocketType, fd: int, offset: int, window: int) -> int:
    """Send what the socket takes of a window; return how much that was, 0 if it takes nothing now."""
    sent = 0
    try:
        while sent < window:
            moved = os.sendfile(socket.fileno(), fd, offset + sent, window - sent)
            if moved == 0:
                raise ShortFile(f"the file ends at {offset + sent}")
            sent += moved
    except BlockingIOError:
        pass
    except OSError as error:
        if isinstance(error, ShortFile) or error.errno == errno.EIO:
            raise  # the disk's fault, and not the client's
        raise trio.BrokenResourceError from error
    return sent


async def send_bytes(
    stream: trio.SocketStream, data: bytes | bytearray | memoryview, patience: Patience | None = None
) -> None:
    """Write `data` whole. Errors as `send_file`."""
    await trio.lowlevel.checkpoint()
    progress = Progress(stream.socket, patience or Patience())
    view = memoryview(data)
    while view:
        try:
            sent = os.write(stream.socket.fileno(), view)
        except BlockingIOError:
            await progress.wait_writable()
        except OSError as error:
            raise trio.BrokenResourceError from error
        else:
            progress.pushed(sent)
            view = view[sent:]
