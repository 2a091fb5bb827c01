"""One node of `tests.support.swarm`, and its requests to the others."""

from __future__ import annotations

import os
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from master_shim.protocol import FillProgress, VersionNode
from store import StoreError
from tests.support.memory_store import MemoryStore
from trionode.backoff import retry_seconds
from trionode.delivery.peers import PeerRequests
from trionode.errors import FillFailed, NodeError, NotBehind, PeerFailed, PeerFailure, PeersBusy
from trionode.fetch.live_fill import LiveFill
from trionode.fetch.manifest_fetch import ManifestFetcher
from trionode.fetch.source_factory import Peers, SourceFactory
from trionode.peers.client import CALL_SECONDS
from trionode.peers.directory import Directory
from trionode.stats import PeerStats

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from store import Digest
    from tests.support.swarm import Swarm

LATENCY_SECONDS = 0.001
PIECE_BYTES = 128 << 10
STALL_SECONDS = 30.0
"""A body of which nothing arrives for so long has failed."""
START_SECONDS = 15.0
"""A request waits so long for the fill to begin."""
RESTART_SECONDS = 3.0


class Fault(Enum):
    """What is wrong with a node from a moment on. All but `DIES` still end whole."""

    NONE = "none"
    DIES = "dies"
    RESTARTS = "dies, and starts again"
    SILENT = "answers no other node"
    LIES = "sends wrong bytes"
    FULL = "has no place"
    REFUSES = "refuses"


@dataclass(frozen=True)
class Member:
    """A node as the test describes it. Times in seconds, `rate` in bytes per second that it sends.

    `views` are the nodes that the master lists to it, by their indexes, at the first listing, the second and so on; the
    last one stays. Without any, all are listed. `claimed`: it is listed as if it had the whole version.
    """

    starts: float = 0.0
    rate: float = 6e6
    fault: Fault = Fault.NONE
    since: float = 0.0
    views: tuple[frozenset[int], ...] = ()
    claimed: bool = False


class Line:
    """What a machine can send: one piece after the other, those that wait take turns."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = trio.Lock()

    async def send(self, size: int) -> None:
        async with self._lock:
            await trio.sleep(size / self._rate)


class Client:
    """Requests of the node `name` to other ones, as `PeerClient` makes them."""

    def __init__(self, swarm: Swarm, name: str) -> None:
        self._swarm = swarm
        self._name = name

    async def _reach(self, peer: VersionNode) -> Node:
        node = self._swarm.nodes[peer.node_id]
        await trio.sleep(LATENCY_SECONDS)
        if node.has(Fault.SILENT):
            await trio.sleep(CALL_SECONDS)
        if node.has(Fault.SILENT) or not node.up:
            raise PeerFailed(node.name, PeerFailure.UNREACHABLE, "no answer")
        if node.has(Fault.REFUSES):
            raise PeerFailed(node.name, PeerFailure.REFUSED, "403")
        return node

    async def progress(self, peer: VersionNode, meeting_id: str, **wanted: str) -> FillProgress:
        return (await self._reach(peer)).progress()

    @asynccontextmanager
    async def package_range(
        self, peer: VersionNode, meeting_id: str, digest: Digest, start: int, stop: int, *, urgent: bool
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        node = await self._reach(peer)
        if node.has(Fault.FULL):
            raise PeerFailed(node.name, PeerFailure.BUSY, "503")
        with ExitStack() as stack:
            try:
                stack.enter_context(node.requests.admitted(self._name, digest, held=node.held, urgent=urgent))
            except PeersBusy as error:
                raise PeerFailed(node.name, PeerFailure.BUSY, str(error)) from error
            except NotBehind as error:
                raise PeerFailed(node.name, PeerFailure.REFUSED, str(error)) from error
            if not node.held:
                stack.enter_context(self._swarm.waiting(self._name, node))
            async with aclosing(node.body(stack, start, stop)) as body:
                yield body


class Node:
    """One node: its store, its fill, and what it sends."""

    def __init__(self, swarm: Swarm, index: int, member: Member) -> None:
        self.index, self.name, self.member = index, f"n{index}", member
        self.began = trio.current_time()
        self.up = False
        self.store = MemoryStore()
        self.requests = PeerRequests(self.name, enabled=True)
        self._swarm, self._digest = swarm, swarm.manifest.digest
        self._line = Line(member.rate)
        self._live: LiveFill | None = None

    @property
    def held(self) -> bool:
        return self.store.holds(self._digest)

    def has(self, fault: Fault) -> bool:
        return self.member.fault is fault and trio.current_time() - self.began >= self.member.since

    async def run(self) -> None:
        """Return when the version is here, or the node is dead."""
        await trio.sleep(self.member.starts)
        if self.member.fault not in {Fault.DIES, Fault.RESTARTS}:
            await self._fill()
            return
        with trio.move_on_at(self.began + max(self.member.starts, self.member.since)):
            await self._fill()
            await trio.sleep_forever()  # it dies, too, when it has the whole
        self.up = False
        if self.member.fault is Fault.RESTARTS:
            await trio.sleep(RESTART_SECONDS)
            await self._fill()

    async def _fill(self) -> None:
        self.up = True
        client: Any = Client(self._swarm, self.name)
        master: Any = self._swarm.master_of(self)
        store: Any = self.store
        peers = Peers(self.name, client, Directory(self.name, master, client, enabled=True), PeerStats())
        fetcher = ManifestFetcher(store, SourceFactory(master, peers), Random(self.index), make_room)
        manifest, failures = self._swarm.manifest, 0
        while not self.held:
            live = self._live = LiveFill("m1", manifest.digest, manifest.size, began_at=trio.current_time())
            error: Exception | None = FillFailed("the node is stopping")
            try:
                await fetcher.run(manifest, live)
                error = None
            except (NodeError, StoreError) as reason:
                error = reason
            finally:
                self._live = None
                live.finish(error)
            if error is not None:
                failures += 1
                await trio.sleep(retry_seconds(failures, 0.5))

    def progress(self) -> FillProgress:
        size, live = self._swarm.manifest.size, self._live
        if self.held:
            return FillProgress(size, size, self._digest, held=True)
        if live is None:
            return FillProgress()
        return FillProgress(live.filled, size, self._digest, source=live.source, slow=live.slow)

    async def body(self, stack: ExitStack, start: int, stop: int) -> AsyncGenerator[bytes]:
        """Send a range as it arrives here. `stack` closes what is read."""
        source = await self._source(stack)
        at = start
        while at < stop:
            ready = stop - at
            if isinstance(source, LiveFill):
                try:
                    ready = min(ready, await source.available(at, start, peer=True))
                except FillFailed as error:
                    raise PeerFailed(self.name, PeerFailure.UNREACHABLE, f"cut off: {error}") from error
            piece = os.pread(source.fileno(), min(ready, PIECE_BYTES), at) if ready > 0 else b""
            await self._line.send(len(piece))
            if self.has(Fault.SILENT):
                await trio.sleep(STALL_SECONDS)
            if not piece or not self.up or self.has(Fault.SILENT):
                raise PeerFailed(self.name, PeerFailure.UNREACHABLE, "cut off")
            at += len(piece)
            yield bytes([piece[0] ^ 1]) + piece[1:] if self.has(Fault.LIES) else piece

    async def _source(self, stack: ExitStack) -> Any:
        until = trio.current_time() + START_SECONDS
        while trio.current_time() < until and self.up:
            if self.held:
                return stack.enter_context(self.store.lease(self._digest))
            if self._live is not None:
                stack.enter_context(self._live.followed())
                return self._live
            await trio.sleep(0.1)
        raise PeerFailed(self.name, PeerFailure.BUSY, "503")


async def make_room(needed: int, *, full_disk: bool = False) -> None:
    """There is room."""
