"""Our connection under a real Hypercorn worker: zero-copy, turns, and clients that stop reading, leave or err."""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import hypercorn.protocol
import pytest
import trio
import trio.testing
from hypercorn.events import RawData
from structlog.testing import capture_logs

from tests.support.waiting import eventually
from tests.support.worker import LAST_REQUEST, exchange, read_all, serving
from trionode.delivery.send import ZERO_COPY
from trionode.server.hypercorn.h11_protocol import LenientH11Protocol
from trionode.server.hypercorn.refusal import REFUSAL
from trionode.server.hypercorn.sendfile import FREE_BYTES

if TYPE_CHECKING:
    from hypercorn.events import Event

    from trionode.server.hypercorn import ConnectionLimits

KEPT_ALIVE_REQUEST = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = bytes(32 << 20)
"""More than the buffers of a connection hold."""


class Sending:
    """An application that sends a file's bytes by the extension, in two messages, of `first` bytes and the rest."""

    def __init__(self, fd: int, count: int, *, first: int = 50_000, length: bool = True, last: bool = True) -> None:
        self.offered: list[bool] = []
        self._fd, self._count, self._length, self._last = fd, count, length, last
        self._first = min(first, count)

    def fileno(self) -> int:
        return self._fd

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.offered.append(ZERO_COPY in scope["extensions"])
        headers = [(b"content-length", str(self._count).encode())] if self._length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        message = {"type": ZERO_COPY, "file": self, "more_body": True}
        await send({**message, "offset": 0, "count": self._first})
        await send({**message, "offset": self._first, "count": self._count - self._first, "more_body": not self._last})
        if not self._last:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def answer_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def receive_answer(stream: trio.SocketStream) -> None:
    """Read the answer of `answer_ok` on a connection that is kept alive."""
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        data = await stream.receive_some(1000)
        assert data, answer
        answer += data


def dechunked(body: bytes) -> bytes:
    whole = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        assert rest[int(size, 16) : int(size, 16) + 2] == b"\r\n"
        body = rest[int(size, 16) + 2 :]
        if size == b"0":
            break
    assert body == b""
    return bytes(whole)


# -- zero-copy


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("length", [True, False])
async def test_zero_copy_has_the_framing_of_a_body_in_memory(file: int, content: bytes, length: bool, last: bool):
    app = Sending(file, len(content), length=length, last=last)
    async with serving(app) as port:
        head, _, body = (await exchange(port, LAST_REQUEST)).partition(b"\r\n\r\n")
        twice = await exchange(port, KEPT_ALIVE_REQUEST + LAST_REQUEST)
    assert app.offered == [True] * 3
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (body if length else dechunked(body)) == content
    assert twice.count(b"HTTP/1.1 200") == 2


async def test_a_connection_of_hypercorn_does_not_offer_zero_copy(file: int):
    app = Sending(file, 1)
    async with serving(app) as port:
        await exchange(port, LAST_REQUEST)
    assert app.offered == [False]


async def test_a_large_file_waits_for_a_turn_and_small_answers_do_not(
    file: int, content: bytes, limits: ConnectionLimits
):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        count = FREE_BYTES if scope["path"] == "/small" else len(content)
        await Sending(file, count)(scope, receive, send)

    async with serving(app) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        async with limits.turns:
            await stream.send_all(LAST_REQUEST.encode())
            large = bytearray()
            while len(large) < FREE_BYTES:
                large += await stream.receive_some(1 << 20)
            small_request = KEPT_ALIVE_REQUEST.replace("GET /", "GET /small")
            small = await exchange(port, small_request + LAST_REQUEST.replace("GET /", "GET /small"))
            assert small.count(content[:FREE_BYTES]) == 2, "each answer begins without a turn"
            with trio.CancelScope() as scope:
                await _receive_until_quiet(stream, large, scope)
            assert large.partition(b"\r\n\r\n")[2] == content[:FREE_BYTES]
        large += await read_all(stream)
    assert large.partition(b"\r\n\r\n")[2] == content


async def _receive_until_quiet(stream: trio.SocketStream, into: bytearray, scope: trio.CancelScope) -> None:
    async def cancel() -> None:
        await trio.testing.wait_all_tasks_blocked(0.05)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        while True:
            into += await stream.receive_some(1 << 20)


# -- heads


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(
    ("status", "line"),
    [(404, b"404 Not Found"), (416, b"416 "), (503, b"503 Service Unavailable"), (599, b"599 ")],
)
async def test_a_head_gets_its_reason_phrase_and_a_body_that_resembles_one_is_unchanged(status: int, line: bytes):
    resembles_a_head = b"HTTP/1.1 200 \r\n\r\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = str(2 * len(resembles_a_head)).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]})
        for more in (True, False):
            await send({"type": "http.response.body", "body": resembles_a_head, "more_body": more})

    async with serving(app) as port:
        head, _, body = (await exchange(port, LAST_REQUEST)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + line)
    assert body == 2 * resembles_a_head


# -- the number of connections


async def test_a_connection_over_the_limit_is_refused_with_an_answer(limits: ConnectionLimits):
    limits.max_connections = 1
    async with serving(answer_ok) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as first:
            await eventually(lambda: limits.open_connections == 1)
            answer = await exchange(port, KEPT_ALIVE_REQUEST)
            assert answer == REFUSAL
            await first.send_all(LAST_REQUEST.encode())
            assert (await read_all(first)).endswith(b"ok")
        await eventually(lambda: limits.open_connections == 0)
        assert (await exchange(port, LAST_REQUEST)).endswith(b"ok")


def test_the_refusal_is_a_complete_answer():
    head, _, body = REFUSAL.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    headers = dict(field.lower().split(b": ") for field in fields)
    assert status == b"HTTP/1.1 503 Service Unavailable"
    assert int(headers[b"content-length"]) == len(body)
    assert headers[b"connection"] == b"close"
    assert b"retry-after" in headers
    assert json.loads(body) == {"detail": "Too many connections now"}


async def test_connections_and_requests_are_counted(limits: ConnectionLimits):
    answering, answer = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answering.set()
        await answer.wait()
        await answer_ok(scope, receive, send)

    async with serving(app) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await eventually(lambda: limits.open_connections == 1)
        assert limits.active_requests == 0
        await stream.send_all(LAST_REQUEST.encode())
        with trio.fail_after(10):
            await answering.wait()
        assert (limits.open_connections, limits.active_requests) == (1, 1)
        answer.set()
        await read_all(stream)
        await eventually(lambda: (limits.open_connections, limits.active_requests) == (0, 0))


# -- clients that stop reading, leave, or err


class SendsForEver:
    """An application that sends a large body in memory, and records how its sending ended."""

    def __init__(self, fd: int | None = None) -> None:
        self.ended = trio.Event()
        self._fd = fd

    def fileno(self) -> int:
        assert self._fd is not None
        return self._fd

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await self._is_connected(receive)) and self._fd is None:
                await send({"type": "http.response.body", "body": LARGE, "more_body": True})
            if self._fd is not None:
                await send({"type": ZERO_COPY, "file": self, "offset": 0, "count": os.fstat(self._fd).st_size})
        finally:
            self.ended.set()

    async def _is_connected(self, receive: Any) -> bool:
        disconnected = False

        async def read() -> None:
            nonlocal disconnected
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return not disconnected


@pytest.fixture
def large_file(tmp_path: Any) -> Any:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("zero_copy", [True, False])
async def test_a_client_that_has_stopped_reading_does_not_delay_the_end_of_the_server(large_file: int, zero_copy: bool):
    app = SendsForEver(large_file if zero_copy else None)
    async with AsyncExitStack() as stack:
        with trio.fail_after(10):
            async with serving(app) as port:
                stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                await stream.send_all(KEPT_ALIVE_REQUEST.encode())
                await stream.receive_some(1)
        assert app.ended.is_set()


@pytest.mark.parametrize("zero_copy", [True, False])
async def test_a_client_below_the_minimum_data_rate_is_disconnected(
    large_file: int, zero_copy: bool, limits: ConnectionLimits
):
    limits.min_data_rate.configure(0.2, 1 << 20)
    app = SendsForEver(large_file if zero_copy else None)
    async with serving(app) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(KEPT_ALIVE_REQUEST.encode())
        with trio.fail_after(10):
            await app.ended.wait()
        await eventually(lambda: limits.open_connections == 0)
        answer = await read_all(stream)  # what was in the buffers
        assert len(answer) < len(LARGE)
        assert not answer.endswith(b"\r\n0\r\n\r\n"), "the answer was cut off, not ended"


async def test_a_client_that_leaves_during_an_answer_ends_it(large_file: int, limits: ConnectionLimits):
    app = SendsForEver(large_file)
    async with serving(app) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(KEPT_ALIVE_REQUEST.encode())
        await stream.receive_some(1)
        await trio.aclose_forcefully(stream)
        with trio.fail_after(10):
            await app.ended.wait()
        await eventually(lambda: (limits.open_connections, limits.active_requests) == (0, 0))


async def test_a_client_that_leaves_with_a_second_request_waiting_leaves_nothing(limits: ConnectionLimits):
    app = SendsForEver()
    async with serving(app) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(2 * KEPT_ALIVE_REQUEST.encode())
        await stream.receive_some(1)
        await trio.aclose_forcefully(stream)
        with trio.fail_after(10):
            await app.ended.wait()
        await eventually(lambda: (limits.open_connections, limits.active_requests) == (0, 0))


async def test_an_idle_connection_that_the_client_closes_ends_at_once(limits: ConnectionLimits):
    async with serving(answer_ok, keep_alive_seconds=1000) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(KEPT_ALIVE_REQUEST.encode())
            await receive_answer(stream)
            assert limits.open_connections == 1
        await eventually(lambda: limits.open_connections == 0)


async def test_a_connection_is_closed_after_its_idle_time(limits: ConnectionLimits):
    async with serving(answer_ok, keep_alive_seconds=0.1) as port:
        assert (await exchange(port, KEPT_ALIVE_REQUEST)).endswith(b"ok")
        assert await exchange(port, "") == b""
        await eventually(lambda: limits.open_connections == 0)


async def test_the_end_of_the_server_closes_idle_connections_at_once(limits: ConnectionLimits):
    async with AsyncExitStack() as stack:
        async with serving(answer_ok, keep_alive_seconds=1000) as port:
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await stream.send_all(KEPT_ALIVE_REQUEST.encode())
            await receive_answer(stream)
        with trio.fail_after(10):
            assert await stream.receive_some(1000) == b""
    assert limits.open_connections == 0


async def test_a_request_that_crashes_hypercorn_ends_only_its_connection(
    limits: ConnectionLimits, monkeypatch: pytest.MonkeyPatch
):
    class Crashing(LenientH11Protocol):
        async def handle(self, event: Event) -> None:
            if isinstance(event, RawData) and event.data.startswith(b"crash"):
                raise RuntimeError
            await super().handle(event)

    monkeypatch.setattr(hypercorn.protocol, "H11Protocol", Crashing)
    async with serving(answer_ok, keep_alive_seconds=1000) as port:
        with capture_logs() as lines:
            await exchange(port, "crash")
        assert [line["event"] for line in lines] == ["a connection crashed and is closed"]
        assert (await exchange(port, LAST_REQUEST)).endswith(b"ok")
        await eventually(lambda: limits.open_connections == 0)


async def test_a_client_that_errs_during_a_file_is_told_so_and_the_file_is_not_sent(
    file: int, content: bytes, limits: ConnectionLimits
):
    erred, ended = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await erred.wait()
        await Sending(file, len(content))(scope, receive, send)
        ended.set()

    async with serving(app) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n")
        with trio.fail_after(10):
            answer = await stream.receive_some(1000)
            assert answer.startswith(b"HTTP/1.1 400 ")
            erred.set()
            assert content[:100] not in answer + await read_all(stream)
            await ended.wait()  # sending raises nothing, as for a body in memory
        await eventually(lambda: (limits.open_connections, limits.active_requests) == (0, 0))


# -- HTTP/2


@pytest.mark.parametrize("heeds_disconnection", [True, False])
async def test_a_client_of_http_2_that_never_opens_its_window_is_sent_little_and_disconnected(
    limits: ConnectionLimits, heeds_disconnection: bool
):
    limits.min_data_rate.configure(0.2, 64 << 10)
    sent_before_disconnection, ended = 0, trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent_before_disconnection
        assert scope["http_version"] == "2"
        disconnected = trio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected.set()
            if heeds_disconnection:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for more in [True] * 63 + [False]:
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": more})
                await trio.testing.wait_all_tasks_blocked()
                sent_before_disconnection += not disconnected.is_set()
        ended.set()

    async with serving(app) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        client.initiate_connection()
        headers = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")]
        client.send_headers(1, headers, end_stream=True)
        await stream.send_all(client.data_to_send())
        received = 0
        with trio.fail_after(10):
            async for data in stream:
                events = client.receive_data(bytes(data))
                received += sum(len(event.data) for event in events if isinstance(event, h2.events.DataReceived))
            await ended.wait()  # soon, since sending to a closed connection waits for nothing
        assert received == 65535, "the initial window"
        await eventually(lambda: limits.open_connections == 0)
    assert sent_before_disconnection == 0, "what is sent beyond the window is buffered in memory"
