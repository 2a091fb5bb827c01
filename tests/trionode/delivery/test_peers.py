"""What a running node answers to other nodes, on raw sockets, while its master has sent a part of the package."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from master_shim.protocol import FillProgress
from master_shim.protocol.chain import precedes
from tests.support.clients import asking
from tests.support.local_master import local_master
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.delivery.peers import MAX_CHILDREN, MAX_REQUESTS, MAX_URGENT_CHILDREN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.clients import Client
    from tests.support.local_master import LocalMaster
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode

MEETING = "/api/v1/meetings/m1"
NODE = "the-node"
MB = 1 << 20


class Half:
    """A node that waits for the rest of a package, and requests of other nodes to it."""

    def __init__(self, node: OurNode, master: LocalMaster, package: Package) -> None:
        self.node = node
        self.master = master
        self.package = package
        self.content = package.path.read_bytes()
        names = [f"node-{number}" for number in range(100)]
        self.behind = [name for name in names if precedes(package.digest, NODE, name)]
        self.before = [name for name in names if precedes(package.digest, name, NODE)]

    def request(self, asker: str | bytes, start: int = 0, size: int = 12 * MB) -> AbstractAsyncContextManager[Client]:
        """Ask for a range as another node does."""
        name = asker.encode() if isinstance(asker, str) else asker
        stop = min(start + size, len(self.content))
        fields = b"Trionode-Peer: %b\r\nRange: bytes=%d-%d\r\n" % (name, start, stop - 1)
        return asking(self.node.port, f"{MEETING}/download-package?v={self.package.digest}", fields=fields)

    async def status_for(self, asker: str | bytes) -> int:
        """Return the status of the answer to another node."""
        async with self.request(asker) as client:
            return int((await client.read_head()).split()[1])

    async def progress(self) -> FillProgress:
        """Return how far the node says it is."""
        answer = await self.node.get(f"{MEETING}/fill?v={self.package.digest}")
        return msgspec.json.decode(answer.content, type=FillProgress)

    async def finish(self) -> None:
        """Let the master send the rest."""
        self.master.allowed = 100 * MB
        await self.node.until_synced("m1")

    def requested(self, offset: int) -> int:
        """Return as the how many-th the range of an offset was requested from the master, which it was once."""
        found = [at for at, (_, start, stop) in enumerate(self.master.ranges) if start <= offset < stop]
        assert len(found) == 1, self.master.ranges
        return found[0]


@asynccontextmanager
async def half_of(folder: Path, start_node: StartNode) -> AsyncIterator[Half]:
    package = make_package(folder / "m1.zip", make_documents(12, 1_000_000), level=0)
    async with local_master(folder) as master:
        master.allowed = 3 * MB
        half = Half(start_node(master.url, env={"NODE_ID": NODE}), master, package)

        async def stopped() -> bool:
            return (await half.progress()).filled > 2 * MB

        await half.node.until_up()
        await eventually(stopped, within=20)
        yield half


@pytest.fixture
async def half(folder: Path, start_node: StartNode) -> AsyncIterator[Half]:
    async with half_of(folder, start_node) as made:
        yield made


async def test_a_range_is_sent_as_it_arrives_and_never_fetched_for_another_node(half: Half):
    progress = await half.progress()
    assert (progress.size, progress.held, progress.source) == (len(half.content), False, "")
    assert progress.filled < len(half.content)
    first, second = half.behind[:2]
    async with half.request(first) as whole, half.request(second, 11 * MB, 5000) as last:
        for client in (whole, last):
            assert (await client.read_head()).startswith(b"HTTP/1.1 206 ")
        while len(whole.body) < MB:
            assert await whole.read_some(MB)
        assert last.body == b""
        assert not (await half.progress()).held
        await half.finish()
        assert await whole.read_rest() == half.content
        assert await last.read_rest() == half.content[11 * MB : 11 * MB + 5000]
    assert set(half.master.ranges.values()) == {1}
    for offset in range(0, len(half.content), MB):
        half.requested(offset)


@pytest.mark.parametrize("offsets", [(10 * MB, 7 * MB), (7 * MB, 10 * MB)])
async def test_what_another_node_has_waited_for_longest_is_fetched_first(half: Half, offsets: tuple[int, int]):
    async with AsyncExitStack() as stack:
        clients = []
        for asker, offset in zip(half.behind, offsets, strict=False):
            clients.append(await stack.enter_async_context(half.request(asker, offset, 1000)))
            await clients[-1].read_head()
        await half.finish()
        for client, offset in zip(clients, offsets, strict=True):
            assert await client.read_rest() == half.content[offset : offset + 1000]
    assert half.requested(offsets[0]) < half.requested(offsets[1]) < half.requested(6 * MB)


async def test_more_nodes_than_allowed_are_refused_and_urgent_ones_later(half: Half):
    async with AsyncExitStack() as stack:

        async def admit(asker: str) -> None:
            client = await stack.enter_async_context(half.request(asker))
            assert b" 206 " in await client.read_head()

        for asker in half.behind[:MAX_CHILDREN]:
            await admit(asker)
        next_one = half.behind[MAX_CHILDREN]
        async with half.request(next_one) as refused:
            head = (await refused.read_head()).lower()
        assert head.startswith(b"http/1.1 503 ")
        assert b"\r\nretry-after: " in head
        for asker in half.behind[MAX_CHILDREN:MAX_URGENT_CHILDREN]:
            await admit(f"{asker};urgent")
        assert await half.status_for(f"{half.behind[MAX_URGENT_CHILDREN]};urgent") == 503
        # To clients this is no limit.
        async with asking(half.node.port, f"{MEETING}/download-package") as tablet:
            assert b" 200 " in await tablet.read_head()

    async def admitted() -> bool:
        return await half.status_for(next_one) == 206

    await eventually(admitted, what="there is a place again")


async def test_one_node_has_a_few_requests_at_a_time(half: Half):
    async with AsyncExitStack() as stack:
        for _ in range(MAX_REQUESTS):
            client = await stack.enter_async_context(half.request(half.behind[0], 6 * MB, 1000))
            assert b" 206 " in await client.read_head()
        assert await half.status_for(half.behind[0]) == 503


async def test_a_node_before_it_and_itself_must_not_wait_for_it(half: Half):
    for asker in (half.before[0], NODE, f"{half.before[0]};urgent"):
        assert await half.status_for(asker) == 409
    await half.finish()
    assert await half.status_for(half.before[0]) == 206


HOSTILE = {
    "long": b"x" * 7000,
    "no name": b";urgent",
    "bytes that are no text": b"\xff\xfe\x80",
    "twice": b"node-1\r\nTrionode-Peer: node-2",
    "many words": b"node-1;urgent;urgent;x=1, node-2",
    "braces": b"{node} %s %n ${jndi:x} ../../etc",
}


async def test_strange_names_of_nodes_do_no_harm(half: Half):
    for what, name in HOSTILE.items():
        assert await half.status_for(name) in {206, 400, 409, 431}, what
    for query in ("v=x", "v=", "v=" + "g" * 64):
        fields = b"Trionode-Peer: node-1\r\n"
        async with asking(half.node.port, f"{MEETING}/download-package?{query}", fields=fields) as client:
            assert b" 400 " in await client.read_head(), query
    await half.finish()
    for what, name in HOSTILE.items():
        async with half.request(name, 5, 1000) as client:
            if b" 206 " in await client.read_head():
                assert await client.read_rest() == half.content[5:1005], what
    assert "Traceback" not in half.node.process.log()
