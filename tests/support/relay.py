"""A relay before a server: counts and limits the bytes of the answers, may change them, and notes the requests."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

STEP_BYTES = 32 << 10

REQUEST_LINE = re.compile(rb"^([A-Z]+ /\S*) HTTP/1\.1\r$", re.MULTILINE)


class Relay:
    """Relays connections to a port.

    `received` counts the bytes of answers; `rate` limits all of them together, in bytes per second. `alter` is given
    each part of an answer as it arrives, and returns what the client gets instead. `requests` has method and target of
    each request, `open` the numbers of its connections, in the order in which they were made.
    """

    def __init__(self, to_port: int, bytes_per_second: float) -> None:
        self._to_port = to_port
        self.rate = bytes_per_second
        self.received = 0
        self.open: set[int] = set()
        self._made = 0
        self.alter: Callable[[bytes], bytes] = bytes
        self.requests: list[str] = []
        self.port = 0
        self._free_at = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        self._made += 1
        number = self._made
        self.open.add(number)
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._to_port)
            async with stream, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._requests, stream, server)
                await self._answers(server, stream)
                nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either side has closed
        finally:
            self.open.remove(number)

    async def _requests(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        async for data in client:
            self.requests += [line.decode() for line in REQUEST_LINE.findall(data)]
            await server.send_all(data)

    async def _answers(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        while data := await server.receive_some(STEP_BYTES):
            self._free_at = max(self._free_at, trio.current_time()) + len(data) / self.rate
            await trio.sleep_until(self._free_at)
            self.received += len(data)
            await client.send_all(self.alter(data))


@asynccontextmanager
async def relaying(to_port: int, bytes_per_second: float = 1e12) -> AsyncIterator[Relay]:
    """Run a relay to a server of this machine."""
    relay = Relay(to_port, bytes_per_second)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield relay
        nursery.cancel_scope.cancel()
