"""What happens to nodes and downloads, logged for the administrator and counted.

By standard logging and without a handler: mounted, the master's own configuration decides where the lines go.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from .node import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from .node import RegisteredNode

_log = logging.getLogger("master_shim.activity")

REPEAT_SECONDS = 60.0
"""The same warning is logged once in this time: three hundred tablets come within a minute."""
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
