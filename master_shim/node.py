"""A node as the master sees it: the table of its states, and its last report. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .protocol import SCHEMES, Load, is_address

if TYPE_CHECKING:
    from .protocol import MeetingName


class State(enum.Enum):
    """The state of a node. An unknown node is ABSENT."""

    ABSENT = "absent"
    REGISTERED = "registered"
    ONLINE = "online"
    DRAINING = "draining"
    LATE = "late"


class Event(enum.Enum):
    """What can happen to a node."""

    REGISTER = "register"
    HEARTBEAT = "heartbeat"
    DRAIN = "heartbeat while draining"
    UNREGISTER = "unregister"
    LATE = "silent for LATE_SECONDS"
    TIMEOUT = "silent for NODE_TIMEOUT_SECONDS"


_MESSAGES: Final = {Event.REGISTER: State.REGISTERED, Event.HEARTBEAT: State.ONLINE, Event.DRAIN: State.DRAINING}
_REMOVALS: Final = {Event.UNREGISTER: State.ABSENT, Event.TIMEOUT: State.ABSENT}

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    # A heartbeat of an unknown node registers it, so a restarted master recovers without action by the nodes.
    State.ABSENT: _MESSAGES,
    State.REGISTERED: _MESSAGES | _REMOVALS,
    # A node registers when it starts, so what it holds is unknown until its next heartbeat.
    State.ONLINE: _MESSAGES | _REMOVALS | {Event.LATE: State.LATE},
    State.DRAINING: _MESSAGES | _REMOVALS,
    # Not offered, but kept: a node whose heartbeats were lost in the network is online again with the next one.
    State.LATE: _MESSAGES | _REMOVALS,
}
"""The next state for each state and event. An event that is not listed is invalid in that state."""


@dataclass(slots=True, eq=False)
class RegisteredNode:
    """A node and its last report.

    `first_seen`, `last_seen` and `online_since` are on the caller's clock. `synced` are the meetings a legacy node has;
    `packages` maps the meetings of one of our nodes to digests, and `sources` digests in `filling` to the ids of the
    nodes they are fetched from, "" for the master. `kept_chars` is the registry's: the memory accounted to this node.
    `conflict` says in words that other nodes use its id or address, if so. The last two fields are the balancer's: the
    load assigned here but not seen here yet, and the clients this node failed since its last heartbeat. They are
    removed with the node.
    """

    node_id: str
    address: str
    first_seen: float
    last_seen: float
    state: State = State.ABSENT
    status: str = "online"
    scheme: str = "http"
    online_since: float = 0.0
    load: Load = field(default_factory=Load)
    active: tuple[MeetingName, ...] = ()
    synced: frozenset[str] = frozenset()
    packages: dict[str, str] = field(default_factory=dict)
    filling: frozenset[str] = frozenset()
    sources: dict[str, str] = field(default_factory=dict)
    protocol: int = 0
    kept_chars: int = 0
    conflict: str = ""
    assigned_units: int = 0
    failed_clients: set[str] = field(default_factory=set)

    @property
    def reachable(self) -> bool:
        """Whether clients could be sent here: it is not draining or offline, and its URL is valid."""
        if self.state is State.DRAINING or self.status == "offline":
            return False
        return self.scheme in SCHEMES and is_address(self.address)

    @property
    def url(self) -> str:
        """The URL by which clients reach it: `http://host:port` or `https://host:port`."""
        return f"{self.scheme}://{self.address}"

    @property
    def offered(self) -> bool:
        """Whether clients are sent here."""
        return self.state is State.ONLINE and self.reachable

    def holds(self, meeting_id: str, digest: str) -> bool:
        """Tell whether this node reports that it serves the version `digest` of the meeting."""
        if self.protocol >= 1:
            return self.packages.get(meeting_id) == digest
        return meeting_id in self.synced

    def has(self, digest: str) -> bool:
        """Tell whether this node, one of ours, reports that it serves a version, of whichever meeting."""
        return digest in self.packages.values()
