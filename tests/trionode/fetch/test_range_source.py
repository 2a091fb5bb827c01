"""One contract for every source of a package, over real sockets: the bytes that were asked for, or a typed error."""

from __future__ import annotations

import gzip
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from master_shim.protocol import PEER_FIELD, VersionNode
from store import Digest
from tests.support.processes import free_port
from trionode.errors import (
    MeetingUnknown,
    OriginError,
    OriginUnreachable,
    PeerFailed,
    PeerFailure,
    VersionGone,
)
from trionode.fetch.live_fill import LiveFill
from trionode.fetch.range_source import OriginSource, OriginStream, PeerSource, PeerStream
from trionode.master import transport
from trionode.master.client import Master
from trionode.master.transport import FetchPace
from trionode.peers.client import PeerClient
from trionode.stats import PeerStats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trionode.fetch.range_source import RangeSource, StreamSource

CONTENT = Random(1).randbytes(300_000)
DIGEST = Digest.of(CONTENT)
START, STOP = 100_000, 200_000
"""The range that is requested; a stream is requested from `START` on."""

FEW = 2
"""Connections of a client in these tests: with more requests than that, a leaked one is noticed."""


@dataclass
class Asked:
    """One request as the server has read it."""

    target: str
    fields: dict[str, str]
    stream: trio.SocketStream

    @property
    def wanted(self) -> bytes:
        """The bytes that a good server sends."""
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.fields.get("range", "")):
            return CONTENT[int(match[1]) : int(match[2]) + 1]
        return CONTENT[int(self.query.get("from", "0")) :]

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def good_head(self) -> tuple[int, dict[str, object]]:
        """Status and header fields of a good answer, without those that say how long it is."""
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.fields.get("range", "")):
            return 206, {"Content-Range": f"bytes {match[1]}-{match[2]}/{len(CONTENT)}"}
        return 200, {}

    async def head(self, status: int, **fields: object) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        await self.stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def answer(self, status: int, body: bytes, **fields: object) -> None:
        await self.head(status, **fields, Content_Length=len(body))
        await self.stream.send_all(body)

    async def answer_well(self, body: bytes, **fields: object) -> None:
        status, good = self.good_head
        await self.answer(status, body, **good | fields)


@dataclass
class Server:
    """Answers each request as `script` does; the connection stays open unless the script closes it."""

    script: Callable[[Asked], Awaitable[None]]
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    has_asked: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            pending = b""
            while True:
                while b"\r\n\r\n" not in pending:
                    data = await stream.receive_some()
                    if not data:
                        return
                    pending += data
                head, _, pending = pending.partition(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                asked = Asked(first.split(" ")[1], fields, stream)
                self.asked.append(asked)
                self.has_asked.set()
                await self.script(asked)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client, or the script, has closed the connection
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serving(script: Callable[[Asked], Awaitable[None]]) -> AsyncIterator[Server]:
    server = Server(script)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Kind:
    """One implementation, and what it raises. `peer`: another node, else the master."""

    name: str
    peer: bool
    ranges: bool

    @property
    def start(self) -> int:
        """The first byte that is requested: of a stream, the master sends the whole."""
        return START if self.ranges or self.peer else 0

    @property
    def wanted(self) -> bytes:
        return CONTENT[self.start : STOP if self.ranges else len(CONTENT)]

    @property
    def gone(self) -> type[Exception]:
        """What the master's 404 means."""
        return VersionGone if self.ranges else MeetingUnknown


# httpx leaves its own generators to the garbage collector when a body is not read to its end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("OriginSource", peer=False, ranges=True),
        Kind("PeerSource", peer=True, ranges=True),
        Kind("OriginStream", peer=False, ranges=False),
        Kind("PeerStream", peer=True, ranges=False),
    )
}


class Client:
    """A source of one kind at a port of this machine. `read` reads what `kind` requests, into `received`."""

    def __init__(self, kind: Kind, port: int) -> None:
        self.kind = kind
        self.received = b""
        self.stats = PeerStats()
        pace = FetchPace()
        self.master = Master(f"http://127.0.0.1:{port}", pace=pace)
        self.peers = PeerClient("asker", self.stats, None, pace)
        self.peer = VersionNode("peer", f"127.0.0.1:{port}")

    @property
    def transport(self) -> transport.Transport:
        return (self.peers if self.kind.peer else self.master)._transport

    def range_source(self) -> RangeSource:
        if self.kind.peer:
            return PeerSource(self.peers, self.peer, "m 1", DIGEST, urgent=False)
        return OriginSource(self.master, DIGEST)

    def stream_source(self) -> StreamSource:
        if self.kind.peer:
            return PeerStream(self.peers, self.peer, LiveFill("m 1", token="t&1"), urgent=True)
        return OriginStream(self.master, "m 1")

    async def read(self) -> None:
        self.received = b""
        if self.kind.ranges:
            opened = self.range_source().open_range(START, STOP)
        else:
            opened = self.stream_source().open_stream(self.kind.start)
        async with opened as body:
            async for data in body:
                self.received += data

    async def aclose(self) -> None:
        await self.master.aclose()
        await self.peers.aclose()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECTIONS", FEW)


@asynccontextmanager
async def client_of(kind: Kind, port: int) -> AsyncIterator[Client]:
    client = Client(kind, port)
    try:
        yield client
    finally:
        await client.aclose()


# -- The scripts


async def right(asked: Asked) -> None:
    await asked.answer_well(asked.wanted)


async def right_chunked(asked: Asked) -> None:
    status, fields = asked.good_head
    await asked.head(status, **fields, Transfer_Encoding="chunked")
    for at in range(0, len(asked.wanted), 33_333):
        piece = asked.wanted[at : at + 33_333]
        await asked.stream.send_all(b"%x\r\n%b\r\n" % (len(piece), piece))
    await asked.stream.send_all(b"0\r\n\r\n")


async def right_slow(asked: Asked) -> None:
    status, fields = asked.good_head
    await asked.head(status, **fields, Content_Length=len(asked.wanted))
    for at in range(0, len(asked.wanted), 2_000):
        await asked.stream.send_all(asked.wanted[at : at + 2_000])
        await trio.sleep(0.001)


async def wrong_bytes(asked: Asked) -> None:
    await asked.answer_well(bytes(byte ^ 0xFF for byte in asked.wanted))


async def short(asked: Asked) -> None:
    await asked.answer_well(asked.wanted[:-1])


async def cut(asked: Asked) -> None:
    status, fields = asked.good_head
    await asked.head(status, **fields, Content_Length=len(asked.wanted))
    await asked.stream.send_all(asked.wanted[:50_000])
    await asked.stream.aclose()


async def cut_chunked(asked: Asked) -> None:
    status, fields = asked.good_head
    await asked.head(status, **fields, Transfer_Encoding="chunked")
    await asked.stream.send_all(b"%x\r\n%b\r\n" % (50_000, asked.wanted[:50_000]))
    await asked.stream.aclose()


async def cut_in_head(asked: Asked) -> None:
    await asked.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asked.stream.aclose()


async def no_http(asked: Asked) -> None:
    await asked.stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await asked.stream.aclose()


async def one_too_many(asked: Asked) -> None:
    await asked.answer_well(asked.wanted + b"x")


async def endless(asked: Asked) -> None:
    status, fields = asked.good_head
    await asked.head(status, **fields, Transfer_Encoding="chunked")
    data = asked.wanted
    while True:
        await asked.stream.send_all(b"%x\r\n%b\r\n" % (len(data), data))


async def silent(asked: Asked) -> None:
    assert await asked.stream.receive_some() == b"", "the client has closed the connection"


async def silent_in_body(asked: Asked) -> None:
    status, fields = asked.good_head
    await asked.head(status, **fields, Content_Length=len(asked.wanted))
    await asked.stream.send_all(asked.wanted[:10])
    await silent(asked)


async def refusal(status: int, asked: Asked, **fields: object) -> None:
    await asked.answer(status, b'{"detail": "because"}', Content_Type="application/json", **fields)


async def page(asked: Asked) -> None:
    await asked.answer_well(b"<html>a router</html>", Content_Type="text/html; charset=utf-8")


async def wrong_content_range(asked: Asked) -> None:
    await asked.answer(206, asked.wanted, Content_Range=f"bytes 0-{len(asked.wanted) - 1}/{len(CONTENT)}")


async def no_content_range(asked: Asked) -> None:
    await asked.answer(206, asked.wanted)


async def whole(asked: Asked) -> None:
    await asked.answer(200, CONTENT)


async def gzipped(asked: Asked) -> None:
    await asked.answer_well(gzip.compress(asked.wanted), Content_Encoding="gzip")


async def gzipped_to_the_length(asked: Asked) -> None:
    await asked.answer_well(asked.wanted, Content_Encoding="gzip")


async def elsewhere(asked: Asked) -> None:
    await asked.answer(302, b"", Location="http://127.0.0.1:1/other")


UNREACHABLE, BUSY, REFUSED = PeerFailure.UNREACHABLE, PeerFailure.BUSY, PeerFailure.REFUSED

FAULTS: dict[str, tuple[Callable[[Asked], Awaitable[None]], type[Exception] | None, PeerFailure]] = {
    "cut": (cut, OriginUnreachable, UNREACHABLE),
    "cut, of unknown length": (cut_chunked, OriginUnreachable, UNREACHABLE),
    "cut in the head": (cut_in_head, OriginUnreachable, UNREACHABLE),
    "no HTTP": (no_http, OriginUnreachable, UNREACHABLE),
    "404": (partial(refusal, 404), None, REFUSED),
    "403": (partial(refusal, 403), OriginError, REFUSED),
    "409": (partial(refusal, 409), OriginError, REFUSED),
    "500": (partial(refusal, 500), OriginError, REFUSED),
    "503": (partial(refusal, 503, Retry_After=3), OriginError, BUSY),
    "a page": (page, OriginError, REFUSED),
    "a redirect": (elsewhere, OriginError, REFUSED),
    "gzip": (gzipped, OriginError, REFUSED),
    "gzip to the length": (gzipped_to_the_length, OriginError, REFUSED),
}
"""The script, what it means at the master (None: the version or meeting is gone), and at another node."""

RANGE_FAULTS: dict[str, tuple[Callable[[Asked], Awaitable[None]], type[Exception] | None, PeerFailure]] = {
    "short": (short, OriginUnreachable, UNREACHABLE),
    "one byte too many": (one_too_many, OriginError, REFUSED),
    "endless": (endless, OriginError, REFUSED),
    "another range": (wrong_content_range, OriginError, REFUSED),
    "which range is not said": (no_content_range, OriginError, REFUSED),
    "the whole": (whole, OriginError, REFUSED),
}
"""The same for sources that know how much has to arrive."""


def expectation(kind: Kind, at_master: type[Exception] | None, at_peer: PeerFailure) -> Any:
    return pytest.raises(PeerFailed if kind.peer else at_master or kind.gone)


async def check_fault(
    kind: Kind,
    script: Callable[[Asked], Awaitable[None]],
    at_master: type[Exception] | None,
    at_peer: PeerFailure,
) -> None:
    """Meet the fault more often than there are connections; then the same client gets the bytes of a good server."""
    async with serving(script) as server, client_of(kind, server.port) as client:
        for _ in range(2 * FEW + 1):
            with expectation(kind, at_master, at_peer) as raised:
                await client.read()
            if kind.peer:
                assert (raised.value.node_id, raised.value.failure) == ("peer", at_peer)
            assert client.received == kind.wanted[: len(client.received)], "only bytes of the range"
        server.script = right
        await client.read()
        assert client.received == kind.wanted
        assert not client.transport._in_use, "no connection was leaked"
        assert server.connections <= FEW


@pytest.mark.usefixtures("few_connections")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_has_its_error_and_leaks_no_connection(kind: Kind, fault: str):
    await check_fault(kind, *FAULTS[fault])


@pytest.mark.usefixtures("few_connections")
@pytest.mark.parametrize("name", ["OriginSource", "PeerSource"])
@pytest.mark.parametrize("fault", RANGE_FAULTS)
async def test_a_range_is_never_shorter_or_longer_or_another_one(name: str, fault: str):
    await check_fault(KINDS[name], *RANGE_FAULTS[fault])


@pytest.mark.parametrize("script", [right, right_chunked, right_slow])
async def test_the_bytes_that_were_asked_for_arrive(kind: Kind, script: Callable[[Asked], Awaitable[None]]):
    async with serving(script) as server, client_of(kind, server.port) as client:
        await client.read()
        await client.read()
        assert client.received == kind.wanted
        counted = client.stats.bytes_fetched if kind.peer else client.master.bytes_fetched
        assert counted == 2 * len(kind.wanted)
        assert server.connections == 1, "a connection whose body was read is used again"


async def test_wrong_bytes_arrive_as_they_are_since_only_the_fill_can_verify_them(kind: Kind):
    async with serving(wrong_bytes) as server, client_of(kind, server.port) as client:
        await client.read()
        assert len(client.received) == len(kind.wanted)
        assert client.received != kind.wanted


async def test_another_node_is_asked_in_the_name_of_this_one():
    async with serving(right) as server:
        async with client_of(KINDS["PeerSource"], server.port) as client:
            await client.read()
        async with client_of(KINDS["PeerStream"], server.port) as client:
            await client.read()
    ranges, stream = server.asked
    assert urlsplit(ranges.target).path == urlsplit(stream.target).path == "/api/v1/meetings/m%201/download-package"
    assert ranges.fields[PEER_FIELD.lower()] == "asker"
    assert (ranges.query, ranges.fields["range"]) == ({"v": DIGEST}, f"bytes={START}-{STOP - 1}")
    assert stream.fields[PEER_FIELD.lower()] == "asker;urgent"
    assert (stream.query, "range" in stream.fields) == ({"token": "t&1", "from": str(START)}, False)


async def test_a_refused_connection_is_no_answer(kind: Kind):
    async with client_of(kind, free_port()) as client:
        with expectation(kind, OriginUnreachable, UNREACHABLE) as raised:
            await client.read()
        if kind.peer:
            assert raised.value.failure is UNREACHABLE


@pytest.mark.parametrize("script", [silent, silent_in_body])
async def test_silence_is_no_answer_after_the_time_limit(
    kind: Kind, script: Callable[[Asked], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transport, "STALL_SECONDS", 0.05)
    async with serving(script) as server, client_of(kind, server.port) as client:
        with expectation(kind, OriginUnreachable, UNREACHABLE) as raised:
            await client.read()
        if kind.peer:
            assert raised.value.failure is UNREACHABLE
        assert kind.wanted.startswith(client.received)


@pytest.mark.usefixtures("few_connections")
@pytest.mark.parametrize("script", [silent, silent_in_body])
async def test_a_request_to_a_silent_source_can_be_cancelled_any_number_of_times(
    kind: Kind, script: Callable[[Asked], Awaitable[None]]
):
    async with serving(script) as server:
        async with client_of(kind, server.port) as client:
            for _ in range(2 * FEW + 1):
                server.has_asked = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.read)
                    await server.has_asked.wait()
                    nursery.cancel_scope.cancel()
            server.script = right
            await client.read()
            assert client.received == kind.wanted
        with trio.fail_after(10):
            while server.connections:
                await trio.sleep(0.01)


async def test_the_digest_of_a_stream_is_what_its_node_has_computed():
    async def answers(asked: Asked) -> None:
        await asked.answer(200, next(bodies), Content_Type="application/json")

    good = b'{"filled": 3, "digest": "%b"}' % DIGEST.encode()
    bodies = iter([b'{"filled": 3}', good, b'{"filled": 0}', b'{"filled": 3, "digest": 1}', b"[", b"\xff"])
    async with serving(answers) as server, client_of(KINDS["PeerStream"], server.port) as client:
        source = client.stream_source()
        assert await source.digest() is None
        assert await source.digest() == DIGEST
        for _ in range(4):
            with pytest.raises(PeerFailed) as raised:
                await source.digest()
            assert raised.value.failure is REFUSED
        assert server.asked[0].query == {"token": "t&1"}
    async with client_of(KINDS["OriginStream"], free_port()) as client:
        assert await client.stream_source().digest() is None
