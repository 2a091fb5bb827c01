"""A connection of Hypercorn's worker on asyncio, closed in two steps, by the client and by the server.

The worker itself remains Hypercorn's: without zero-copy, and without a minimum data rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from hypercorn.events import Event


class AsyncioConnection(TCPServer):
    """One client's connection."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reader = _ReaderToTheEnd(self.reader, self.writer)  # type: ignore[assignment]

    async def protocol_send(self, event: Event) -> None:
        """Send as the base class does, but close only the sending side while the client may send more.

        Closed at once, the kernel would discard the end of the answer if the client has sent more than was read. The
        rest is closed when the client closes, or after the idle time. With TLS, asyncio has no sending side to close.
        """
        if not isinstance(event, Closed) or self.reader.at_eof() or not self.writer.can_write_eof():
            await super().protocol_send(event)
        elif not self.writer.is_closing():
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
