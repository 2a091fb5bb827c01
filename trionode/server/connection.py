"""Hypercorn's connection under Trio, mended where a client could hold it for ever.

Hypercorn 0.18 shields every write without a deadline: one reader that stops reading keeps the server from shutting
down (measured: alive 12 s after SIGTERM with a graceful limit of 3 s). Rests on the structure of
`hypercorn.trio.tcp_server`, which is why its version is pinned; a test notices when it changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypercorn.trio.run
import trio
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import TCPServer

if TYPE_CHECKING:
    from hypercorn.events import Event

STALL_SECONDS = 30.0
"""A client that takes nothing of a piece for so long is gone, or might as well be."""

PIECE_BYTES = 64 << 10
"""What must go out within `STALL_SECONDS`: about 2 kB/s is slow, less is dead."""


class Connection(TCPServer):
    """One client's connection. Writes can be cancelled, and give up on a client that has stopped reading."""

    async def protocol_send(self, event: Event) -> None:
        """Write as the base class does, without its shield and with a limit to each piece."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                await self._send_pieces(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await self.protocol.handle(Closed())
                await trio.aclose_forcefully(self.stream)

    async def _send_pieces(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            with trio.fail_after(STALL_SECONDS):
                await self.stream.send_all(view[start : start + PIECE_BYTES])

    async def run(self) -> None:
        """Serve the connection; when the server cancels it, close it without waiting for the client."""
        try:
            await super().run()
        except trio.Cancelled:
            await trio.aclose_forcefully(self.stream)
            raise


def install() -> None:
    """Have every connection of this process served by `Connection`; Hypercorn looks the class up when it listens."""
    hypercorn.trio.run.TCPServer = Connection  # type: ignore[attr-defined]
