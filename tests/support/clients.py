"""Clients on raw sockets, so that a test controls when bytes are read."""

from __future__ import annotations

import re
import socket as stdlib_socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SMALL_BUFFER = 64 << 10


class Client:
    """One HTTP/1.1 request whose answer is read piece by piece."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.head = b""
        self.body = bytearray()

    @property
    def length(self) -> int:
        """The value of Content-Length."""
        match = re.search(rb"(?i)content-length: (\d+)", self.head)
        assert match is not None, self.head
        return int(match[1])

    async def read_head(self) -> bytes:
        """Read the head, and any bytes of the body that arrive with it."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = await self._stream.receive_some(4096)
            assert part, f"the connection ended in the head: {data!r}"
            data += part
        self.head, _, body = data.partition(b"\r\n\r\n")
        self.body += body
        return self.head

    async def read_some(self, size: int) -> bool:
        """Read up to `size` bytes of the body; False at the end of the connection."""
        try:
            part = await self._stream.receive_some(size)
        except trio.BrokenResourceError:
            return False
        self.body += part
        return bool(part)

    async def read_slowly(self, bytes_per_second: int) -> None:
        """Read at this rate until cancelled or at the end."""
        while len(self.body) < self.length and await self.read_some(max(1, bytes_per_second // 20)):
            await trio.sleep(0.05)

    async def read_rest(self) -> bytes:
        """Read to Content-Length or the end of the connection, without a rate limit."""
        while len(self.body) < self.length and await self.read_some(1 << 20):
            pass
        return bytes(self.body)


@asynccontextmanager
async def asking(port: int, path: str, *, method: str = "GET", fields: bytes = b"") -> AsyncIterator[Client]:
    """Connect with a small receive buffer, and send a request with more `fields`, each ended by CRLF."""
    sock = trio.socket.socket()
    sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, SMALL_BUFFER)
    await sock.connect(("127.0.0.1", port))
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + fields + b"\r\n")
        yield Client(stream)
