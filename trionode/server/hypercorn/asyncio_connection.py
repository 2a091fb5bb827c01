"""A connection of Hypercorn's worker on asyncio, closed in two steps, by the client and by the server.

The worker itself remains Hypercorn's: without zero-copy, and without a minimum data rate.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import structlog
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed

from .limits import WARN_SECONDS
from .refusal import LINGER_SECONDS, REFUSAL

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from hypercorn.events import Event

    from .limits import ConnectionLimits


ACCEPT_FAILED = "socket.accept() out of system resource"
"""How asyncio reports that no file can be opened for a connection. It tries again after a second."""

_log = structlog.get_logger("trionode.server")


def log_failed_accepts_once_a_minute(loop: asyncio.AbstractEventLoop) -> None:
    """Log one line for connections that cannot be accepted; asyncio logs a traceback for each.

    It accepts a hundred connections before the first of them can be refused, and so may reach the limit of open files.
    """
    earlier = loop.get_exception_handler()
    warned_at = -inf

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal warned_at
        if context.get("message") != ACCEPT_FAILED:
            (earlier or type(loop).default_exception_handler)(loop, context)
        elif loop.time() - warned_at >= WARN_SECONDS:
            warned_at = loop.time()
            _log.warning("new connections have to wait: no more files can be opened", why=str(context["exception"]))

    loop.set_exception_handler(handle)


class AsyncioConnection(TCPServer):
    """One client's connection."""

    def __init__(self, limits: ConnectionLimits, *args: Any) -> None:
        super().__init__(*args)
        self._limits = limits
        self.reader = _ReaderToTheEnd(self.reader, self.writer)  # type: ignore[assignment]

    async def run(self) -> None:
        """Serve the connection, or refuse it if there are too many."""
        if not self._limits.try_open():
            await self._refuse()
            return
        try:
            await super().run()
        finally:
            self._limits.close()

    async def _refuse(self) -> None:
        """Answer 503 without reading the request. With TLS only close the connection."""
        with suppress(ConnectionError, TimeoutError), self._limits.lingering() as lingers:
            if self.writer.can_write_eof():
                self.writer.write(REFUSAL)
                self.writer.write_eof()
                async with asyncio.timeout(LINGER_SECONDS):
                    while lingers and await self.reader.read(MAX_RECV):
                        pass
        self.writer.transport.abort()

    async def protocol_send(self, event: Event) -> None:
        """Send as the base class does, but close only the sending side while the client may send more.

        Closed at once, the kernel would discard the end of the answer if the client has sent more than was read. The
        rest is closed when the client closes, or after the idle time. With TLS, asyncio has no sending side to close.
        """
        if not isinstance(event, Closed) or self.reader.at_eof() or not self.writer.can_write_eof():
            await super().protocol_send(event)
        elif not self.writer.is_closing():
            with suppress(OSError):  # the client has reset the connection, and the loop does not know it yet
                self.writer.write_eof()
            await self.protocol.handle(event)
            await self.idle_task.restart(self._task_group, self._idle_timeout)

    async def _read_data(self) -> None:
        """Read until the client closes, then end the idle time.

        The base class keeps the connection, and its descriptor, until the idle timeout (5 s).
        """
        await super()._read_data()
        await self.idle_task.stop()


class _ReaderToTheEnd:
    """A reader that is at its end once the end was read, so that Hypercorn reports it before it ends the connection."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ended = False

    def at_eof(self) -> bool:
        """Return whether the end was read."""
        return self._ended

    async def read(self, size: int) -> bytes:
        """Read up to `size` bytes, or none at the end. With TLS, asyncio then closes the connection: an error."""
        data = await self._reader.read(size)
        self._ended = not data
        if self._ended and not self._writer.can_write_eof():
            raise ConnectionResetError
        return data
