"""Frames of HTTP/2 that are invalid, useless or too many, for each way to start the server."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)

from tests.support.processes import spawner
from tests.support.servers import KINDS, read_to_end, start_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.support.servers import Server

Fields = list[tuple[bytes, bytes]]

SMALL_WINDOW = 65_535


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with spawner() as spawn:
        yield start_server(spawn, tmp_path_factory.mktemp("server"), request.param)


class Client:
    """A client of HTTP/2 in clear text that can send any frame."""

    def __init__(self, connection: socket.socket) -> None:
        config = h2.config.H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._connection = connection
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.flush()

    def flush(self, *frames: bytes) -> None:
        self._connection.sendall(self.h2.data_to_send() + b"".join(frames))

    def request(self, stream: int, path: str | None, *, method: str = "GET", end: bool = True) -> None:
        names: Fields = [(b":method", method.encode()), (b":authority", b"x")]
        if path is not None:
            names[1:1] = [(b":path", path.encode("latin-1")), (b":scheme", b"http")]
        self.h2.send_headers(stream, names, end_stream=end)
        self.flush()

    def answer(self, stream: int) -> tuple[int, bytes]:
        """Read until this stream has ended; return its status (0: reset, -1: the connection ended) and body."""
        status, body = 0, b""
        while True:
            for event in self.events:
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return status, body
                elif isinstance(event, h2.events.StreamReset):
                    return 0, body
            data = b""
            with contextlib.suppress(ConnectionError):
                data = self._connection.recv(1 << 16)
            if not data:
                return -1, body
            self.events = self.h2.receive_data(data)
            for event in self.events:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client. At the end the server still serves, and has logged no traceback."""
    before = len(server.process.log())
    with server.connect() as connection:
        yield Client(connection)
    with server.connect() as connection:
        other = Client(connection)
        other.request(1, server.package)
        assert other.answer(1) == (200, server.content)
    log = server.process.log()[before:]
    assert "Traceback" not in log
    assert "crashed" not in log


def priority(stream: int, depends_on: int) -> bytes:
    return PriorityFrame(stream, depends_on=depends_on, stream_weight=1).serialize()


def until_closed(client: Client) -> None:
    with contextlib.suppress(ConnectionError):  # while it sends
        client.flush()
    read_to_end(client._connection)


# -- priorities


def test_a_stream_that_depends_on_itself_ends_the_connection(client: Client):
    client.flush(priority(3, 3))
    until_closed(client)


def test_a_request_that_depends_on_itself_ends_the_connection(client: Client):
    block = client.h2.encoder.encode(
        [(b":method", b"GET"), (b":path", b"/health"), (b":scheme", b"http"), (b":authority", b"x")]
    )
    frame = HeadersFrame(1, data=block, depends_on=1, flags=["END_HEADERS", "END_STREAM", "PRIORITY"])
    client.flush(frame.serialize())
    until_closed(client)


TREES = {
    "side by side": b"".join(priority(number, 0) for number in range(3, 9_001, 2)),
    "in a chain": b"".join(priority(number + 2, number) for number in range(3, 9_001, 2)),
    "in a circle": priority(5, 3) + priority(7, 5) + priority(3, 7) + priority(5, 7),
}


@pytest.mark.parametrize("frames", TREES.values(), ids=TREES)
def test_priorities_of_streams_that_are_not_open_change_nothing(client: Client, server: Server, frames: bytes):
    client.flush(frames)
    client.request(9_001, server.package)
    client.flush(frames)
    assert client.answer(9_001) == (200, server.content)


# -- a change to HTTP/2 that is not by its preface


@pytest.mark.parametrize("settings", ["AAAA", "!", "", "AAMAAABkAAQCAAAAAAIAAAA"])
def test_an_upgrade_to_http_2_is_not_made(server: Server, client: Client, settings: str):
    fields = f"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: {settings}\r\n\r\n"
    answer = server.exchange(f"GET {server.package} HTTP/1.1\r\nHost: x\r\n{fields}".encode())
    assert answer.status == 200
    assert answer.body == server.content


# -- requests that cannot be passed to the application


def test_a_tunnel_is_refused(client: Client):
    client.request(1, None, method="CONNECT", end=False)
    status, body = client.answer(1)
    assert status == 400
    assert json.loads(body)["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/caf\xe9"), ("G\xe9T", "/health")])
def test_a_request_that_is_not_ascii_is_refused(client: Client, server: Server, method: str, path: str):
    client.request(1, path, method=method)
    status, body = client.answer(1)
    assert status == 400
    assert json.loads(body)["detail"]
    client.request(3, server.package)
    assert client.answer(3) == (200, server.content)


# -- bodies that nobody reads


def test_a_body_that_goes_on_after_the_answer_leaves_the_connection_usable(client: Client, server: Server):
    client.request(1, "/none", method="POST", end=False)
    assert client.answer(1)[0] in {404, 405}
    # As much as the window of the connection: unless it is given back, no later request can have a body.
    for _ in range(SMALL_WINDOW // 8192):
        client.flush(DataFrame(1, data=bytes(8192)).serialize())
    client.request(3, server.package)
    assert client.answer(3) == (200, server.content)
    client.flush()
    assert client.h2.outbound_flow_control_window > SMALL_WINDOW // 2


def test_a_body_that_is_not_read_does_not_stop_the_answer(client: Client, server: Server):
    client.request(1, server.package, end=False)
    client.flush(*(DataFrame(1, data=b"x").serialize() for _ in range(50)))
    assert client.answer(1) == (200, server.content)


# -- floods


def rapid_resets() -> Iterator[bytes]:
    encoder = h2.connection.H2Connection().encoder
    fields = [(b":method", b"GET"), (b":path", b"/health"), (b":scheme", b"http"), (b":authority", b"x")]
    for stream in range(1, 10_001, 2):
        head = HeadersFrame(stream, data=encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        yield head.serialize() + RstStreamFrame(stream).serialize()


def continuations() -> Iterator[bytes]:
    yield HeadersFrame(1, data=b"").serialize()
    for _ in range(10_000):
        yield ContinuationFrame(1, data=b"").serialize()


FLOODS = {
    "SETTINGS": lambda: iter([SettingsFrame(0).serialize()] * 50_000),
    "PING": lambda: iter([PingFrame(0).serialize()] * 50_000),
    "requests that are given up": rapid_resets,
    "CONTINUATION": continuations,
}


@pytest.mark.parametrize("frames", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_with_its_connection(client: Client, frames: type[Iterator[bytes]]):
    """Read only after all has been sent, if the server reads on meanwhile: what it sends back is bounded."""
    everything = b"".join(frames())
    client._connection.settimeout(3)
    with contextlib.suppress(OSError):
        for start in range(0, len(everything), 1 << 16):
            client.flush(everything[start : start + (1 << 16)])
    client._connection.settimeout(20)
    read_to_end(client._connection)
