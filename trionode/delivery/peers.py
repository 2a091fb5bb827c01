"""Requests of other nodes for packages: which are served, and how many at a time. Pure."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from master_shim.protocol.chain import precedes

from ..errors import NotBehind, PeersBusy, PeersOff

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CHILDREN = 2
"""Nodes that fetch one version from this one at a time: more would share its line, and all behind them be late."""

MAX_URGENT_CHILDREN = 8
"""The same with those that otherwise have only the master left to ask."""

MAX_REQUESTS = 4
"""Requests of one node for one version at a time: its two lanes, and those that it has just given up."""


class PeerRequests:
    """Admits the requests of other nodes to the node `node_id`. With `enabled` false it admits none."""

    def __init__(self, node_id: str, *, enabled: bool) -> None:
        self.enabled = enabled
        self._node_id = node_id
        self._active: dict[str, Counter[str]] = {}  # by key, the requests of each node

    @contextmanager
    def admitted(self, asker: str, key: str, *, held: bool, urgent: bool) -> Iterator[None]:
        """Count a request in the block. `held`: the whole package is here.

        Raises `PeersOff`, `PeersBusy`, or `NotBehind` if the asker must not wait for this node.
        """
        if not self.enabled:
            raise PeersOff
        if not held and not precedes(key, self._node_id, asker):
            raise NotBehind(asker)
        active = self._active.setdefault(key, Counter())
        limit = MAX_URGENT_CHILDREN if urgent else MAX_CHILDREN
        if (asker not in active and len(active) >= limit) or active[asker] >= MAX_REQUESTS:
            raise PeersBusy(limit)
        active[asker] += 1
        try:
            yield
        finally:
            active[asker] -= 1
            if not active[asker]:
                del active[asker]
            if not active:
                del self._active[key]
