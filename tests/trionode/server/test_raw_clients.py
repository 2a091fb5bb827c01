"""What clients send that is unusual and has to be answered, for each way to start the server."""

from __future__ import annotations

import contextlib
import json
import socket
from functools import partial
from typing import TYPE_CHECKING

import h2.connection
import h2.events
import h2.settings
import httpx
import pytest
import trio

from tests.support.clients import asking
from tests.support.processes import spawner
from tests.support.servers import KINDS, Answer, read_to_end, start_server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import Spawner
    from tests.support.servers import Kind, Server

HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with spawner() as spawn:
        yield start_server(spawn, tmp_path_factory.mktemp("server"), request.param)


# -- bytes behind the last request of a connection, and before a request line


LAST = {"a request that closes": "HTTP/1.1\r\nHost: x\r\nConnection: close", "HTTP 1.0": "HTTP/1.0\r\nHost: x"}

BEHIND = {
    "an empty line": b"\r\n",
    "a second request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": b"\0\xff\x16\x03 what follows\r\n\r\n",
    "more than a head may have": b"x" * 100_000,
}


@pytest.mark.parametrize("separately", [False, True])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
def test_what_follows_the_last_request_is_ignored(server: Server, last: str, behind: bytes, separately: bool):
    for path in (server.package, "/health"):
        request = f"GET {path} {last}\r\n\r\n".encode()
        answer = server.exchange(request, behind) if separately else server.exchange(request + behind)
        assert answer.status == 200, answer.raw[:1000]
        assert len(answer.body) == int(answer.fields["content-length"])
        assert path == "/health" or answer.body == server.content
    assert "Traceback" not in server.process.log()


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_empty_lines_before_a_request_line_are_ignored(server: Server, empty: bytes):
    kept = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for parts in ((empty + last,), (empty[:1], empty[1:] + last), (kept + empty + last,), (kept, empty, last)):
        answer = server.exchange(*parts)
        assert answer.raw.count(b"HTTP/1.1 200 ") == b"".join(parts).count(b"GET "), answer.raw
        assert b"HTTP/1.1 4" not in answer.raw


def test_a_client_that_sends_on_gets_the_whole_of_the_last_answer(server: Server):
    """Bytes that arrive when a connection is already closed would make the kernel discard the end of the answer."""
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.sendall(f"GET {server.package} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = bytearray()
        while part := connection.recv(64 << 10):
            received += part
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"more")
    assert Answer(bytes(received)).body == server.content


@pytest.mark.parametrize(
    "fields", ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
)
def test_a_request_with_two_lengths_is_the_last_of_its_connection(server: Server, fields: str):
    """A proxy that believes the other length takes the second request for a part of a body (RFC 9112, 6.1)."""
    request = f"POST /api/v1/nodes/heartbeat HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n"
    answer = server.exchange(f"{request}GET {server.package} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.raw.count(b"HTTP/1.1 ") == 1
    assert answer.fields["connection"] == "close"


def test_https_at_a_port_of_http_is_logged(server: Server):
    hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(200)
    for _ in range(3):
        assert server.exchange(hello).status == 400
    assert server.process.log().count("a client speaks https to this port, which speaks http") == 1


# -- clients that close their sending side after the request


HALF_CLOSED = {
    "kept alive": "HTTP/1.1\r\nHost: x",
    "closing": "HTTP/1.1\r\nHost: x\r\nConnection: close",
    "HTTP 1.0": "HTTP/1.0",
    "with a body": "HTTP/1.1\r\nHost: x\r\nContent-Length: 0",
}


@pytest.mark.parametrize("fields", HALF_CLOSED.values(), ids=HALF_CLOSED)
def test_a_client_that_closes_its_sending_side_gets_the_whole_answer(server: Server, fields: str):
    paths = [server.package, "/health", "/", *(() if server.kind == "shim" else ("/api/status", "/metrics"))]
    for path in paths * 3:
        answer = server.exchange(f"GET {path} {fields}\r\n\r\n".encode(), half_close=True)
        assert answer.status == 200, path
        assert len(answer.body) == int(answer.fields["content-length"]), path
        assert path != server.package or answer.body == server.content


def test_all_requests_before_the_end_of_the_sending_side_are_answered(server: Server):
    request = f"GET {server.package} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answer = server.exchange(2 * request, half_close=True)
    assert answer.raw.count(b"HTTP/1.1 200 ") == 2
    assert answer.raw.count(server.content) == 2


def test_a_request_whose_body_ends_early_is_not_waited_for(server: Server):
    path = "/api/v1/nodes/heartbeat" if server.kind == "shim" else "/api/config"
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()
    # None if the application was just about to answer as the error was found.
    assert server.exchange(request, half_close=True).raw[9:12] in {b"400", b"403", b""}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "shim"])
async def test_a_client_that_closes_its_sending_side_may_wait_for_its_turn(spawn: Spawner, tmp_path: Path, kind: Kind):
    server = start_server(spawn, tmp_path, kind, max_downloads=1)
    request = f"GET {server.package} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with asking(server.port, server.package) as first:
        await first.read_head()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                answer = await trio.to_thread.run_sync(partial(server.exchange, request, half_close=True))
                assert answer.status == 200
                assert answer.body == server.content

            nursery.start_soon(wait)
            await eventually(lambda: queued(server) == 1, what="the second request is queued")
            assert await first.read_rest() == server.content


def queued(server: Server) -> int:
    count: int = httpx.get(f"http://127.0.0.1:{server.port}/api/status", trust_env=False).json()["queued_downloads"]
    return count


# -- HTTP/2 in clear text


@pytest.mark.parametrize("with_settings", [False, True])
def test_a_client_of_http_2_that_requests_nothing_is_disconnected(server: Server, with_settings: bool):
    client = h2.connection.H2Connection()
    client.initiate_connection()
    sent = client.data_to_send()
    answer = server.exchange(sent if with_settings else sent[: len(HTTP_2_PREFACE)])
    assert isinstance(client.receive_data(answer.raw)[0], h2.events.RemoteSettingsChanged)


def test_a_client_of_http_2_that_gives_up_its_only_request_is_disconnected(server: Server):
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})  # no bytes of the body
    names = (":method", "GET"), (":path", server.package), (":scheme", "http"), (":authority", "x")
    client.send_headers(1, names, end_stream=True)
    with server.connect() as connection:
        connection.sendall(client.data_to_send())
        events: list[h2.events.Event] = []
        while not any(isinstance(event, h2.events.ResponseReceived) for event in events):
            events += client.receive_data(connection.recv(1 << 16))
        client.reset_stream(1)
        connection.sendall(client.data_to_send())
        read_to_end(connection)


# -- errors that the server itself answers


REFUSED = {
    "no HTTP": (400, b"hello\r\n\r\n"),
    "no host": (400, b"GET /health HTTP/1.1\r\n\r\n"),
    "two lengths": (400, b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "a head that is too large": (431, b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (1 << 17)),
    "an unknown encoding": (501, b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "a chunk without size": (400, b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
}


@pytest.mark.parametrize(("status", "request_bytes"), REFUSED.values(), ids=REFUSED)
def test_errors_of_the_server_itself_have_a_detail_and_may_be_read_by_pages(
    server: Server, status: int, request_bytes: bytes
):
    answer = server.exchange(request_bytes)
    assert answer.status == status
    assert answer.fields["access-control-allow-origin"] == "*"
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["cache-control"] == "no-store"
    assert answer.fields["connection"].lower() == "close"
    assert int(answer.fields["content-length"]) == len(answer.body)
    (detail,) = json.loads(answer.body).values()
    assert len(detail) > 10


# -- requests that are not valid, or ask for what is not there


@pytest.mark.parametrize("target", ["?", "?v=1", "health", "ftp://x/health", "*"])
def test_a_target_that_is_no_path_is_answered_404(server: Server, target: str):
    answer = server.exchange(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.status == 404, answer.raw
    assert "detail" in json.loads(answer.body)
    assert answer.fields["access-control-allow-origin"] == "*"
    assert "Traceback" not in server.process.log()


def test_an_absolute_target_may_have_any_host(server: Server):
    request = b"GET http://[::1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert server.exchange(request).status == 200
    assert "Traceback" not in server.process.log()


@pytest.mark.parametrize("fields", ["Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "X: y"])
def test_a_request_for_a_websocket_gets_an_ordinary_answer(server: Server, fields: str):
    """No route has one, and a server may ignore Upgrade (RFC 9110, 7.8)."""
    upgrade = f"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n{fields}"
    for half_close in (False, True):
        assert server.exchange(f"GET /health {upgrade}\r\n\r\n".encode(), half_close=half_close).status == 200
        answer = server.exchange(f"GET {server.package} {upgrade}\r\n\r\n".encode(), half_close=half_close)
        assert answer.body == server.content


def test_a_body_that_becomes_invalid_during_the_answer_cuts_it_off(server: Server):
    request = f"GET {server.package} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n".encode()
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.sendall(request)
        received = connection.recv(1 << 16)
        connection.sendall(b"abXX\r\n")
        received += read_to_end(connection)
    answer = Answer(received)
    assert answer.status == 200
    assert len(answer.body) < len(server.content)
    assert "Traceback" not in server.process.log()


@pytest.mark.parametrize("path", ["/health", "/none", "/api/v1/meetings/big/download-package"])
def test_a_chunked_body_that_is_too_large_gets_a_whole_answer_and_the_connection_is_closed(server: Server, path: str):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for _ in range(3):
        answer = server.exchange(head + b"%x\r\n" % (2 << 20) + bytes(2 << 20) + b"\r\n0\r\n\r\n")
        assert answer.status in {404, 405, 413}
        assert len(answer.body) == int(answer.fields["content-length"])
