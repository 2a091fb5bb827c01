"""Hypercorn's Trio connection with zero-copy, send turns, a minimum data rate, and limits.

Hypercorn 0.18 shields every write without a deadline: one client that stops reading keeps the server from shutting
down (measured: alive 12 s after SIGTERM with a graceful limit of 3 s). It has no ASGI extension for files: here h11's
data passthrough writes the framing, and `os.sendfile` the file.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import h11
import structlog
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer

from ...delivery.send import ZERO_COPY
from .idle import IdleTask
from .refusal import LINGER_SECONDS, REFUSAL
from .sendfile import send_bytes, send_copied, send_file
from .tls_transport import MinRateTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.events import Event

    from .limits import ConnectionLimits

    Application = Callable[..., Awaitable[None]]
    Send = Callable[[Any], Awaitable[None]]

PIECE_BYTES = 512 << 10
"""Size of the pieces that are encrypted and written. Smaller ones cost more calls (processor time for 1 GB: 1.1 s with
128 KiB, 0.86 s with this); larger ones do not stay in the processor's cache between the two steps."""

MIN_PIECE_BYTES = 64 << 10

PIECES_BYTES = 24 << 20
"""Memory for the pieces of all connections, as long as they are larger than `MIN_PIECE_BYTES`."""

CLOSE_SECONDS = 1.0
"""Time limit of closing an idle connection."""

_log = structlog.get_logger("trionode.server")


class Connection(TCPServer):
    """One client's connection. Writes can be cancelled, and end for a client that has stopped reading."""

    def __init__(self, limits: ConnectionLimits, app: Application, *rest: Any) -> None:
        self._limits = limits
        super().__init__(functools.partial(self._run_app, app), *rest)
        idle_task = IdleTask(self.config.keep_alive_timeout, self.context.terminated.wait, self._close_idle)
        self.idle_task = idle_task  # type: ignore[assignment]
        if isinstance(self.stream, trio.SSLStream):
            # Typed as a socket's stream, but TLS works on any stream.
            transport = MinRateTransport(self.stream.transport_stream, limits.min_data_rate)
            self.stream.transport_stream = transport  # type: ignore[assignment]
        self._sent = 0
        """Bytes of files sent in the current response: the first are sent without waiting for a turn."""

    async def run(self) -> None:
        """Serve the connection; when the server cancels it, close it without waiting for the client.

        A crash ends only this connection. In Hypercorn it ends the server.
        """
        if not self._limits.try_open():
            await self._refuse()
            return
        try:
            await super().run()
        except trio.Cancelled:
            await trio.aclose_forcefully(self.stream)
            raise
        except Exception:  # noqa: BLE001 - it concerns this client only
            _log.exception("a connection crashed and is closed")
            await trio.aclose_forcefully(self.stream)
        finally:
            self._limits.close()

    async def _refuse(self) -> None:
        """Answer 503 without reading the request."""
        stream: trio.abc.Stream = self.stream
        try:
            # Not with TLS, where the handshake is the largest cost.
            if isinstance(stream, trio.SocketStream):
                with trio.move_on_after(LINGER_SECONDS), self._limits.lingering() as lingers:
                    await stream.send_all(REFUSAL)
                    await stream.send_eof()
                    while lingers and await stream.receive_some(MAX_RECV):
                        pass
        except trio.BrokenResourceError:
            pass  # the client has closed it
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
        self._limits.begin_request()
        try:
            await app(scope, receive, send, *rest)
        finally:
            self._limits.end_request()

    async def _send_stream(self, send: Send, message: Any) -> None:
        """Send on an HTTP/2 stream in pieces, each with a time limit: a client may never open its window."""
        protocol = self.protocol.protocol
        # Sending to a stream that was reset returns at once: without a checkpoint the request could not be cancelled.
        await trio.lowlevel.checkpoint()
        if isinstance(protocol, H2Protocol) and protocol.closed:
            return  # each later message would wait for the time limit again
        body = memoryview(message.get("body", b""))
        rate = self._limits.min_data_rate
        size = rate.piece_bytes
        async with _ClosingWhenBroken(self):
            while len(body) > size:
                with rate.for_piece():
                    await send({**message, "body": body[:size], "more_body": True})
                body = body[size:]
            with rate.for_piece():
                await send({**message, "body": body} if message["type"] == "http.response.body" else message)

    def _socket(self) -> trio.socket.SocketType | None:
        """Return the socket for zero-copy; None with TLS, which has to encrypt."""
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
        """Send `count` bytes of `file` with the framing that h11 gives to a body in memory."""
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol)
        connection = cast("h11.Connection", protocol.connection)
        body = cast("bytes", _Sized(count))
        try:
            parts = connection.send_with_data_passthrough(h11.Data(data=body))
        except h11.LocalProtocolError:
            # As Hypercorn does for a body in memory: the invalid request was already answered.
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
        # The extension accepts any file with a descriptor; ours can also be verified.
        verified = file if hasattr(file, "ensure_trusted") else None
        fd, sent = file.fileno(), self._sent
        self._sent += count
        socket, limits = self._socket(), self._limits
        if socket is None:
            piece = max(MIN_PIECE_BYTES, min(PIECE_BYTES, PIECES_BYTES // max(1, limits.active_requests)))
            await send_copied(
                self.stream, fd, offset, count, limits.turns, piece=piece, already_sent=sent, verified=verified
            )
        else:
            await send_file(
                socket,
                fd,
                offset,
                count,
                limits.turns,
                already_sent=sent,
                verified=verified,
                rate=limits.min_data_rate,
            )

    async def _read_data(self) -> None:
        """Read until the client closes, then end the idle time.

        The base class keeps the connection, and its descriptor, until the idle timeout (5 s).
        """
        await super()._read_data()
        cast("IdleTask", self.idle_task).end()

    async def _close_idle(self) -> None:
        """Close the connection as the base class does, with a time limit."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._initiate_server_close()

    async def protocol_send(self, event: Event) -> None:
        """Write as the base class does, without its shield and with a minimum data rate."""
        if isinstance(event, Closed):
            await self._close_sending()
        elif not isinstance(event, RawData):
            await super().protocol_send(event)
        elif event.data:
            async with _Writing(self):
                await self._write(event.data)

    async def _close_sending(self) -> None:
        """Close the sending side; the rest is closed when the client closes, or after the idle time.

        Closed at once, the kernel would discard the end of the answer if the client has sent more than was read.
        """
        stream: trio.abc.Stream = self.stream
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        # Not during a write: an invalid rest of a request is noticed while its answer is being sent.
        async with _Writing(self):
            await cast("trio.abc.HalfCloseableStream", transport).send_eof()
        await self.protocol.handle(Closed())
        await self.idle_task.restart(self._task_group, self._close_idle)

    async def _write(self, data: bytes) -> None:
        """Write all of `data`, through TLS in pieces. Errors as `send_file`."""
        stream: trio.abc.Stream = self.stream
        if isinstance(stream, trio.SocketStream):
            await send_bytes(stream, data, self._limits.min_data_rate)
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            await stream.send_all(view[start : start + PIECE_BYTES])


class _ClosingWhenBroken:
    """Closes a connection whose client is gone or too slow, and reports that to its request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Suppress the errors of a client that is gone or too slow."""
        if not isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)):
            return False
        await self._connection.protocol.handle(Closed())
        await trio.aclose_forcefully(self._connection.stream)
        return True


class _Writing(_ClosingWhenBroken):
    """The same, holding the connection's send lock. A free lock is acquired without a checkpoint."""

    async def __aenter__(self) -> None:
        """Acquire the lock."""
        lock = self._connection.send_lock
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            await lock.acquire()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Release the lock."""
        try:
            return await super().__aexit__(kind, error, traceback)
        finally:
            self._connection.send_lock.release()


class _Sized:
    """A placeholder for a body of `size` bytes: h11 returns it untouched between the framing."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size
