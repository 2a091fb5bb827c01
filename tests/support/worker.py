"""Real Hypercorn workers for small ASGI applications, and raw clients and sockets for them."""

from __future__ import annotations

import socket as stdlib_socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Application = Callable[[Any, Any, Any], Awaitable[None]]

LAST_REQUEST = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def socket_pair(send_buffer: int | None = None) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two connected sockets, with small send buffers if a size is given."""
    one, other = stdlib_socket.socketpair()
    if send_buffer:
        for end in (one, other):
            end.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, send_buffer)
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))  # type: ignore[return-value]


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end of the stream."""
    return b"".join([part async for part in stream])


def with_lifespan(handle: Application) -> Application:
    """Return an application that answers the lifespan, and calls `handle` for requests."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await handle(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return app


@asynccontextmanager
async def serving(handle: Application, *, keep_alive_seconds: float = 5.0) -> AsyncIterator[int]:
    """Serve an application with a Trio worker of Hypercorn, and yield its port. Shut it down at the end."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.5
    config.keep_alive_timeout = keep_alive_seconds
    sockets = config.create_sockets()
    port = sockets.insecure_sockets[0].getsockname()[1]
    sockets.insecure_sockets[0].listen(10)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        app = wrap_app(with_lifespan(handle), config.wsgi_max_body_size, mode="asgi")  # type: ignore[arg-type]
        await nursery.start(partial(worker_serve, app, config, sockets=sockets, shutdown_trigger=stop.wait))
        yield port
        stop.set()


async def exchange(port: int, request: str | bytes) -> bytes:
    """Send the bytes of a request, and return all bytes until the connection ends."""
    with trio.fail_after(20):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request.encode() if isinstance(request, str) else request)
            return await read_all(stream)
