"""A connection of HTTP/2 that takes no more requests, for each way to start the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.support.processes import spawner
from tests.support.servers import KINDS, start_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.support.servers import Server


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with spawner() as spawn:
        yield start_server(spawn, tmp_path_factory.mktemp("server"), request.param)


class RawClient:
    """A client that goes on after GOAWAY, which h2 does not."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._encoder = Encoder()
        self._received = b""
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.refused: set[int] = set()
        self.last_stream = 0
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SettingsFrame(0))

    def send(self, *frames: Frame | bytes) -> None:
        self._connection.sendall(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))

    def head(self, stream: int, path: str) -> HeadersFrame:
        fields = [(b":method", b"GET"), (b":path", path.encode()), (b":scheme", b"http"), (b":authority", b"x")]
        return HeadersFrame(stream, data=self._encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])

    def read(self) -> None:
        """Take what is received until one frame, and perhaps more, is complete."""
        data = self._connection.recv(1 << 16)
        assert data, "the connection ended"
        self._received += data
        while len(self._received) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._received[:9]))
            if len(self._received) < 9 + length:
                return
            frame.parse_body(memoryview(self._received[9 : 9 + length]))
            self._received = self._received[9 + length :]
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        stream = frame.stream_id
        if isinstance(frame, DataFrame):
            self.bodies[stream] = self.bodies.get(stream, b"") + frame.data
        elif isinstance(frame, GoAwayFrame):
            assert frame.error_code == 0
            self.last_stream = frame.last_stream_id
        elif isinstance(frame, RstStreamFrame):
            assert frame.error_code == ErrorCodes.REFUSED_STREAM
            self.refused.add(stream)
        if "END_STREAM" in frame.flags:
            self.ended.add(stream)


def test_a_download_is_completed_when_its_connection_takes_no_more_requests(server: Server):
    with server.connect() as connection:
        client = RawClient(connection)
        client.send(client.head(1, server.package))  # waits for its window
        for first in range(3, 2003, 50):
            streams = range(first, first + 50, 2)
            client.send(*(client.head(stream, "/health") for stream in streams))
            client.send(WindowUpdateFrame(0, window_increment=60_000))
            while not client.ended | client.refused >= set(streams):
                client.read()
        # 1,000 requests were taken, and whoever asked for more can tell that it was not answered.
        assert client.last_stream == 1999
        assert client.refused == {2001}
        while 1 not in client.ended:
            client.send(*(WindowUpdateFrame(stream, window_increment=1 << 20) for stream in (0, 1)))
            client.read()
        assert client.bodies[1] == server.content
