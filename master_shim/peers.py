"""Which nodes a node can fetch a version from: nodes of ours, in the order of `protocol.chain`. Pure."""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING

from .protocol.chain import rank, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .node import RegisteredNode

MAX_HOLDERS = 8
"""Most holders that one node is told. Each node is told other ones, so that all holders share the work."""
MAX_PREDECESSORS = 16
"""Most predecessors that one node is told. It asks the first of them that answers fast enough."""
MAX_ORDERS = 32
"""Most versions whose order is kept: a master has a handful of meetings in progress. An order of 1,000 nodes takes
0.1 MB."""


class Peers:
    """The nodes of ours that are offered.

    The order of a version is kept while these nodes are the same: the ranks of a thousand nodes take a millisecond, and
    a thousand nodes ask within seconds.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, RegisteredNode] = {}
        self._orders: dict[str, list[tuple[bytes, str]]] = {}

    def update(self, node: RegisteredNode) -> None:
        """Add or remove a node that has changed, as its state requires."""
        fit = node.protocol >= 1 and node.offered
        if fit == (node.node_id in self._nodes):
            return
        if fit:
            self._nodes[node.node_id] = node
        else:
            del self._nodes[node.node_id]
        self._orders.clear()

    def all(self) -> Sequence[RegisteredNode]:
        """Return all of them."""
        return tuple(self._nodes.values())

    def useful(self, digest: str, asker: str) -> Sequence[RegisteredNode]:
        """Return those that the node `asker` can fetch a version from, in the order in which it should ask.

        These are up to `MAX_HOLDERS` nodes that hold the version, then the nearest `MAX_PREDECESSORS` of its other
        predecessors. It may be unknown here: a node asks before its first heartbeat is answered.
        """
        holders = [name for name, node in self._nodes.items() if node.has(digest)]
        held = set(holders)
        order = self._order(digest)
        before = reversed(order[: bisect_left(order, (rank(digest, asker), ""))])
        nearest = (name for _, name in before if name not in held)
        names = (*spread(digest, asker, holders)[:MAX_HOLDERS], *islice(nearest, MAX_PREDECESSORS))
        return [self._nodes[name] for name in names]

    def _order(self, digest: str) -> list[tuple[bytes, str]]:
        order = self._orders.get(digest)
        if order is None:
            if len(self._orders) >= MAX_ORDERS:
                self._orders.clear()
            order = self._orders[digest] = sorted((rank(digest, name), name) for name in self._nodes)
        return order
