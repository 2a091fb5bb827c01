"""The sources of one fill: the master and other nodes behind one interface, and the watch over the one in use."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from math import inf
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import structlog
import trio

from ..errors import PeerFailed, PeerFailure
from ..peers.directory import by_id
from ..stats import PeerStats
from .routing import MASTER, Choice, Route, Trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from master_shim.protocol import FillProgress, VersionNode

    from ..peers.client import PeerClient
    from .live_fill import LiveFill

WATCH_SECONDS = 1.0
"""Interval at which the source is asked how far it is."""

LIST_SECONDS = 3.0
"""Interval at which the nodes are listed again while the master is the source: one before this node may have come."""

FIRST_LIST_SECONDS = 5.0
"""Time limit of the first list. Without one, every node would begin at the master."""

MAX_FAULTS = 2
"""A node is not asked for a version again when what it sent was no package so often: once, it may have passed on what
it did not keep itself. Bytes that are proved wrong count as so many."""

_log = structlog.get_logger("trionode.fetch")


S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class OpenPeer(Protocol[S_co]):
    """Returns a node as a source."""

    def __call__(self, peer: VersionNode, *, urgent: bool) -> S_co:
        """Return the source."""
        ...


class Sources(Generic[S]):
    """The sources of one fill: chooses one for each range, and cancels the requests to one that is passed over."""

    def __init__(
        self,
        route: Route,
        live: LiveFill,
        origin: S,
        open_peer: OpenPeer[S] | None = None,
        stats: PeerStats | None = None,
        faults: Counter[str] | None = None,
    ) -> None:
        self.route = route
        self._live = live
        self._origin = origin
        self._open_peer = open_peer
        self._stats = stats or PeerStats()
        self._faults = Counter() if faults is None else faults
        self._nodes: dict[str, VersionNode] = {}
        self._requests: dict[trio.CancelScope, str] = {}
        self._trial = Trial(MASTER, 0)
        self._trial_due = trio.Event()

    def update(self, nodes: list[VersionNode]) -> None:
        """Apply a new list of the other nodes."""
        self._nodes |= by_id(nodes)
        self.route.update(nodes)

    def choose(self) -> Choice:
        """Return the source of the next range."""
        choice = self.route.choose(trio.current_time())
        if choice.source != self._live.source:
            _log.info("source", meeting=self._live.meeting_id, source=choice.source or "master")
            self._live.source = choice.source
        return choice

    def observe(self, progress: FillProgress) -> None:
        """Record how far the source in use is. It is passed over if it is slow."""
        now = trio.current_time()
        if self.route.observe(progress, self._live.filled, now):
            self.failed(self._live.source, PeerFailure.SLOW, "it says that its own source is more than twice as fast")
        self._live.slow = self.route.slow
        if (trial := self.route.trial(now)) is not None:
            self._trial = trial
            self._trial_due.set()

    async def trial(self) -> Trial:
        """Wait until another source should be compared with the one in use, perhaps for ever, and return the trial."""
        await self._trial_due.wait()
        return self._trial

    def source(self, choice: Choice) -> S:
        """Return the source that was chosen."""
        if choice.source == MASTER or self._open_peer is None:
            return self._origin
        return self._open_peer(self._nodes[choice.source], urgent=choice.urgent)

    def node(self, name: str) -> VersionNode | None:
        """Return a node by its id; None for the master."""
        return self._nodes.get(name)

    @contextmanager
    def requesting(self, source: str) -> Iterator[trio.CancelScope]:
        """Cancel the block if `source` is passed over meanwhile."""
        with trio.CancelScope() as scope:
            self._requests[scope] = source
            try:
                yield scope
            finally:
                del self._requests[scope]

    def failed(self, source: str, failure: PeerFailure, why: str) -> None:
        """Pass a node over, for now or for this version."""
        self._stats.passed_over[failure.value] += 1
        facts = {"node": source, "meeting": self._live.meeting_id, "reason": failure.value, "why": why}
        if failure is PeerFailure.LIED:
            self._stats.wrong_bytes[source] += 1
            self._faults[source] += MAX_FAULTS
            _log.error("a node sent wrong bytes, which were discarded; it is not asked for this again", **facts)
        elif failure in {PeerFailure.BUSY, PeerFailure.REFUSED}:
            _log.debug("a node is passed over", **facts)
        else:
            _log.warning("a node is passed over", **facts)
        self.route.failed(source, failure, trio.current_time())
        self._cancel_requests(source)

    def doubt(self, source: str, why: str) -> None:
        """Record that a node has sent what is no package, without proof that it is to blame."""
        self._faults[source] += 1
        _log.warning("a node sent what is no package", node=source, meeting=self._live.meeting_id, why=why)

    def compared(self, size: int, seconds: float) -> None:
        """Record the duration of a trial of `size` bytes, and pass the source over if it is slow."""
        if self.route.compared(size / max(seconds, 1e-6)):
            self.failed(self._live.source, PeerFailure.SLOW, "another source is more than twice as fast")

    def _cancel_requests(self, source: str) -> None:
        for scope, name in self._requests.items():
            if name == source:
                scope.cancel()


class Watch(Generic[S]):
    """Watches over the source in use: whether it answers, and how far it is. `wanted` is the query for the package."""

    def __init__(
        self,
        sources: Sources[S],
        client: PeerClient,
        live: LiveFill,
        list_nodes: Callable[[], Awaitable[list[VersionNode]]],
        **wanted: str,
    ) -> None:
        self._sources = sources
        self._route = sources.route
        self._live = live
        self._list_nodes = list_nodes
        self._client = client
        self._wanted = wanted
        self._listed_at = -inf

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """List the nodes, then watch over the source inside the block."""
        with trio.move_on_after(FIRST_LIST_SECONDS):
            await self._list()
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised below: in the nursery it would become a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self) -> None:
        while True:
            await trio.sleep(WATCH_SECONDS)
            for name in self._route.lost:
                await self._try_again(name)
            node = self._sources.node(self._live.source)
            if node is not None:
                await self._observe(node)
            elif trio.current_time() - self._listed_at >= LIST_SECONDS:
                await self._list()

    async def _observe(self, node: VersionNode) -> None:
        """Ask the source how far it is, and pass it over if it is slow or does not answer."""
        try:
            progress = await self._client.progress(node, self._live.meeting_id, **self._wanted)
        except PeerFailed as error:
            if error.failure is PeerFailure.UNREACHABLE and node.node_id == self._live.source:
                self._sources.failed(node.node_id, error.failure, error.what)
            return
        if node.node_id == self._live.source:
            self._sources.observe(progress)

    async def _try_again(self, name: str) -> None:
        node = self._sources.node(name)
        if node is None:
            return
        try:
            await self._client.progress(node, self._live.meeting_id, **self._wanted)
        except PeerFailed as error:
            if error.failure is PeerFailure.UNREACHABLE:
                return
        self._route.back(name)

    async def _list(self) -> None:
        self._listed_at = trio.current_time()
        self._sources.update(await self._list_nodes())
