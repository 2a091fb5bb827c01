"""Our connection under a real Hypercorn worker, and files sent over real sockets."""

from __future__ import annotations

import os
import socket as stdlib_socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.trio.run
import pytest
import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.run import worker_serve
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.utils import wrap_app

from trionode.server import connection, sendfile
from trionode.server.patience import Patience
from trionode.server.sendfile import FREE_BYTES, WINDOW_BYTES, SendTurns, ShortFile, send_bytes, send_copied, send_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def content() -> bytes:
    return os.urandom(3 * WINDOW_BYTES + 12_345)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def pair(buffer: int | None = None) -> tuple[trio.SocketStream, trio.SocketStream]:
    one, other = stdlib_socket.socketpair()
    if buffer:
        for end in (one, other):
            end.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, buffer)
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))  # type: ignore[return-value]


async def send_without_copying(ours: trio.SocketStream, fd: int, offset: int, count: int, **options: Any) -> None:
    await send_file(ours.socket, fd, offset, count, options.pop("turns", SendTurns()), **options)


async def send_by_copying(ours: trio.SocketStream, fd: int, offset: int, count: int, **options: Any) -> None:
    await send_copied(ours, fd, offset, count, options.pop("turns", SendTurns()), piece=100_000, **options)


both_ways = pytest.mark.parametrize("send_it", [send_without_copying, send_by_copying])


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([part async for part in stream])


@both_ways
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (0, 1), (1, FREE_BYTES), (FREE_BYTES - 1, 2), (777, 2 * WINDOW_BYTES)]
)
async def test_a_file_arrives_as_it_is(file: int, content: bytes, offset: int, count: int | None, send_it: Any):
    count = len(content) if count is None else count
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def send() -> None:
            await send_it(ours, file, offset, count)
            await ours.send_eof()

        nursery.start_soon(send)
        assert await read_all(theirs) == content[offset : offset + count]
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


@both_ways
async def test_pages_that_are_not_in_memory_are_brought_in(
    file: int, content: bytes, monkeypatch: pytest.MonkeyPatch, send_it: Any
):
    brought: list[tuple[int, int]] = []
    real = sendfile.bring_in

    async def bring_in(fd: int, offset: int, size: int) -> None:
        brought.append((offset, size))
        await real(fd, offset, size)

    monkeypatch.setattr(sendfile, "in_memory", lambda fd, offset, size: False)
    monkeypatch.setattr(sendfile, "bring_in", bring_in)
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def send() -> None:
            await send_it(ours, file, 0, len(content))
            await ours.send_eof()

        nursery.start_soon(send)
        assert await read_all(theirs) == content
    assert brought
    assert all(size <= WINDOW_BYTES for _, size in brought)


class Watched:
    """A file that is found changed once, and is made right."""

    def __init__(self, change_at: int) -> None:
        self.sent = 0
        self.made_right = 0
        self._change_at = change_at

    @property
    def trusted(self) -> bool:
        return self.made_right > 0 or self.sent < self._change_at

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()
        self.made_right += 1

    def moved(self, count: int) -> None:
        self.sent += count


@both_ways
async def test_bytes_that_are_not_known_to_be_right_wait_until_they_are(file: int, content: bytes, send_it: Any):
    watched = Watched(WINDOW_BYTES)
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def send() -> None:
            await send_it(ours, file, 0, len(content), checked=watched)
            await ours.send_eof()

        nursery.start_soon(send)
        assert await read_all(theirs) == content
    assert (watched.sent, watched.made_right) == (len(content), 1)


@both_ways
async def test_a_file_that_is_cut_is_noticed(file: int, content: bytes, send_it: Any):
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(read_all, theirs)
        with pytest.raises(ShortFile):
            await send_it(ours, file, 0, len(content) + 1)
        await ours.send_eof()


@both_ways
async def test_a_client_that_leaves_is_noticed_and_gives_its_turn_back(file: int, content: bytes, send_it: Any):
    turns = SendTurns(1)
    ours, theirs = pair(4096)
    async with ours:
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await send_it(ours, file, 0, len(content), turns=turns)
        with trio.fail_after(5):
            async with turns:
                pass


@pytest.mark.parametrize("sender", ["file", "bytes"])
async def test_a_client_that_stops_reading_is_given_up(file: int, content: bytes, sender: str):
    patience = Patience(seconds=0.2)
    ours, theirs = pair(4096)
    async with ours, theirs:
        sending = {
            "file": partial(send_file, ours.socket, file, 0, len(content), SendTurns(), patience=patience),
            "bytes": partial(send_bytes, ours, content, patience),
        }
        with pytest.raises(trio.TooSlowError):
            await sending[sender]()


@both_ways
async def test_cancelled_at_any_moment_a_turn_is_free_again(file: int, content: bytes, send_it: Any):
    for moment in range(40):
        turns = SendTurns(1)
        ours, theirs = pair(4096)
        async with ours, theirs, trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel_later(scope: trio.CancelScope = scope, moment: int = moment) -> None:
                    for _ in range(moment):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(read_some, theirs)
                nursery.start_soon(cancel_later)
                await send_it(ours, file, 0, len(content), turns=turns)
            with trio.fail_after(5):
                async with turns:
                    pass
            nursery.cancel_scope.cancel()


async def read_some(stream: trio.SocketStream) -> None:
    while await stream.receive_some(2048):
        await trio.lowlevel.checkpoint()


async def test_turns_are_taken_in_the_order_they_were_asked_for():
    turns = SendTurns(1)
    order: list[int] = []

    async def ask(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        async with turns:
            order.append(number)

    async with trio.open_nursery() as nursery, turns:
        for number in range(20):
            await nursery.start(ask, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(20))


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serve a raw ASGI application with a real worker, and give its port."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.5
    sockets = config.create_sockets()
    port = sockets.insecure_sockets[0].getsockname()[1]
    sockets.insecure_sockets[0].listen(10)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        wrapped = wrap_app(app, config.wsgi_max_body_size, mode="asgi")
        await nursery.start(partial(worker_serve, wrapped, config, sockets=sockets, shutdown_trigger=stop.wait))
        yield port
        stop.set()


async def ask(port: int, request: str) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with trio.fail_after(20):
        async with stream:
            await stream.send_all(request.encode())
            return await read_all(stream)


LAST_REQUEST = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Sending:
    """An ASGI application that sends a file's bytes by the extension."""

    def __init__(self, fd: int, *, count: int, length: bool, last: bool) -> None:
        self.fd, self.count, self.length, self.last = fd, count, length, last
        self.offered: list[bool] = []

    def fileno(self) -> int:
        return self.fd

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.offered.append("http.response.zerocopysend" in scope["extensions"])
        headers = [(b"content-length", str(self.count).encode())] if self.length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        half = self.count // 2
        message = {"type": "http.response.zerocopysend", "file": self, "more_body": True}
        await send({**message, "offset": 0, "count": half})
        await send({**message, "offset": half, "count": self.count - half, "more_body": not self.last})
        if not self.last:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture
def installed() -> Iterator[None]:
    assert connection.install()
    yield
    hypercorn.trio.run.TCPServer = TCPServer  # type: ignore[attr-defined]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("length", [True, False])
async def test_the_extension_frames_as_a_body_in_memory_would_be(file: int, content: bytes, length: bool, last: bool):
    app = Sending(file, count=len(content), length=length, last=last)
    async with serving(app) as port:
        head, _, body = (await ask(port, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).partition(
            b"\r\n\r\n"
        )
        twice = await ask(
            port, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
    assert app.offered == [True] * 3
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (body if length else dechunked(body)) == content
    assert twice.count(b"HTTP/1.1 200") == 2


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("status", "line"),
    [(404, b"404 Not Found"), (416, b"416 "), (503, b"503 Service Unavailable"), (599, b"599 ")],
)
async def test_a_status_has_its_reason_and_a_body_that_looks_like_a_head_is_left_alone(status: int, line: bytes):
    looks_like_a_head = b"HTTP/1.1 200 \r\n\r\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await Sending(0, count=0, length=True, last=True)(scope, receive, send)
            return
        length = str(2 * len(looks_like_a_head)).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]})
        for more in (True, False):
            await send({"type": "http.response.body", "body": looks_like_a_head, "more_body": more})

    async with serving(app) as port:
        head, _, body = (await ask(port, LAST_REQUEST)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + line)
    assert body == 2 * looks_like_a_head


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


async def test_a_server_without_the_hook_does_not_offer_it(file: int):
    app = Sending(file, count=1, length=True, last=True)
    async with serving(app) as port:
        await ask(port, LAST_REQUEST)
    assert app.offered == [False]


def test_another_hypercorn_is_left_alone_with_one_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "version", lambda name: "0.19.0")
    with structlog.testing.capture_logs() as lines:
        assert not connection.install()
    assert hypercorn.trio.run.TCPServer is TCPServer  # type: ignore[attr-defined]
    assert [(line["log_level"], line["version"]) for line in lines] == [("warning", "0.19.0")]
