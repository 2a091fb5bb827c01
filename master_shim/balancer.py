"""Which node a client is sent to. Pure: takes `now` and a source of chance.

The estimate of a node is the downloads it last reported plus the clients sent there and not seen there yet,
so a burst between two heartbeats spreads evenly although every report is stale by then. The least estimate
for its weight wins; ties are broken at random, lest several masters agree on a favourite.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from .registry import Node

ASSIGNMENT_SECONDS = 90.0
"""A client that was sent to a node and not seen there for this long never arrived (tablets wait up to 60
s)."""
SLOW_START_SECONDS = 30.0
"""A node that came online takes its full share only after this long: its caches and its lines are cold."""
SLOW_START_WEIGHT = 0.1
RETURN_SECONDS = 60.0
"""A client that asks again for the same package within this was failed by the node it was sent to."""
SHARED_AFTER = 6
"""One client asks at most a few times in RETURN_SECONDS (tablets try three times); an address that asks
more often is shared by many (a proxy, NAT), and its requests say nothing about nodes."""
SUSPECT_AFTER = 3
"""Clients from so many addresses failed by a node since its last heartbeat: it is trusted less until the
next."""
SUSPECT_WEIGHT = 0.1
FAIR_SHARE = 1.1
"""A node that has more than this times its share (rounded up) is passed over."""
MAX_REMEMBERED = 100_000
"""Assignments, and clients, that are remembered; beyond this the oldest are forgotten first."""
MAX_TICKETS = 10_000
"""Tickets looked at in one heartbeat."""

UNITS = 6
"""Load of one client in the integers kept here: a client offered two or three nodes counts a half or a
third on each."""


class Choice(NamedTuple):
    """A node for a client, and the ticket by which the node tells that the client arrived."""

    node: Node
    ticket: str


class _Assignment(NamedTuple):
    nodes: tuple[Node, ...]
    units: int  # on each of the nodes
    expires: float


@dataclass(slots=True)
class _Visit:
    """What one client was told about one package lately."""

    digest: str
    at: float
    count: int = 0
    last: Node | None = None
    ticket: str = ""
    failed: list[str] = field(default_factory=list)


class _Load(NamedTuple):
    node: Node
    units: int
    weight: float


def _largest_limit(nodes: Sequence[Node]) -> int:
    return max(map(_LIMIT, nodes), default=0)


_LIMIT = attrgetter("load.max_downloads")


def _weight(node: Node, largest_limit: int, now: float) -> float:
    """Return what a node's load is divided by: its capacity, less while it starts or is suspect.

    The limit a node states is its capacity; one that states none is as strong as the strongest that does.
    """
    weight = float(node.load.max_downloads or largest_limit or 1)
    age = now - node.online_since
    if age < SLOW_START_SECONDS:
        weight *= SLOW_START_WEIGHT + (1.0 - SLOW_START_WEIGHT) * max(age, 0.0) / SLOW_START_SECONDS
    if len(node.failed_clients) >= SUSPECT_AFTER:
        weight *= SUSPECT_WEIGHT
    return weight


def _loads(nodes: Sequence[Node], now: float) -> list[_Load]:
    largest = _largest_limit(nodes)
    found = []
    for node in nodes:
        units = node.load.active_downloads * UNITS + node.assigned_units
        limit = node.load.max_downloads
        if not limit or units < limit * UNITS:
            found.append(_Load(node, units, _weight(node, largest, now)))
    return found


class Balancer:
    """Choices, and the memory of those made. Remembering and forgetting are O(1), a choice is O(nodes)."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        # Both in the order in which they end, so that what has ended is at the front.
        self._assignments: OrderedDict[str, _Assignment] = OrderedDict()
        self._visits: OrderedDict[tuple[str, str], _Visit] = OrderedDict()

    def choose(
        self, nodes: Sequence[Node], *, client: str | None, meeting_id: str, digest: str, now: float
    ) -> Choice | None:
        """Choose one of `nodes` (those that hold the version) for a client, and count the client there.

        A client that comes back gets another node than those that failed it. None when no node is fit, or every
        fit one has failed this client twice: the master then serves it itself.
        """
        self._expire(now)
        visit = None if client is None else self._visit(client, meeting_id, digest, now)
        failed = visit.failed if visit is not None else ()
        node = self._least(nodes, failed, now)
        if node is None and failed:
            # No other one: a second chance for each, since a client may ask twice without any failure.
            node = self._least(nodes, [name for name in failed if failed.count(name) > 1], now)
        if node is None:
            if visit is not None:
                visit.last = None
            return None
        ticket = f"{self._rng.getrandbits(64):016x}"
        self._assign(ticket, (node,), UNITS, now)
        if visit is not None:
            visit.last, visit.ticket = node, ticket
        return Choice(node, ticket)

    def look(self, nodes: Sequence[Node], now: float) -> Node | None:
        """Return the node that would be chosen now, and count nobody anywhere."""
        self._expire(now)
        return self._least(nodes, (), now)

    def offer(self, nodes: Sequence[Node], now: float, *, most: int = 3, count: bool = True) -> tuple[Node, ...]:
        """Return two or three of the least loaded for a client that picks one of them at random itself.

        The client counts in equal parts on each; no ticket tells of its arrival. A third node is offered only
        while it is within its fair share; fewer than two only when no more are fit. Addresses are distinct.
        With `count` false nobody is counted anywhere.
        """
        self._expire(now)
        loads = _loads(nodes, now)
        total = sum(item.units for item in loads)
        weights = sum(item.weight for item in loads)
        loads.sort(key=lambda item: ((item.units + UNITS) / item.weight, self._rng.random()))
        chosen: dict[str, Node] = {}
        for item in loads:
            # Whole clients, rounded up, so that a few clients on a few nodes do not already count as uneven.
            share = math.ceil(FAIR_SHARE * total * item.weight / weights / UNITS) * UNITS
            if len(chosen) >= most or (len(chosen) >= 2 and item.units > share):
                break
            chosen.setdefault(item.node.address, item.node)
        picked = tuple(chosen.values())
        if picked and count:
            self._assign(f"offer-{self._rng.getrandbits(64):016x}", picked, UNITS // len(picked), now)
        return picked

    def seen(self, node: Node, tickets: Sequence[str], now: float) -> None:
        """Take note that clients have arrived at `node`: from now on its reports count them.

        Tickets that were never given out, or not for this node, are ignored.
        """
        self._expire(now)
        for ticket in tickets[:MAX_TICKETS]:
            assignment = self._assignments.get(ticket)
            if assignment is not None and assignment.nodes == (node,):
                self._release(ticket)

    def _least(self, nodes: Sequence[Node], failed: Sequence[str], now: float) -> Node | None:
        # This loop runs for every redirect, so it takes the short way for a node in its usual state: `_loads` says
        # the same, at three times the cost. The least for its weight never has more than its fair share, so that
        # rule needs no look here.
        largest = _largest_limit(nodes)
        warm = now - SLOW_START_SECONDS
        best: Node | None = None
        best_score = math.inf
        ties = 1
        for node in nodes:
            if failed and node.node_id in failed:
                continue
            load = node.load
            units = load.active_downloads * UNITS + node.assigned_units
            limit = load.max_downloads
            if limit and units >= limit * UNITS:
                continue
            if node.failed_clients or node.online_since > warm:
                score = (units + UNITS) / _weight(node, largest, now)
            else:
                score = (units + UNITS) / (limit or largest or 1)
            if score < best_score:
                best, best_score, ties = node, score, 1
            elif score == best_score:
                ties += 1
                if self._rng.random() * ties < 1.0:
                    best = node
        return best

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
            visit.last = None
        elif visit.last is not None:
            visit.failed.append(visit.last.node_id)
            visit.last.failed_clients.add(client)
            self._release(visit.ticket)  # it is here, so it will not arrive there
            visit.last = None
        return visit

    def _assign(self, ticket: str, nodes: tuple[Node, ...], units: int, now: float) -> None:
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
            if now - visit.at < RETURN_SECONDS:
                break
            del self._visits[key]
