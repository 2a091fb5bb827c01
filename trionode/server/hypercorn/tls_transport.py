"""The transport below TLS, with a minimum data rate.

How much the client has acknowledged can be read from the socket, below TLS.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

from .refusal import LINGER_SECONDS, http_to_https_answer, warn_of_scheme
from .sendfile import send_bytes

if TYPE_CHECKING:
    from .min_data_rate import MinDataRate


class MinRateTransport(trio.abc.HalfCloseableStream):
    """A `trio.SocketStream` whose `send_all` raises `TooSlowError` for a client below the minimum data rate.

    After that the TLS stream above it is broken.
    """

    def __init__(self, stream: trio.SocketStream, rate: MinDataRate) -> None:
        self._stream = stream
        self._rate = rate
        self.socket = stream.socket
        """Hypercorn reads the client's and the server's address from it."""
        self._first = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        await send_bytes(self._stream, data, self._rate)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might not block."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read what has arrived, or wait.

        At the end it raises: the TLS stream above then reports the end and can still send. If the end was returned, it
        could not, since the client has closed its sending side without TLS's own message for it.
        """
        data = await self._stream.receive_some(max_bytes)
        if not data:
            raise trio.BrokenResourceError from ssl.SSLEOFError()
        if self._first and data[:1].isalpha():  # the first byte of a request; that of a TLS record is no letter
            await self._refuse_http()
        self._first = False
        return data

    async def _refuse_http(self) -> None:
        """Answer a client that speaks http in words, and raise `BrokenResourceError`."""
        warn_of_scheme("http", "https")
        with trio.move_on_after(LINGER_SECONDS):
            await self.send_all(http_to_https_answer())
            await self.send_eof()
            while await self._stream.receive_some():
                pass
        raise trio.BrokenResourceError

    async def send_eof(self) -> None:
        """Close the sending side."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()
