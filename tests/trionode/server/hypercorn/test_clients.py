"""Clients of a running node that take their time, misbehave, or are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.clients import asking
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.nodes import OurNode, Start
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


async def test_a_client_below_the_minimum_data_rate_is_cut_off_and_one_above_it_is_not(
    fakes: FakeFactory, folder: Path, big: Package, start_node: StartNode
):
    master = fakes.master(folder, started=("big",))
    node = start_node(master.url, progress_seconds=1, progress_bytes="64K")
    await node.until_synced("big")
    async with asking(node.port, PATH) as stopped, asking(node.port, PATH) as slow, trio.open_nursery() as nursery:
        await stopped.read_head()
        await slow.read_head()
        nursery.start_soon(slow.read_slowly, 1_500_000)

        async def broken_off() -> bool:
            return (await node.status())["downloads_broken_off"] == 1

        await eventually(broken_off, within=20)
        with trio.move_on_after(2):  # twice the time that it has
            await trio.sleep_forever()
        assert (await node.status())["downloads_broken_off"] == 1
        nursery.cancel_scope.cancel()
        assert digest_of(await slow.read_rest()) == big.digest


@pytest.mark.parametrize("how", ["serve", "hypercorn-trio"])
async def test_headers_without_an_end_are_cut_off(start_node: StartNode, how: Start):
    node = start_node("http://127.0.0.1:1", how=how)
    await node.until_up()
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(b"GET /health HTTP/1.1\r\n")

        async def trickle() -> None:
            try:
                while True:
                    await stream.send_all(b"X-A: b\r\n")
                    await trio.sleep(0.2)
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(trickle)
        with trio.fail_after(15):
            try:
                while await stream.receive_some(1024):
                    pass
            except trio.BrokenResourceError:
                pass
        nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_closed_after_its_answer(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    node = start_node(fakes.master(folder, started=("m1",)).url)
    await node.until_synced("m1")
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    received = b""
    async with stream:
        await stream.send_all(b"GET /api/v1/meetings/m1/download-package HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(20):
            # Ends with the connection: the request has not asked for its end.
            async for data in stream:
                received += data
    assert received.startswith(b"HTTP/1.1 200")
    assert received.partition(b"\r\n\r\n")[2] == package.path.read_bytes()


async def test_a_connection_above_the_limit_is_refused_until_another_has_ended(start_node: StartNode):
    node = start_node("http://127.0.0.1:1", max_connections=3)
    await node.until_up()
    await eventually(lambda: is_served(node))
    streams: list[trio.SocketStream] = []

    async def hold() -> bool:
        """Hold one more connection open; False while one that was closed is still counted."""
        stream = await trio.open_tcp_stream("127.0.0.1", node.port)
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        if not (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200"):
            await stream.aclose()
            return False
        streams.append(stream)
        return True

    try:
        for _ in range(3):
            await eventually(hold)
        refused = await node.get("/health")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
        assert refused.json() == {"detail": "Too many connections now"}
        assert refused.headers["access-control-allow-origin"] == "*"
        await streams.pop().aclose()
        await eventually(lambda: is_served(node))
    finally:
        for stream in streams:
            await stream.aclose()


async def is_served(node: OurNode) -> bool:
    return (await node.get("/health")).status_code == 200
