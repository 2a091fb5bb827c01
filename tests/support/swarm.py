"""Nodes that fetch a version from each other over a network in memory, in virtual time.

Every node has the real fetch code and the real admission of other nodes' requests. Simulated are the master, the
lines, and what a node sends for a request. Threads are replaced by plain calls: runs are reproducible.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import trio
import trio.testing

from master_shim.protocol import VersionNode
from tests.support.swarm_node import LATENCY_SECONDS, PIECE_BYTES, Fault, Line, Member, Node
from trionode.errors import OriginUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

    from store import Digest, Manifest


@dataclass
class Swarm:
    """A master that sends `content` with `rate` bytes per second, and its nodes."""

    content: bytes
    manifest: Manifest
    members: Sequence[Member]
    rate: float = 3e6
    away: tuple[float, float] = (0.0, 0.0)
    """From when until when the master does not answer."""

    def __post_init__(self) -> None:
        self.sent = 0
        """Bytes of the package that the master has sent."""
        self.nodes: dict[str, Node] = {}
        self._waits: Counter[tuple[str, str]] = Counter()
        """Requests in progress to nodes that do not have the whole: which node waits for which."""

    def run(self, seconds: float) -> float:
        """Return after how many seconds every node that stays was whole. Raises `trio.TooSlowError` after `seconds`."""

        async def call(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return function(*arguments)

        clock = trio.testing.MockClock(autojump_threshold=0.0)
        with patch.object(trio.to_thread, "run_sync", call):
            return trio.run(self._run, seconds, clock=clock)

    async def _run(self, seconds: float) -> float:
        self.master_line = Line(self.rate)
        self.nodes = {f"n{index}": Node(self, index, member) for index, member in enumerate(self.members)}
        began = trio.current_time()
        try:
            with trio.fail_after(seconds):
                async with trio.open_nursery() as nursery:
                    for node in self.nodes.values():
                        nursery.start_soon(node.run)
            for node in self.nodes.values():
                if node.member.fault is not Fault.DIES:
                    node.store.verify(self.manifest.digest)
            return trio.current_time() - began
        finally:
            for node in self.nodes.values():
                node.store.close()

    def master_of(self, node: Node) -> MasterClient:
        """Return the master as a node that starts sees it."""
        return MasterClient(self, node)

    @contextmanager
    def waiting(self, asker: str, node: Node) -> Iterator[None]:
        """Count a request to a node that is not whole, and fail if nodes wait for each other in a circle."""
        self._waits[asker, node.name] += 1
        found = {node.name}
        for _ in self.nodes:
            found |= {other for who, other in +self._waits if who in found}
        assert asker not in found, f"nodes wait for each other: {+self._waits}"
        try:
            yield
        finally:
            self._waits[asker, node.name] -= 1


class MasterClient:
    """The master as one node sees it."""

    def __init__(self, swarm: Swarm, node: Node) -> None:
        self._swarm = swarm
        self._node = node
        self._listed = 0

    async def _reach(self) -> None:
        await trio.sleep(LATENCY_SECONDS)
        if self._swarm.away[0] <= trio.current_time() - self._node.began < self._swarm.away[1]:
            raise OriginUnreachable("it is away")

    async def version_nodes(self, digest: Digest, node_id: str) -> list[VersionNode]:
        await self._reach()
        views = self._node.member.views
        seen = views[min(self._listed, len(views) - 1)] if views else None
        self._listed += 1
        return [
            VersionNode(node.name, f"{node.name}:1", held=node.held or node.member.claimed)
            for node in self._swarm.nodes.values()
            if seen is None or node.index in seen
        ]

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._reach()

        async def body() -> AsyncGenerator[bytes]:
            for at in range(start, stop, PIECE_BYTES):
                piece = self._swarm.content[at : min(stop, at + PIECE_BYTES)]
                await self._swarm.master_line.send(len(piece))
                await self._reach()
                self._swarm.sent += len(piece)
                yield piece

        async with aclosing(body()) as opened:
            yield opened
