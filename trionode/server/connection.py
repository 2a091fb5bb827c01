"""Hypercorn's connection under Trio: files without a copy, in turns, and no client that can hold it for ever.

Hypercorn 0.18 shields every write without a deadline: one reader that stops reading keeps the server from shutting
down (measured: alive 12 s after SIGTERM with a graceful limit of 3 s). And it knows no ASGI extension for files: here
h11's data passthrough writes the framing, and `os.sendfile` what is framed.

Rests on the structure of `hypercorn.trio.tcp_server` and `hypercorn.protocol`, which is why that version is pinned.
With another one nothing is installed, one warning is written, and packages go out as ordinary bodies.
"""

from __future__ import annotations

import functools
import http
import resource
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer

from ..delivery.sending import ZERO_COPY
from .idle import IdleTask
from .patience import Patience
from .sendfile import SendTurns, send_bytes, send_copied, send_file
from .transport import PatientTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.events import Event

    from ..config import Settings

    Application = Callable[..., Awaitable[None]]
    Send = Callable[[Any], Awaitable[None]]

KNOWN_HYPERCORN = "0.18."

_turns = SendTurns()
"""Of the whole process: what is shared is its one loop."""

PIECE_BYTES = 512 << 10
"""What is encrypted and written at a time: with less, the calls show (128 KiB cost 1.1 s of processor time for 1 GB,
this 0.86); with more, the bytes leave the processor's cache between two steps."""

SMALLEST_PIECE_BYTES = 64 << 10

PIECES_BYTES = 24 << 20
"""What all connections together may hold as pieces, where they are not the smallest."""

RESERVED_FILES = 256
"""Open files that are not clients' connections: packages, fills, the master's connections, libraries."""

REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nConnection: close\r\n"
    b"Access-Control-Allow-Origin: *\r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n"
    b'{"detail":"Too many connections now"}'
)
"""What a client over the limit hears. A tablet goes on to the next node after it, as after a closed connection, but a
proxy or a browser would try a connection that was just closed once more, here and at once."""

REASONS = {str(status.value).encode(): status.phrase.encode() for status in http.HTTPStatus}
"""What follows the status in the first line of an answer. RFC 9112 lets it be empty, as Hypercorn has it, and wants
clients to ignore it; some take an answer without it for a failure (h2load)."""

_STATUS = slice(9, 12)
_AFTER_STATUS = slice(12, 15)

LINGER_SECONDS = 1.0
"""How long a refused client gets to read that: closed with its request unread, TCP would take the answer back."""


@dataclass(slots=True)
class Limits:
    """What the clients of this process may take together, and what they do. Its fields change on a reload."""

    max_connections: int = 0
    patience: Patience = field(default_factory=Patience)
    connections: int = 0
    """Open now, those being refused not counted."""
    requests: int = 0
    """Being answered now."""

    def take(self, settings: Settings) -> None:
        """Take over the settings; of `workers` processes each has its share of the connections."""
        self.max_connections = _most_connections(settings.max_connections, settings.workers)
        self.patience.set(settings.progress_seconds, settings.progress_bytes)


def _most_connections(wanted: int, workers: int) -> int:
    """Return how many connections one process may have: its share of `wanted`, and never more than it has files for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    possible = max(1, files - RESERVED_FILES) if files != resource.RLIM_INFINITY else 0
    shares = [limit for limit in (-(-wanted // workers), possible) if limit]
    return min(shares, default=0)


limits = Limits()
"""Of this process."""

_log = structlog.get_logger("trionode.server")


class Connection(TCPServer):
    """One client's connection. Writes can be cancelled, and give up on a client that has stopped reading."""

    def __init__(self, app: Application, *rest: Any) -> None:
        super().__init__(functools.partial(self._run_app, app), *rest)
        idle_task = IdleTask(self.config.keep_alive_timeout, self.context.terminated.wait, self._close_idle)
        self.idle_task = idle_task  # type: ignore[assignment]
        if isinstance(self.stream, trio.SSLStream):
            # Hypercorn says that this is a socket's stream; TLS takes any.
            patient = PatientTransport(self.stream.transport_stream, limits.patience)
            self.stream.transport_stream = patient  # type: ignore[assignment]
        self._sent = 0
        """Bytes of files in the current response: the first of each go out without waiting for a turn."""
        self._in_head = False
        """Whether what is written now is the head of a response."""

    async def run(self) -> None:
        """Serve the connection; when the server cancels it, close it without waiting for the client.

        A fault ends this connection alone: Hypercorn lets it end the server, and some requests are one (measured: an
        upgrade to h2c with settings that cannot be read).
        """
        if limits.max_connections and limits.connections >= limits.max_connections:
            await self._refuse()
            return
        limits.connections += 1
        try:
            await super().run()
        except trio.Cancelled:
            await trio.aclose_forcefully(self.stream)
            raise
        except Exception:  # noqa: BLE001 - whatever it is, it is this client's affair
            _log.exception("a connection met a fault, and is closed")
            await trio.aclose_forcefully(self.stream)
        finally:
            limits.connections -= 1

    async def _refuse(self) -> None:
        """Say that there are too many, without having read anything."""
        stream: trio.abc.Stream = self.stream
        try:
            # With TLS that would first take a handshake, which is what costs most.
            if isinstance(stream, trio.SocketStream):
                with trio.move_on_after(LINGER_SECONDS):
                    await stream.send_all(REFUSAL)
                    await stream.send_eof()
                    while await stream.receive_some(MAX_RECV):
                        pass
        except trio.BrokenResourceError:
            pass  # it has gone by itself
        finally:
            await trio.aclose_forcefully(stream)

    async def _run_app(self, app: Application, scope: Any, receive: Any, send: Send, *rest: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send, *rest)
            return
        if scope["http_version"] not in {"1.0", "1.1"}:
            send = functools.partial(self._send_stream, send)
        else:
            scope["extensions"][ZERO_COPY] = {}
            send = functools.partial(self._send, send)
        limits.requests += 1
        try:
            await app(scope, receive, send, *rest)
        finally:
            limits.requests -= 1

    async def _send_stream(self, send: Send, message: Any) -> None:
        """Send on an HTTP/2 stream, which waits for ever for a client that opens its window no further."""
        body = memoryview(message.get("body", b""))
        size = limits.patience.piece_bytes
        async with _ClosingWhenBroken(self):
            while len(body) > size:
                with limits.patience.for_piece():
                    await send({**message, "body": body[:size], "more_body": True})
                body = body[size:]
            with limits.patience.for_piece():
                await send({**message, "body": body} if message["type"] == "http.response.body" else message)

    def _socket(self) -> trio.socket.SocketType | None:
        """Return the socket that files can be sent to without a copy; None with TLS, which has to encrypt them."""
        stream: trio.abc.Stream = self.stream
        return stream.socket if isinstance(stream, trio.SocketStream) else None

    async def _send(self, send: Send, message: Any) -> None:
        if message["type"] != ZERO_COPY:
            if message["type"] == "http.response.start":
                self._sent = 0
                self._in_head = True
            try:
                await send(message)
            finally:
                self._in_head = False
            return
        await self._send_file(message["file"], message["offset"], message["count"])
        if not message.get("more_body", False):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_file(self, file: Any, offset: int, count: int) -> None:
        """Frame `count` bytes of `file` as h11 would frame them in memory, and send them from where they are."""
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol)
        connection = cast("h11.Connection", protocol.connection)
        body = cast("bytes", _Sized(count))
        try:
            parts = connection.send_with_data_passthrough(h11.Data(data=body))
        except h11.LocalProtocolError:
            # What Hypercorn does for a body in memory: the client is in the wrong and is told so already.
            if connection.their_state is not h11.ERROR:
                raise
            return
        async with _Writing(self):
            for part in parts or ():
                if part is body:
                    await self._write_file(file, offset, count)
                else:
                    await self._write(part)

    async def _write_file(self, file: Any, offset: int, count: int) -> None:
        # The extension's files are any with a descriptor; ours can also tell whether their bytes are right.
        checked = file if hasattr(file, "ready") else None
        fd, sent = file.fileno(), self._sent
        self._sent += count
        socket = self._socket()
        if socket is None:
            piece = max(SMALLEST_PIECE_BYTES, min(PIECE_BYTES, PIECES_BYTES // max(1, limits.requests)))
            await send_copied(self.stream, fd, offset, count, _turns, piece=piece, already_sent=sent, checked=checked)
        else:
            await send_file(
                socket, fd, offset, count, _turns, already_sent=sent, checked=checked, patience=limits.patience
            )

    async def _read_data(self) -> None:
        """Read until the client closes, and then wait no longer for another request from it.

        The base class keeps the connection, and its descriptor, until the time for one is over (5 s).
        """
        await super()._read_data()
        cast("IdleTask", self.idle_task).end()

    async def _close_idle(self) -> None:
        """Close the connection, as the base class does, though not for ever."""
        with trio.move_on_after(LINGER_SECONDS, shield=True):
            await self._initiate_server_close()

    async def protocol_send(self, event: Event) -> None:
        """Write as the base class does, without its shield and with a limit to how long nothing moves."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
        elif event.data:
            async with _Writing(self):
                await self._write(_with_reason(event.data) if self._in_head else event.data)

    async def _write(self, data: bytes) -> None:
        """Write `data` whole, through TLS in pieces. Errors as `send_file`."""
        stream: trio.abc.Stream = self.stream
        if isinstance(stream, trio.SocketStream):
            await send_bytes(stream, data, limits.patience)
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            await stream.send_all(view[start : start + PIECE_BYTES])


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


class _Writing(_ClosingWhenBroken):
    """The same, with the connection's send lock. A lock that is free is taken without a pass of the loop."""

    async def __aenter__(self) -> None:
        """Take the lock."""
        lock = self._connection.send_lock
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            await lock.acquire()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Give it back once whatever was written has gone, or its connection has."""
        try:
            return await super().__aexit__(kind, error, traceback)
        finally:
            self._connection.send_lock.release()


def _with_reason(head: bytes) -> bytes:
    """Put the reason into the head of an HTTP/1.1 response that has none."""
    if head[_AFTER_STATUS] != b" \r\n":
        return head
    return head[: _AFTER_STATUS.start + 1] + REASONS.get(head[_STATUS], b"") + head[_AFTER_STATUS.start + 1 :]


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
