"""What clients send that is unusual and has to be answered, for each way to start the server."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import spawner
from tests.support.servers import KINDS, Answer, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server


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
