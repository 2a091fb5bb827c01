"""Opens the sources of a fill: the master, and the nodes that fetch the same version or have it."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from master_shim.protocol.chain import legacy_key

from .range_source import OriginSource, OriginStream, PeerSource, PeerStream, RangeSource, StreamSource
from .routing import Route
from .sources import MAX_FAULTS, Sources, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from master_shim.protocol import VersionNode
    from store import Digest

    from ..master.client import Master
    from ..peers.client import PeerClient
    from ..peers.directory import Directory
    from ..stats import PeerStats
    from .live_fill import LiveFill

SMALL_BYTES = 128 << 10
"""A fill of fewer bytes would cost the master about as much by asking for the list of nodes."""

MAX_KEYS = 1_000
"""Versions of which the nodes that sent wrong bytes are remembered."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What is needed to fetch from other nodes, in the name of the node `node_id`."""

    node_id: str
    client: PeerClient
    directory: Directory
    stats: PeerStats


class SourceFactory:
    """Opens the sources of fills. Without `peers` the master is the only one."""

    def __init__(self, master: Master, peers: Peers | None) -> None:
        self._master = master
        self._peers = peers
        self._faults: dict[str, Counter[str]] = {}  # by key: how often what a node sent was wrong, up to `MAX_FAULTS`

    @asynccontextmanager
    async def of_version(
        self, live: LiveFill, digest: Digest, missing_bytes: int
    ) -> AsyncIterator[Sources[RangeSource]]:
        """Yield the sources of a version at a master with a shim, and watch over the one in use inside the block.

        Less than `SMALL_BYTES` are fetched from the master.
        """
        origin, peers = OriginSource(self._master, digest), self._peers
        if peers is None or missing_bytes < SMALL_BYTES:
            yield Sources(Route(digest, ""), live, origin)
            return

        def open_peer(peer: VersionNode, *, urgent: bool) -> RangeSource:
            return PeerSource(peers.client, peer, live.meeting_id, digest, urgent=urgent)

        sources = Sources(self._route(digest, live), live, origin, open_peer, peers.stats, self._faults_for(digest))
        list_nodes = partial(peers.directory.of_version, digest)
        async with Watch(sources, peers.client, live, list_nodes, v=digest).running():
            yield sources

    @asynccontextmanager
    async def of_meeting(self, live: LiveFill) -> AsyncIterator[Sources[StreamSource]]:
        """Yield the sources of a package at a legacy master, under the token of `live`, and watch over them."""
        origin, peers = OriginStream(self._master, live.meeting_id), self._peers
        if peers is None or not live.token:
            yield Sources(Route("", ""), live, origin)
            return

        def open_peer(peer: VersionNode, *, urgent: bool) -> StreamSource:
            return PeerStream(peers.client, peer, live, urgent=urgent)

        key = legacy_key(live.meeting_id, live.token)
        sources = Sources(self._route(key, live), live, origin, open_peer, peers.stats, self._faults_for(key))
        list_nodes = partial(peers.directory.of_meeting, live.meeting_id, live.token)
        async with Watch(sources, peers.client, live, list_nodes, token=live.token).running():
            yield sources

    def _route(self, key: str, live: LiveFill) -> Route:
        assert self._peers is not None
        barred = (node for node, faults in self._faults_for(key).items() if faults >= MAX_FAULTS)
        return Route(key, self._peers.node_id, live.size, barred)

    def _faults_for(self, key: str) -> Counter[str]:
        """Return how often what each node sent for a key was wrong. The last keys are remembered."""
        if key not in self._faults and len(self._faults) >= MAX_KEYS:
            del self._faults[next(iter(self._faults))]
        return self._faults.setdefault(key, Counter())
