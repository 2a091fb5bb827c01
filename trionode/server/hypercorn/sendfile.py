"""Write to a socket: a file without copying it, in fair turns, and with a minimum data rate.

The size of one `sendfile` seems to be a trade-off: large windows are fast, and a small request waits until every ready
download has sent one (measured with 64 downloads: 48 ms at 512 KiB). Turns avoid it: only `TURNS` downloads may send
between two passes of the loop, first come first served, and each gives its turn back after one window. A new request
then waits for a few windows, not for one of every download.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

import trio

from ...page_cache import is_cached, read_into_cache
from .min_data_rate import MinDataRate, Progress

if TYPE_CHECKING:
    from types import TracebackType

WINDOW_BYTES = 512 << 10
"""Largest amount sent in one turn."""

TURNS = 1
"""Downloads that send between two passes of the loop. One large window costs less than two of half its size, and others
wait for it as long (64 downloads, loopback: 0.29 and 0.42 s of processor time for 1 GB; a small request 3 ms)."""

FREE_BYTES = 64 << 10
"""Sent of each answer without a turn: small answers, and the beginning of all others."""


class ShortFile(OSError):
    """A file is shorter than the range to be sent: it was truncated meanwhile."""


class SendTurns:
    """The send turns of a server, first come first served. A context manager for each turn."""

    def __init__(self, turns: int = TURNS) -> None:
        self._free = trio.Semaphore(turns)

    async def __aenter__(self) -> None:
        """Wait for a turn."""
        await self._free.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give the turn back. No checkpoint, so that cancellation cannot keep it."""
        self._free.release()


class VerifiedFile(Protocol):
    """A file whose bytes are verified before they are sent."""

    @property
    def trusted(self) -> bool:
        """Whether the bytes are known to be right. Cheap: read before every window."""
        ...

    async def ensure_trusted(self) -> None:
        """Return when the bytes are known to be right. An error ends the sending."""
        ...

    def count_sent(self, count: int) -> None:
        """Count bytes that the kernel has accepted."""
        ...


async def send_file(
    socket: trio.socket.SocketType,
    fd: int,
    offset: int,
    count: int,
    turns: SendTurns,
    *,
    already_sent: int = 0,
    verified: VerifiedFile | None = None,
    rate: MinDataRate | None = None,
) -> None:
    """Send `count` bytes of `fd` from `offset` on; the descriptor's own position is neither used nor moved.

    `already_sent` are the bytes of this answer sent before. `verified` is checked before each window. Raises its
    errors, `BrokenResourceError` (the client is gone), `TooSlowError` (below the minimum data rate) or `ShortFile`.
    When cancelled, part of the range was sent.
    """
    progress = Progress(socket, rate or MinDataRate())
    end = offset + count
    cached_until = -1  # as of the last probe
    free = offset + max(0, FREE_BYTES - already_sent)
    while offset < end:
        window = min(WINDOW_BYTES, end - offset)
        if cached_until < offset + window:
            # The kernel reads ahead in order: behind what was cached, probing the last page is enough.
            first = offset if cached_until < offset else offset + window - 1
            if not is_cached(fd, first, offset + window - first):
                await read_into_cache(fd, offset, window)
            cached_until = offset + window
        if offset < free:
            window = min(window, free - offset)
            await trio.lowlevel.checkpoint()
            sent = _send_verified(socket, fd, offset, window, verified)
        else:
            async with turns:
                sent = _send_verified(socket, fd, offset, window, verified)
        if sent < 0:
            assert verified is not None
            await verified.ensure_trusted()  # without holding a turn: hashing may take long
            continue
        offset += sent
        progress.count_written(sent)
        if sent < window:
            await progress.wait_writable()
            cached_until = -1  # the pages may be gone after a long wait


async def send_copied(
    stream: trio.abc.SendStream,
    fd: int,
    offset: int,
    count: int,
    turns: SendTurns,
    *,
    piece: int,
    already_sent: int = 0,
    verified: VerifiedFile | None = None,
) -> None:
    """Send as `send_file` does, through a stream that encrypts: the file is read in pieces of `piece` bytes.

    A piece should still be in the processor's cache when it is encrypted. The stream enforces the minimum data rate.
    """
    end = offset + count
    free = offset + max(0, FREE_BYTES - already_sent)
    while offset < end:
        window = min(piece, end - offset)
        if offset >= free:
            # The turn only orders the encryption, which follows at once: sending waits for the client.
            async with turns:
                pass
        if not is_cached(fd, offset, window):
            await read_into_cache(fd, offset, window)
        data = os.pread(fd, window, offset)
        if verified is not None and not verified.trusted:
            await verified.ensure_trusted()
            continue
        if len(data) < window:
            raise ShortFile(f"the file ends at {offset + len(data)}")
        await stream.send_all(data)
        offset += window
        if verified is not None:
            verified.count_sent(window)


def _send_verified(
    socket: trio.socket.SocketType, fd: int, offset: int, window: int, verified: VerifiedFile | None
) -> int:
    """Return as `_send_some`, or -1 without sending if the bytes are not known to be right."""
    if verified is None:
        return _send_some(socket, fd, offset, window)
    if not verified.trusted:
        return -1
    sent = _send_some(socket, fd, offset, window)
    verified.count_sent(sent)
    return sent


def _send_some(socket: trio.socket.SocketType, fd: int, offset: int, window: int) -> int:
    """Send as much of a window as the socket accepts, and return the number of bytes, perhaps 0."""
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
            raise  # the disk failed, not the client
        raise trio.BrokenResourceError from error
    return sent


async def send_bytes(
    stream: trio.SocketStream, data: bytes | bytearray | memoryview, rate: MinDataRate | None = None
) -> None:
    """Write all of `data`. Errors as `send_file`."""
    await trio.lowlevel.checkpoint()
    progress = Progress(stream.socket, rate or MinDataRate())
    view = memoryview(data)
    while view:
        try:
            sent = os.write(stream.socket.fileno(), view)
        except BlockingIOError:
            await progress.wait_writable()
        except OSError as error:
            raise trio.BrokenResourceError from error
        else:
            progress.count_written(sent)
            view = view[sent:]
