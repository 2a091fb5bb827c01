"""Which other nodes may be a source of a package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from master_shim.protocol import SCHEMES, VersionNode, is_address
from master_shim.protocol.chain import legacy_key, predecessors, spread

from ..errors import NodeError, PeerFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from master_shim.protocol import ListedNode
    from store import Digest

    from ..master.client import Master
    from .client import PeerClient

NEAREST = 16
"""Predecessors that are asked about: more than these are never away at once."""

HOLDERS = 8
"""Nodes that are asked whether they hold the package already, at a master that does not know."""

KNOWN_SECONDS = 60.0
"""For how long the answer of a node about itself is remembered."""

_log = structlog.get_logger("trionode.peers")


class Directory:
    """Finds other nodes: at a shim those that it lists, at a legacy master those of its nodes that are ours.

    With `enabled` false there are none.
    """

    def __init__(self, node_id: str, master: Master, client: PeerClient, *, enabled: bool) -> None:
        self._node_id = node_id
        self._master = master
        self._client = client
        self._enabled = enabled
        self._ours: dict[tuple[str, str], tuple[bool, float]] = {}

    async def of_version(self, digest: Digest) -> list[VersionNode]:
        """Return the nodes that a shim lists for a version; none if the master does not answer."""
        if not self._enabled:
            return []
        try:
            found = await self._master.version_nodes(digest, self._node_id)
        except NodeError as error:
            _log.debug("the master does not list the nodes", why=str(error))
            return []
        return [node for node in found if self._usable(node)]

    async def of_meeting(self, meeting_id: str, token: str) -> list[VersionNode]:
        """Return the nodes of a legacy master that are ours, each with whether it holds the package under `token`."""
        if not self._enabled:
            return []
        try:
            listed = {node.node_id: node for node in await self._master.nodes() if node.status != "offline"}
        except NodeError as error:
            _log.debug("the master does not list the nodes", why=str(error))
            return []
        key = legacy_key(meeting_id, token)
        near = predecessors(key, self._node_id, listed)[:NEAREST]
        near += [each for each in spread(key, self._node_id, listed)[:HOLDERS] if each not in near]
        found: list[VersionNode] = []

        async def ask(node: ListedNode) -> None:
            peer = VersionNode(node.node_id, node.address, scheme=node.scheme)
            if not self._usable(peer) or not await self._is_ours(peer):
                return
            try:
                progress = await self._client.progress(peer, meeting_id, token=token)
            except PeerFailed:
                found.append(peer)  # it may not have heard of the meeting yet
            else:
                found.append(VersionNode(node.node_id, node.address, progress.held, scheme=node.scheme))

        async with trio.open_nursery() as nursery:
            for name in near:
                nursery.start_soon(ask, listed[name])
        return found

    def _usable(self, node: VersionNode) -> bool:
        return node.node_id != self._node_id and node.scheme in SCHEMES and is_address(node.address)

    async def _is_ours(self, peer: VersionNode) -> bool:
        """Return whether a node of a legacy master's list is one of ours and sends to other nodes.

        A deployed node would answer a request for a package by fetching it from the master.
        """
        name, now = (peer.node_id, peer.address), trio.current_time()
        known, until = self._ours.get(name, (False, 0.0))
        if now < until:
            return known
        try:
            health = await self._client.health(peer)
        except PeerFailed as error:
            _log.debug("a node does not say what it is", node=peer.node_id, why=str(error))
            return False
        ours = health.node_id == peer.node_id and health.protocol >= 1 and health.peers == "auto"
        self._ours = {name: value for name, value in self._ours.items() if value[1] > now}
        self._ours[name] = (ours, now + KNOWN_SECONDS)
        return ours


def by_id(nodes: Iterable[VersionNode]) -> dict[str, VersionNode]:
    """Return nodes by their id."""
    return {node.node_id: node for node in nodes}
