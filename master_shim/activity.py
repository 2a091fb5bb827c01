"""What happens to nodes and downloads, logged for the administrator and counted.

By standard logging and without a handler: mounted, the master's own configuration decides where the lines go.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from .node import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .node import RegisteredNode

_log = logging.getLogger("master_shim.activity")

REPEAT_SECONDS = 60.0
"""The same warning is logged once in this time: three hundred tablets come within a minute."""
PULL_SECONDS = 10.0
"""A node that fetches from the master for this long does so for want of another node. It may begin there: when a fetch
begins, the source is not known, and the next heartbeat comes 5 s later."""
MAX_NAMED = 5
"""Most nodes that one line names."""
MAX_NAMES = 1_000
"""Most names whose last warning is remembered. The oldest are forgotten first."""


class Activity:
    """Logs and counts what happens to nodes and downloads."""

    def __init__(self) -> None:
        self.nodes_lost = 0
        """Nodes removed because they were silent."""
        self.redirected = 0
        """Clients redirected to a node."""
        self.offered = 0
        """Clients that were given nodes to choose from."""
        self.sent_here = 0
        """Clients to which the master sent a package because no node was fit."""
        self._unfit = Repeats()
        self._conflicts = Repeats()
        self._shared_pulls = Repeats()
        # At the last check: a digest, and the id of a node that fetches that version from the master.
        self._pulls: set[tuple[str, str]] = set()
        self._check_pulls_at = 0.0

    def node_changed(self, node: RegisteredNode, before: State, event: Event, now: float) -> None:
        """Log an event of a node. `node.last_seen` is the time of its last message before."""
        name, silent = f"node {node.node_id} at {node.address}", now - node.last_seen
        if before is State.ABSENT:
            _log.info("%s joined", name)
        elif event is Event.REGISTER:
            _log.info("%s registered again", name)
        elif event is Event.HEARTBEAT and before in {State.LATE, State.DRAINING}:
            _log.info("%s is back; its last heartbeat was %.0f s ago", name, silent)
        if event is Event.DRAIN and before is not State.DRAINING:
            _log.info("%s drains; no client is sent to it", name)
        elif event is Event.LATE:
            _log.warning("%s is late: no heartbeat for %.0f s; no client is sent to it until the next", name, silent)
        elif event is Event.UNREGISTER:
            _log.info("%s left", name)
        elif event is Event.TIMEOUT:
            self.nodes_lost += 1
            _log.warning("%s is lost: no heartbeat for %.0f s", name, silent)

    def no_node_fit(self, meeting_id: str, why: Callable[[], str], now: float) -> None:
        """Log that a client gets the package from this master, once in `REPEAT_SECONDS` for each meeting."""
        repeated = self._unfit.pass_one(meeting_id, now)
        if repeated is not None:
            more = f" ({repeated} more clients since the last such line)" if repeated else ""
            _log.warning("the master sends the package of %s itself, because %s%s", meeting_id, why(), more)

    def conflict(self, text: str, now: float) -> None:
        """Log a conflict of nodes, once in `REPEAT_SECONDS`."""
        if self._conflicts.pass_one(text, now) is not None:
            _log.error("%s", text)

    def check_pulls(
        self,
        nodes: Callable[[float], Iterable[RegisteredNode]],
        file_of: Callable[[str], str | None],
        now: float,
    ) -> None:
        """Log which packages several nodes fetch from the master, once in `REPEAT_SECONDS` for each.

        `nodes` returns the live nodes, `file_of` the name of the file with a digest, or None: a node may report any
        digest. Called at every request; looks at the nodes once in `PULL_SECONDS`.
        """
        if now < self._check_pulls_at:
            return
        self._check_pulls_at = now + PULL_SECONDS
        before, self._pulls = self._pulls, set()
        pulled: dict[str, list[str]] = {}
        for node in nodes(now):
            for digest, source in node.sources.items():
                if not source:
                    pulled.setdefault(digest, []).append(node.node_id)
        for digest, names in pulled.items():
            file = file_of(digest) if len(names) > 1 else None
            if file is None:
                continue
            self._pulls.update((digest, name) for name in names)
            pulling = [name for name in names if (digest, name) in before]
            if len(pulling) > 1 and self._shared_pulls.pass_one(file, now) is not None:
                more = f" and {len(pulling) - MAX_NAMED} more" if len(pulling) > MAX_NAMED else ""
                _log.warning(
                    "the master sends %s to %d nodes at once (%s%s), which could fetch it from each other. Check that "
                    "each of them reaches the others: curl http://ADDRESS/health, with the addresses that master-shim "
                    "status prints; and that none has peers = off",
                    *(file, len(pulling), ", ".join(sorted(pulling)[:MAX_NAMED]), more),
                )


class Repeats:
    """Lets one event of each name pass in `REPEAT_SECONDS`, and counts the others."""

    def __init__(self) -> None:
        # When the last event of a name passed, and how many did not since; ordered by that time.
        self._passed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def pass_one(self, name: str, now: float) -> int | None:
        """Return None for an event that must not pass, else how many did not pass since the last that did."""
        at, held_back = self._passed.get(name, (now - REPEAT_SECONDS, 0))
        if now - at < REPEAT_SECONDS:
            self._passed[name] = (at, held_back + 1)
            return None
        self._passed[name] = (now, 0)
        self._passed.move_to_end(name)
        if len(self._passed) > MAX_NAMES:
            self._passed.popitem(last=False)
        return held_back
