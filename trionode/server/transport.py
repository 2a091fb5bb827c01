"""What TLS writes to: a socket that a client cannot hold for ever, told by what it has acknowledged.

Above TLS nobody can tell how much of what was handed over has gone; below it the socket can, as without TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .sendfile import send_bytes

if TYPE_CHECKING:
    from .patience import Patience


class PatientTransport(trio.abc.HalfCloseableStream):
    """A `trio.SocketStream` whose `send_all` gives up on a client that takes too little for `patience`.

    It then raises `TooSlowError`, after which the TLS above it is broken.
    """

    def __init__(self, stream: trio.SocketStream, patience: Patience) -> None:
        self._stream = stream
        self._patience = patience
        self.socket = stream.socket
        """Where Hypercorn finds both addresses."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data` whole."""
        await send_bytes(self._stream, data, self._patience)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until some of it would be taken."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read what is there, or wait."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Say that nothing more will come."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()
