"""Hypercorn's connection under Trio: files without a copy, in turns, and no client that can hold it for ever.

Hypercorn 0.18 shields every write without a deadline: one reader that stops reading keeps the server from shutting
down (measured: alive 12 s after SIGTERM with a graceful limit of 3 s). And it knows no ASGI extension for files: here
h11's data passthrough writes the framing, and `os.sendfile` what is framed.

Rests on the structure of `hypercorn.trio.tcp_server` and `hypercorn.protocol`, which is why that version is pinned.
With another one nothing is installed, one warning is written, and packages go out as ordinary bodies.
"""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer

from .sendfile import SendTurns, send_bytes, send_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.events import Event

    Application = Callable[..., Awaitable[None]]
    Send = Callable[[Any], Awaitable[None]]

KNOWN_HYPERCORN = "0.18."
ZERO_COPY = "http.response.zerocopysend"

_turns = SendTurns()
"""Of the whole process: what is shared is its one loop."""

_log = structlog.get_logger("trionode.server")


class Connection(TCPServer):
    """One client's connection. Writes can be cancelled, and give up on a client that has stopped reading."""

    def __init__(self, app: Application, *rest: Any) -> None:
        super().__init__(functools.partial(self._run_app, app), *rest)
        self._sent = 0
        """Bytes of files in the current response: the first of each go out without waiting for a turn."""

    async def run(self) -> None:
        """Serve the connection; when the server cancels it, close it without waiting for the client."""
        try:
            await super().run()
        except trio.Cancelled:
            await trio.aclose_forcefully(self.stream)
            raise

    async def _run_app(self, app: Application, scope: Any, receive: Any, send: Send, *rest: Any) -> None:
        if scope["type"] == "http" and scope["http_version"] in {"1.0", "1.1"} and self._socket() is not None:
            scope["extensions"][ZERO_COPY] = {}
            send = functools.partial(self._send, send)
        await app(scope, receive, send, *rest)

    def _socket(self) -> trio.socket.SocketType | None:
        """Return the socket that files can be sent to; None with TLS, which would have to encrypt them."""
        stream: trio.abc.Stream = self.stream
        return stream.socket if isinstance(stream, trio.SocketStream) else None

    async def _send(self, send: Send, message: Any) -> None:
        if message["type"] != ZERO_COPY:
            if message["type"] == "http.response.start":
                self._sent = 0
            await send(message)
            return
        await self._send_file(message["file"], message["offset"], message["count"])
        if not message.get("more_body", False):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_file(self, file: Any, offset: int, count: int) -> None:
        """Frame `count` bytes of `file` as h11 would frame them in memory, and send them from where they are."""
        protocol = self.protocol.protocol
        socket = self._socket()
        assert isinstance(protocol, H11Protocol)
        assert socket is not None
        connection = cast("h11.Connection", protocol.connection)
        body = cast("bytes", _Sized(count))
        # The extension's files are any with a descriptor; ours can also tell whether their bytes are right.
        checked = file if hasattr(file, "ready") else None
        try:
            parts = connection.send_with_data_passthrough(h11.Data(data=body))
        except h11.LocalProtocolError:
            # What Hypercorn does for a body in memory: the client is in the wrong and is told so already.
            if connection.their_state is not h11.ERROR:
                raise
            return
        async with self.send_lock, self._closing_when_broken():
            for part in parts or ():
                if part is body:
                    await send_file(
                        socket, file.fileno(), offset, count, _turns, already_sent=self._sent, checked=checked
                    )
                    self._sent += count
                else:
                    await send_bytes(self.stream, part)

    async def protocol_send(self, event: Event) -> None:
        """Write as the base class does, without its shield and with a limit to how long nothing moves."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock, self._closing_when_broken():
            await send_bytes(self.stream, event.data)

    def _closing_when_broken(self) -> _ClosingWhenBroken:
        return _ClosingWhenBroken(self)


class _ClosingWhenBroken:
    """Ends a connection whose client is gone, or reads nothing any more, and lets its request hear of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Swallow what says that the client is gone; everything else goes on."""
        if not isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)):
            return False
        await self._connection.protocol.handle(Closed())
        await trio.aclose_forcefully(self._connection.stream)
        return True


class _Sized:
    """Stands for bytes of which only the number matters: h11 hands it back untouched between the framing."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def install() -> bool:
    """Have every connection of this process served by `Connection`; tell whether that could be done.

    Hypercorn looks the class up when it begins to listen, so this may be called as late as in the lifespan's startup.
    """
    found = version("hypercorn")
    if not found.startswith(KNOWN_HYPERCORN):
        _log.warning("this Hypercorn is not known; packages are sent without zero-copy", version=found)
        return False
    hypercorn.trio.run.TCPServer = Connection  # type: ignore[attr-defined,assignment]
    return True
