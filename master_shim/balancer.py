"""Load balancing: which node a client is sent to. Pure: takes `now` and a random number generator.

The estimated load of a node is the downloads it last reported plus the clients sent there and not seen there yet, so a
burst between two heartbeats spreads evenly although every report is stale. The node with the least estimate in
proportion to its weight is chosen. Ties are broken at random, so that several masters do not choose alike.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .node import State
from .protocol import MAX_HEARTBEAT_ITEMS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from .node import RegisteredNode

ASSIGNMENT_SECONDS = 90.0
"""A client not seen at its node for this long never arrived. Tablets wait up to 60 s."""
SLOW_START_SECONDS = 30.0
"""Time until a node that came online has its full weight: its page cache and connections are cold."""
SLOW_START_WEIGHT = 0.1
"""Factor of the weight at the beginning of the slow start."""
RETRY_SECONDS = 60.0
"""A client that asks again for the same version within this time was failed by the node it was sent to."""
SHARED_AFTER = 6
"""Requests of one client in RETRY_SECONDS. An address with more is shared by several clients (a proxy, NAT), and its
repeated requests do not mean that nodes failed; tablets try three times."""
SUSPECT_AFTER = 3
"""A node that failed clients of this many addresses since its last heartbeat is suspect until the next one."""
SUSPECT_WEIGHT = 0.1
"""Factor of the weight of a suspect node."""
FAIR_SHARE = 1.1
"""A third node is not offered if its load is above this many times its share, rounded up."""
MAX_REMEMBERED = 100_000
"""Most assignments, and most clients, that are remembered. The oldest are forgotten first."""

UNITS = 6
"""Load of one client, as an integer: a client that is offered two or three nodes counts a half or a third on each."""


class Choice(NamedTuple):
    """A node for a client, and the ticket by which the node reports the client's arrival."""

    node: RegisteredNode
    ticket: str


class _Assignment(NamedTuple):
    nodes: tuple[RegisteredNode, ...]
    units: int  # on each of the nodes
    expires: float


@dataclass(slots=True)
class _Visit:
    """The recent requests of one client for one meeting's package, and the nodes that failed it."""

    digest: str
    at: float
    count: int = 0
    last: Choice | None = None
    failed: list[str] = field(default_factory=list)


_Candidate = tuple[float, float, str, int, float, "RegisteredNode"]
"""A node below its limit: its load with the new client per weight, a random number and its id to break ties, its units,
its weight, the node. The least is the best choice. A plain tuple, since each redirect makes one for every node."""


def _weight(node: RegisteredNode, largest_limit: int, now: float) -> float:
    """Return the capacity by which a node's load is divided, reduced in the slow start or if the node is suspect.

    The capacity is the node's own limit, or the largest limit of all nodes if it has none.
    """
    weight = float(node.load.max_downloads or largest_limit or 1)
    age = now - node.online_since
    if age < SLOW_START_SECONDS:
        weight *= SLOW_START_WEIGHT + (1.0 - SLOW_START_WEIGHT) * max(age, 0.0) / SLOW_START_SECONDS
    if len(node.failed_clients) >= SUSPECT_AFTER:
        weight *= SUSPECT_WEIGHT
    return weight


class Balancer:
    """Chooses nodes, and remembers the choices. Remembering and forgetting are O(1), a choice is O(nodes)."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        # Both ordered by expiry, so that what expires next is at the front.
        self._assignments: OrderedDict[str, _Assignment] = OrderedDict()
        self._visits: OrderedDict[tuple[str, str], _Visit] = OrderedDict()

    def choose(
        self, nodes: Sequence[RegisteredNode], *, client: str | None, meeting_id: str, digest: str, now: float
    ) -> Choice | None:
        """Choose one of `nodes` (the holders of the version) for a client, and assign the client to it.

        A client that comes back gets another node than those that failed it. Returns None if no node is available, or
        each one failed this client twice: the master then serves the package itself.
        """
        self._expire(now)
        visit = None if client is None else self._visit(client, meeting_id, digest, now)
        failed = visit.failed if visit is not None else []
        candidates = self._candidates(nodes, now)
        # A client may ask twice without a failure, so every node has a second chance.
        best = _least(candidates, failed) or _least(candidates, [name for name in failed if failed.count(name) > 1])
        choice = None if best is None else Choice(best, f"{self._rng.getrandbits(64):016x}")
        if choice is not None:
            self._assign(choice.ticket, (choice.node,), UNITS, now)
        if visit is not None:
            visit.last = choice
        return choice

    def preview(self, nodes: Sequence[RegisteredNode], now: float) -> RegisteredNode | None:
        """Return the node that would be chosen now for a new client, without assigning one."""
        self._expire(now)
        return _least(self._candidates(nodes, now), ())

    def offer(self, nodes: Sequence[RegisteredNode], now: float, *, assign: bool = True) -> tuple[RegisteredNode, ...]:
        """Return two or three of the least loaded nodes, for a client that picks one of them at random itself.

        The client is assigned to each in equal parts if `assign`; no ticket reports its arrival. A third node is
        offered only if its load is within its fair share, and fewer than two only if no more are available. Addresses
        are distinct.
        """
        self._expire(now)
        candidates = self._candidates(nodes, now)
        total = sum(units for _, _, _, units, _, _ in candidates)
        total_weight = sum(weight for _, _, _, _, weight, _ in candidates)
        chosen: dict[str, RegisteredNode] = {}
        for _, _, _, units, weight, node in sorted(candidates):
            # Rounded up to whole clients: with few clients, one more on a node is not uneven.
            share = math.ceil(FAIR_SHARE * total * weight / total_weight / UNITS) * UNITS
            if len(chosen) >= 3 or (len(chosen) >= 2 and units > share):
                break
            chosen.setdefault(node.address, node)
        picked = tuple(chosen.values())
        if picked and assign:
            self._assign(f"offer-{self._rng.getrandbits(64):016x}", picked, UNITS // len(picked), now)
        return picked

    def confirm(self, node: RegisteredNode, tickets: Sequence[str], now: float) -> None:
        """End the assignments of clients that have arrived at `node`, which counts them in its own reports now.

        Unknown tickets, and those of other nodes, are ignored.
        """
        self._expire(now)
        for ticket in tickets[:MAX_HEARTBEAT_ITEMS]:
            assignment = self._assignments.get(ticket)
            if assignment is not None and assignment.nodes == (node,):
                self._release(ticket)

    def _candidates(self, nodes: Sequence[RegisteredNode], now: float) -> list[_Candidate]:
        """Return the nodes below their limit."""
        largest = max((node.load.max_downloads for node in nodes), default=0)
        found = []
        for node in nodes:
            units = node.load.active_downloads * UNITS + node.assigned_units
            limit = node.load.max_downloads
            if not limit or units < limit * UNITS:
                weight = _weight(node, largest, now)
                found.append(((units + UNITS) / weight, self._rng.random(), node.node_id, units, weight, node))
        return found

    def _visit(self, client: str, meeting_id: str, digest: str, now: float) -> _Visit:
        key = (client, meeting_id)
        visit = self._visits.get(key)
        if visit is None or visit.digest != digest:
            visit = self._visits[key] = _Visit(digest, now)
            if len(self._visits) > MAX_REMEMBERED:
                self._visits.popitem(last=False)
        self._visits.move_to_end(key)
        visit.at = now
        visit.count += 1
        if visit.count > SHARED_AFTER:
            visit.failed.clear()
        elif visit.last is not None:
            visit.failed.append(visit.last.node.node_id)
            visit.last.node.failed_clients.add(client)
            self._release(visit.last.ticket)  # the client is here, so it will not arrive there
        visit.last = None
        return visit

    def _assign(self, ticket: str, nodes: tuple[RegisteredNode, ...], units: int, now: float) -> None:
        for node in nodes:
            node.assigned_units += units
        self._assignments[ticket] = _Assignment(nodes, units, now + ASSIGNMENT_SECONDS)
        if len(self._assignments) > MAX_REMEMBERED:
            self._release(next(iter(self._assignments)))

    def _release(self, ticket: str) -> None:
        assignment = self._assignments.pop(ticket, None)
        if assignment is not None:
            for node in assignment.nodes:
                node.assigned_units -= assignment.units

    def _expire(self, now: float) -> None:
        while self._assignments:
            ticket, assignment = next(iter(self._assignments.items()))
            if assignment.expires > now:
                break
            self._release(ticket)
        while self._visits:
            key, visit = next(iter(self._visits.items()))
            if now - visit.at < RETRY_SECONDS:
                break
            del self._visits[key]


def _least(candidates: Sequence[_Candidate], excluded: Sequence[str]) -> RegisteredNode | None:
    """Return the least loaded candidate whose id is not among `excluded`. It is never above its fair share."""
    if excluded:
        candidates = [item for item in candidates if item[2] not in excluded]
    return min(candidates)[-1] if candidates else None


def unfit_reason(nodes: Sequence[RegisteredNode], meeting_id: str, digest: str) -> str:
    """Return, for people, why none of the live `nodes` was chosen for a client of this version."""
    if not nodes:
        return "no node is registered"
    obstacles = Counter(_obstacle(node, meeting_id, digest) for node in nodes)
    return "of the nodes, " + ", ".join(f"{count} {obstacle}" for obstacle, count in obstacles.items())


_UNFIT_STATES = {
    State.REGISTERED: "just registered",
    State.LATE: "late",
    State.DRAINING: "draining",
}


def _obstacle(node: RegisteredNode, meeting_id: str, digest: str) -> str:
    if node.state in _UNFIT_STATES:
        return _UNFIT_STATES[node.state]
    if not node.reachable:
        return "offline" if node.status == "offline" else "without a valid address"
    if not node.holds(meeting_id, digest):
        return "still fetching it" if digest in node.filling else "without its current version"
    limit = node.load.max_downloads
    if limit and node.load.active_downloads * UNITS + node.assigned_units >= limit * UNITS:
        return "at max_downloads"
    return "tried twice by this client"
