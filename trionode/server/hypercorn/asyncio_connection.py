"""A connection of Hypercorn's worker on asyncio, closed without losing the end of the answer.

The worker itself remains Hypercorn's: without zero-copy, and without a minimum data rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed

if TYPE_CHECKING:
    from hypercorn.events import Event


class AsyncioConnection(TCPServer):
    """One client's connection."""

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
