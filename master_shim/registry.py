"""Which nodes there are, whether they live, and what they hold. Pure: takes `now`, never looks at a clock.

`now` is seconds on any clock that does not go backwards. All that a node says of itself is bounded here,
since anyone who reaches the master may send a heartbeat.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from .errors import FieldEmpty, MessageInvalid, NodeMissing, RegistryFull
from .names import valid_address
from .protocol import MAX_BEAT_MEETINGS, NODE_TIMEOUT_SECONDS, Load, MeetingName, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .protocol import Heartbeat, Registration

MAX_NODES = 10_000
"""Far more machines than one master will ever have beside it; a flood of made-up nodes ends here."""
MAX_KEPT_CHARS = 64 * 1024 * 1024
"""All text kept about all nodes: without this, 10,000 nodes with a full body each would be 10 GB."""
ITEM_CHARS = 100
"""What each meeting, package or fill that is kept counts beside its text: about the memory its object takes."""
MAX_ID_CHARS = 512
"""Longest node id, address or meeting id that is kept: far above any seen."""
MAX_LOAD = 1_000_000
"""Counts that a node reports are cut to this, so that nonsense stays comparable."""
LATE_SECONDS = 12.0
"""One of our nodes that is silent so long has missed two beats, and is offered to nobody until the next. A deployed
node beats every 10 s and is given the whole of NODE_TIMEOUT_SECONDS, as its own master gives it."""
_MAX_CACHED = 1_000

_T = TypeVar("_T")


class State(enum.Enum):
    """What a node is to the master. A node that is not remembered is ABSENT."""

    ABSENT = "absent"
    REGISTERED = "registered"
    ONLINE = "online"
    DRAINING = "draining"
    LATE = "late"


class Event(enum.Enum):
    """What can happen to a node."""

    REGISTER = "register"
    BEAT = "beat"
    DRAIN = "a beat that says it drains"
    UNREGISTER = "unregister"
    LATE = "silence for LATE_SECONDS"
    SILENCE = "silence for NODE_TIMEOUT_SECONDS"


_HEARD: Final = {Event.REGISTER: State.REGISTERED, Event.BEAT: State.ONLINE, Event.DRAIN: State.DRAINING}
_LEFT: Final = {Event.UNREGISTER: State.ABSENT, Event.SILENCE: State.ABSENT}

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    # An unknown node's heartbeat registers it: a restarted master is found again without a word from the
    # nodes.
    State.ABSENT: _HEARD,
    State.REGISTERED: _HEARD | _LEFT,
    # Registering again means that the node started again: what it holds is unknown until it beats.
    State.ONLINE: _HEARD | _LEFT | {Event.LATE: State.LATE},
    State.DRAINING: _HEARD | _LEFT,
    # Not offered, and not forgotten: a node whose beats were lost on the way is back with the next one.
    State.LATE: _HEARD | _LEFT,
}
"""Every state and what each event makes of it; an event that is missing is refused and changes nothing."""


@dataclass(slots=True, eq=False)
class Node:
    """A node as it last described itself.

    `first_seen`, `last_seen` and `online_since` are on the caller's clock. `synced` are the meetings a legacy
    node says it holds, `packages` those of one of ours with their digests. The last two fields belong to
    the balancer: units of load sent there and not yet seen, and the clients it failed since its last
    heartbeat. They die with the node, which is all the forgetting they need.
    """

    node_id: str
    address: str
    first_seen: float
    last_seen: float
    state: State = State.ABSENT
    status: str = "online"
    online_since: float = 0.0
    offered: bool = False
    load: Load = field(default_factory=Load)
    active: tuple[MeetingName, ...] = ()
    synced: frozenset[str] = frozenset()
    packages: dict[str, str] = field(default_factory=dict)
    filling: frozenset[str] = frozenset()
    protocol: int = 0
    kept_chars: int = 0
    assigned_units: int = 0
    failed_clients: set[str] = field(default_factory=set)

    @property
    def reachable(self) -> bool:
        """Whether clients could be sent here: it is not about to leave, and its address is one."""
        return self.state is not State.DRAINING and self.status != "offline" and valid_address(self.address)

    def holds(self, meeting_id: str, digest: str) -> bool:
        """Tell whether this node says it serves the version `digest` of the meeting."""
        if self.protocol >= 1:
            return self.packages.get(meeting_id) == digest
        return meeting_id in self.synced


class Registry:
    """The nodes that are alive. Every method first drops those that were silent too long: O(1) amortised."""

    def __init__(self, timeout_seconds: float = NODE_TIMEOUT_SECONDS) -> None:
        self._timeout = timeout_seconds
        # In order of `last_seen`: whoever is heard moves to the end, so the silent ones are at the front.
        self._nodes: OrderedDict[str, Node] = OrderedDict()
        # Those that are to be late one day, in the same order.
        self._punctual: OrderedDict[str, Node] = OrderedDict()
        self._holders: dict[tuple[str, str], list[Node]] = {}
        self._kept_chars = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def register(self, message: Registration, now: float) -> Node:
        """Take note of a node that starts. Raises `FieldEmpty`, `MessageInvalid`, `RegistryFull`."""
        _check_identity(message.node_id, message.address)
        node = self._heard(message.node_id, message.address, Event.REGISTER, now)
        node.load, node.active, node.synced = Load(), (), frozenset()
        node.packages, node.filling, node.status = {}, frozenset(), _word(message.status)
        self._weigh(node, len(node.node_id) + len(node.address))
        self._settle(node)
        return node

    def beat(self, message: Heartbeat, now: float) -> Node:
        """Take a heartbeat in, registering an unknown node. Raises as `register` does, changing nothing.

        A meeting in `synced_meetings` counts only if the same heartbeat has it in `active_meetings`.
        """
        _check_identity(message.node_id, message.address)
        active = _bounded("active_meetings", message.active_meetings)
        for meeting in active:
            _check_length("active_meetings", meeting.id)
        active_ids = {meeting.id for meeting in active}
        synced = active_ids.intersection(_bounded("synced_meetings", message.synced_meetings))
        _bounded("packages", tuple(message.packages))
        # Only what looks like a digest can ever equal one, so nothing else is worth keeping.
        packages = {name: value for name, value in message.packages.items() if len(value) == 64}
        for name in packages:
            _check_length("packages", name)
        filling = frozenset(value for value in _bounded("filling", message.filling) if len(value) == 64)
        # Only what is one line can be a meeting's id; the titles are shown, in lists and in terminals.
        active = tuple(MeetingName(m.id, one_line(m.title)) for m in active if m.id.isprintable())
        chars = sum(len(meeting.id) + len(meeting.title) for meeting in active) + sum(map(len, packages))
        chars += 64 * (len(packages) + len(filling)) + len(message.node_id) + len(message.address)
        chars += ITEM_CHARS * (len(active) + len(packages) + len(filling))

        event = Event.DRAIN if message.load is not None and message.load.draining else Event.BEAT
        self.expire(now)
        self._make_room(message.node_id, chars)
        node = self._heard(message.node_id, message.address, event, now)
        node.status, node.protocol = _word(message.status), message.protocol
        node.load = _bounded_load(message.load)
        node.active, node.synced = active, frozenset(synced)
        node.packages, node.filling = packages, filling
        self._weigh(node, chars)
        self._settle(node)
        return node

    def unregister(self, node_id: str, now: float) -> None:
        """Forget a node that leaves. Raises `NodeMissing`, `FieldEmpty`."""
        if not node_id.strip():
            raise FieldEmpty("node_id")
        self.expire(now)
        node = self._nodes.get(node_id)
        if node is None:
            raise NodeMissing(node_id)
        self._drop(node, Event.UNREGISTER)

    def expire(self, now: float) -> None:
        """Drop every node that was silent for the time limit, and offer none that is late."""
        while self._nodes:
            node = next(iter(self._nodes.values()))
            if now - node.last_seen < self._timeout:
                break
            self._drop(node, Event.SILENCE)
        while self._punctual:
            node = next(iter(self._punctual.values()))
            if now - node.last_seen < LATE_SECONDS:
                break
            node.state = TRANSITIONS[node.state][Event.LATE]
            self._settle(node)

    def nodes(self, now: float) -> Sequence[Node]:
        """Return the nodes that are alive, the one heard last at the end."""
        self.expire(now)
        return tuple(self._nodes.values())

    def holders(self, meeting_id: str, digest: str, now: float) -> Sequence[Node]:
        """Return the live nodes that may be offered and say they serve this version of the meeting.

        The answer is kept until some node changes what it holds: thousands of redirects fall between two
        beats.
        """
        self.expire(now)
        key = (meeting_id, digest)
        found = self._holders.get(key)
        if found is None:
            found = [node for node in self._nodes.values() if node.offered and node.holds(meeting_id, digest)]
            if len(self._holders) >= _MAX_CACHED:
                self._holders.clear()
            self._holders[key] = found
        return found

    def sources(self, digest: str, now: float) -> Sequence[tuple[Node, bool]]:
        """Return the nodes of ours that have ranges of a version to give, and whether they still fill it."""
        self.expire(now)
        found = []
        for node in self._nodes.values():
            if node.offered and node.protocol >= 1:
                held = digest in node.packages.values()
                if held or digest in node.filling:
                    found.append((node, not held))
        return found

    def _make_room(self, node_id: str, chars: int) -> None:
        known = self._nodes.get(node_id)
        if known is None and len(self._nodes) >= MAX_NODES:
            raise RegistryFull
        if self._kept_chars + chars - (known.kept_chars if known else 0) > MAX_KEPT_CHARS:
            raise RegistryFull

    def _heard(self, node_id: str, address: str, event: Event, now: float) -> Node:
        self.expire(now)
        node = self._nodes.get(node_id)
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                raise RegistryFull
            node = self._nodes[node_id] = Node(node_id, address, first_seen=now, last_seen=now)
        before = node.state
        node.state = TRANSITIONS[before][event]
        if node.state is State.ONLINE and before is not State.ONLINE:
            node.online_since = now
        node.address, node.last_seen = address, now
        node.failed_clients.clear()  # it is heard: whatever it failed may have been mended
        self._nodes.move_to_end(node_id)
        return node

    def _settle(self, node: Node) -> None:
        # The lists of holders are rebuilt at the next look; a beat that changes nothing need not cost that,
        # but telling the difference costs as much as rebuilding for the few nodes a master has.
        self._holders.clear()
        node.offered = node.state is State.ONLINE and node.reachable
        self._punctual.pop(node.node_id, None)
        if node.state is State.ONLINE and node.protocol >= 1:
            self._punctual[node.node_id] = node

    def _weigh(self, node: Node, chars: int) -> None:
        self._kept_chars += chars - node.kept_chars
        node.kept_chars = chars

    def _drop(self, node: Node, event: Event) -> None:
        node.state = TRANSITIONS[node.state][event]
        node.offered = False
        del self._nodes[node.node_id]
        self._punctual.pop(node.node_id, None)
        self._kept_chars -= node.kept_chars
        self._holders.clear()


def _check_identity(node_id: str, address: str) -> None:
    for name, value in (("node_id", node_id), ("address", address)):
        if not value.strip():
            raise FieldEmpty(name)
        _check_length(name, value)
        if one_line(value) != value:
            raise MessageInvalid("not one line of text", name)


def _check_length(name: str, value: str) -> None:
    if len(value) > MAX_ID_CHARS:
        raise MessageInvalid(f"longer than {MAX_ID_CHARS} characters", name)


def _bounded(name: str, values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(values) > MAX_BEAT_MEETINGS:
        raise MessageInvalid(f"names more than {MAX_BEAT_MEETINGS} items", name)
    return values


def _bounded_load(load: Load | None) -> Load:
    if load is None:
        return Load()
    return Load(
        active_downloads=min(max(load.active_downloads, 0), MAX_LOAD),
        max_downloads=min(max(load.max_downloads, 0), MAX_LOAD),
        bytes_per_second=load.bytes_per_second,
        draining=load.draining,
    )


def _word(status: str) -> str:
    """Return a node's status as it is kept and shown: short, and `online` when it says nothing."""
    return one_line(status, 32) or "online"
