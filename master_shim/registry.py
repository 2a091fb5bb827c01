"""The registry of nodes: which are alive, and what each one holds. Pure: takes `now`, reads no clock.

`now` is in seconds on any monotonic clock. Everything a node reports is limited here, since anyone who reaches the
master can send a heartbeat.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .claims import Claims, Kind
from .errors import FieldEmpty, MessageInvalid, NodeMissing, RegistryFull
from .node import TRANSITIONS, Event, RegisteredNode, State
from .peers import Peers
from .protocol import MAX_HEARTBEAT_ITEMS, NODE_TIMEOUT_SECONDS, SCHEMES, Load, MeetingName, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .protocol import Heartbeat, Registration

MAX_NODES = 10_000
"""Far more machines than one master ever has; limits a flood of invented nodes."""
MAX_KEPT_CHARS = 64 * 1024 * 1024
"""Limit of all text kept about all nodes: 10,000 nodes with a full body each would otherwise take 10 GB."""
ITEM_CHARS = 100
"""Added for each meeting, package or fill that is kept: about the memory its object takes."""
MAX_ID_CHARS = 512
"""Longest node id, address or meeting id that is accepted: far above any seen."""
MAX_STATUS_CHARS = 32
"""Longest node status that is kept; "online" and "offline" are the ones in use."""
MAX_INSTANCE_CHARS = 64
"""Longer ones are cut. Those of our nodes have 16 characters."""
MAX_LOAD = 1_000_000
"""Counts in a load report are limited to this, far above any real one."""
LATE_SECONDS = 12.0
"""One of our nodes that is silent for this long has missed two heartbeats, and is not offered until the next one.
Deployed nodes send one every 10 s and are allowed NODE_TIMEOUT_SECONDS, as the deployed master allows them."""
_DIGEST_CHARS = 64
"""Length of a digest in hexadecimal."""
_MAX_CACHED = 1_000
"""Cached lists of holders: a master has a handful of meetings in progress."""

_T = TypeVar("_T")


class Registry:
    """The nodes that are alive. Every method first removes those that timed out: O(1) amortised.

    `on_event` is called with a node, its state before an event, the event and `now`; `last_seen` is still the old one.
    """

    def __init__(
        self, on_event: Callable[[RegisteredNode, State, Event, float], None] = lambda node, before, event, now: None
    ) -> None:
        self._on_event = on_event
        # Ordered by `last_seen`: a node moves to the end with each message.
        self._nodes: OrderedDict[str, RegisteredNode] = OrderedDict()
        # The online nodes that can become late, in the same order.
        self._punctual: OrderedDict[str, RegisteredNode] = OrderedDict()
        self._holders: dict[tuple[str, str], list[RegisteredNode]] = {}
        self._kept_chars = 0
        self._claims = Claims()
        self._peers = Peers()

    def __len__(self) -> int:
        return len(self._nodes)

    def register(self, message: Registration, now: float) -> RegisteredNode:
        """Add a node that starts. Raises `FieldEmpty`, `MessageInvalid`, `RegistryFull`, and changes nothing then."""
        _check_identity(message.node_id, message.address)
        chars = len(message.node_id) + len(message.address)
        node = self._update(message, Event.REGISTER, chars, now)
        node.load, node.active, node.synced = Load(), (), frozenset()
        node.packages, node.filling, node.sources, node.status = {}, frozenset(), {}, _status(message.status)
        self._peers.update(node)
        return node

    def heartbeat(self, message: Heartbeat, now: float) -> RegisteredNode:
        """Apply a heartbeat; an unknown node is registered. Raises as `register` does.

        A meeting in `synced_meetings` counts only if the same heartbeat lists it in `active_meetings`.
        """
        _check_identity(message.node_id, message.address)
        active = _limited("active_meetings", message.active_meetings)
        for meeting in active:
            _check_length("active_meetings", meeting.id)
        active_ids = {meeting.id for meeting in active}
        synced = active_ids.intersection(_limited("synced_meetings", message.synced_meetings))
        _limited("packages", tuple(message.packages))
        # Other values cannot equal a digest, so they are not kept.
        packages = {name: value for name, value in message.packages.items() if len(value) == _DIGEST_CHARS}
        for name in packages:
            _check_length("packages", name)
        filling = frozenset(value for value in _limited("filling", message.filling) if len(value) == _DIGEST_CHARS)
        # A meeting id is one line. Titles are displayed in lists and terminals.
        active = tuple(MeetingName(m.id, one_line(m.title)) for m in active if one_line(m.id) == m.id)
        chars = sum(len(meeting.id) + len(meeting.title) for meeting in active) + sum(map(len, packages))
        chars += _DIGEST_CHARS * (len(packages) + len(filling)) + len(message.node_id) + len(message.address)
        sources = _sources(message, filling)
        chars += sum(map(len, sources.values()))
        chars += ITEM_CHARS * (len(active) + len(packages) + len(filling) + len(sources))

        event = Event.DRAIN if message.load is not None and message.load.draining else Event.HEARTBEAT
        node = self._update(message, event, chars, now)
        node.status, node.protocol = _status(message.status), message.protocol
        node.load = _limited_load(message.load)
        node.active, node.synced = active, frozenset(synced)
        node.packages, node.filling, node.sources = packages, filling, sources
        if node.state is State.ONLINE and node.protocol >= 1:
            self._punctual[node.node_id] = node
        self._peers.update(node)
        return node

    def unregister(self, node_id: str, now: float) -> None:
        """Remove a node. Raises `NodeMissing`, `FieldEmpty`."""
        if not node_id.strip():
            raise FieldEmpty("node_id")
        self.expire(now)
        node = self._nodes.get(node_id)
        if node is None:
            raise NodeMissing(node_id)
        self._claims.release(Kind.ID, node_id)
        self._claims.release(Kind.ADDRESS, node.address)
        self._remove(node, Event.UNREGISTER, now)

    def expire(self, now: float) -> None:
        """Remove every node that timed out, and mark as late those that missed two heartbeats."""
        while self._nodes:
            node = next(iter(self._nodes.values()))
            if now - node.last_seen < NODE_TIMEOUT_SECONDS:
                break
            self._remove(node, Event.TIMEOUT, now)
        while self._punctual:
            node = next(iter(self._punctual.values()))
            if now - node.last_seen < LATE_SECONDS:
                break
            self._apply(node, Event.LATE, now)
            self._peers.update(node)

    def nodes(self, now: float) -> Sequence[RegisteredNode]:
        """Return the nodes that are alive, ordered by their last message."""
        self.expire(now)
        return tuple(self._nodes.values())

    def holders(self, meeting_id: str, digest: str, now: float) -> Sequence[RegisteredNode]:
        """Return the offered nodes that report to serve this version of the meeting.

        The result is cached until any node's report changes: thousands of redirects come between two heartbeats.
        """
        self.expire(now)
        key = (meeting_id, digest)
        found = self._holders.get(key)
        if found is None:
            found = [node for node in self._nodes.values() if node.holds(meeting_id, digest) and node.offered]
            if len(self._holders) >= _MAX_CACHED:
                self._holders.clear()
            self._holders[key] = found
        return found

    def peers(self, digest: str, asker: str, now: float) -> Sequence[RegisteredNode]:
        """Return the offered nodes of ours that the node `asker` can fetch a version from (see `Peers.useful`).

        If `asker` is "", these are all of them.
        """
        self.expire(now)
        return self._peers.useful(digest, asker) if asker else self._peers.all()

    def _update(self, message: Registration | Heartbeat, event: Event, chars: int, now: float) -> RegisteredNode:
        """Apply a message of a node, added if unknown. Raises `RegistryFull` before anything is changed."""
        self.expire(now)
        node_id, address = message.node_id, message.address
        node = self._nodes.get(node_id)
        if node is None and len(self._nodes) >= MAX_NODES:
            raise RegistryFull
        if self._kept_chars + chars - (node.kept_chars if node else 0) > MAX_KEPT_CHARS:
            raise RegistryFull
        if node is None:
            node = self._nodes[node_id] = RegisteredNode(node_id, address, first_seen=now, last_seen=now)
        was_online = node.state is State.ONLINE
        self._apply(node, event, now)
        if node.state is State.ONLINE and not was_online:
            node.online_since = now
        node.address, node.last_seen = address, now
        # No client is sent to a node with a scheme that is unknown here: its URL would be wrong.
        node.scheme = message.scheme if message.scheme in SCHEMES else ""
        node.conflict = self._conflict(message, now)
        node.failed_clients.clear()  # what made clients fail may be repaired
        self._nodes.move_to_end(node_id)
        self._kept_chars += chars - node.kept_chars
        node.kept_chars = chars
        return node

    def _conflict(self, message: Registration | Heartbeat, now: float) -> str:
        """Return in words whether other nodes use this node's id or address, "" if not."""
        node_id, address = message.node_id, message.address
        # Deployed nodes have no instance. Two of them with one id have different addresses.
        instance = message.instance[:MAX_INSTANCE_CHARS] or address
        found = (
            self._claims.use(Kind.ID, node_id, instance, f"at {address}", now),
            self._claims.use(Kind.ADDRESS, address, node_id, node_id, now),
        )
        return "; ".join(filter(None, found))

    def _apply(self, node: RegisteredNode, event: Event, now: float) -> None:
        before, node.state = node.state, TRANSITIONS[node.state][event]
        self._punctual.pop(node.node_id, None)
        # Rebuilt at the next request. Finding out that a heartbeat changed nothing costs as much for a few nodes.
        self._holders.clear()
        self._on_event(node, before, event, now)

    def _remove(self, node: RegisteredNode, event: Event, now: float) -> None:
        self._apply(node, event, now)
        self._peers.update(node)
        del self._nodes[node.node_id]
        self._kept_chars -= node.kept_chars


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


def _limited(name: str, values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(values) > MAX_HEARTBEAT_ITEMS:
        raise MessageInvalid(f"more than {MAX_HEARTBEAT_ITEMS} items", name)
    return values


def _sources(message: Heartbeat, filling: frozenset[str]) -> dict[str, str]:
    """Return where each version in `filling` is fetched. Texts that are no node ids are left out."""
    _limited("sources", tuple(message.sources))
    found = {digest: message.sources[digest] for digest in filling if digest in message.sources}
    return {digest: name for digest, name in found.items() if one_line(name, MAX_ID_CHARS) == name}


def _limited_load(load: Load | None) -> Load:
    if load is None:
        return Load()
    active, limit = (min(max(count, 0), MAX_LOAD) for count in (load.active_downloads, load.max_downloads))
    return msgspec.structs.replace(load, active_downloads=active, max_downloads=limit)


def _status(text: str) -> str:
    """Return a node's status as it is kept and displayed: one short line, "online" if empty."""
    return one_line(text, MAX_STATUS_CHARS) or "online"
