"""Which source a fill requests its next range from: another node, or the master. Pure: takes `now`.

A node that is filling a version asks nodes that hold it whole, else the nearest one before it in the order of the
version (`master_shim.protocol.chain`), else the master. It stays with its source as long as that is good.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from master_shim.protocol.chain import predecessors, spread

from ..errors import PeerFailure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from master_shim.protocol import FillProgress, VersionNode

MASTER = ""
"""The name of the master as a source; those of nodes are their ids."""

LAG_BYTES = 4 << 20
"""A healthy fill is less than this behind its source: one range on the way, and one chunk being verified."""

SLOW_FACTOR = 2
"""A source is slow if another one is so many times faster."""

RATE_SECONDS = 2.0
"""Rates are measured over this time."""

BUSY_SECONDS = 1.0
"""A node that has no place for another one is not asked again for so long."""

URGED_SECONDS = 5.0
"""The same for a node that had no place even for an urgent request."""

MAX_LOSSES = 4
"""A node whose connections broke so often is not asked again for this version, although it answers."""

TRIAL_BYTES = 1 << 20
"""Size limit of the one range that is requested from another source to compare its rate: 1.6 % of 64 MB.

With 256 KiB at 40 Mbit/s the start of the connection took most of the time, and a source four times as fast was not
found to be so."""

TRIAL_SHARE_SECONDS = 0.75
"""The source in use sends so much in this time, if that is less: the master may be slow, too."""

TRIAL_SECONDS = 4.0
"""A trial is made if the rest would take longer than this, and ends after this time."""


class Choice(NamedTuple):
    """The source of a range. `urgent`: it is busy with other nodes, and only the master is left beside it."""

    source: str
    urgent: bool = False


class Trial(NamedTuple):
    """A request of up to `size` bytes to another source, whose rate is to be reported with `compared`."""

    source: str
    size: int


class _Rate:
    """A rate over the last `RATE_SECONDS`, from samples of a total."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def add(self, total: int, now: float) -> None:
        while len(self._samples) > 1 and self._samples[1][0] <= now - RATE_SECONDS:
            del self._samples[0]
        self._samples.append((now, total))

    @property
    def value(self) -> float | None:
        """Bytes per second; None as long as the samples are too close to each other."""
        if not self._samples:
            return None
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return (last - first) / (ended - began) if ended - began >= 0.75 * RATE_SECONDS else None


class Route:
    """The sources of a fill of `size` bytes (None: unknown), by the node with this id. `barred` are never asked."""

    def __init__(self, key: str, node_id: str, size: int | None = None, barred: Iterable[str] = ()) -> None:
        self._key = key
        self._node_id = node_id
        self._size = size
        self._holders: list[str] = []
        self._before: list[str] = []
        self._avoided = dict.fromkeys(barred, inf)  # until when
        self._urged: set[str] = set()
        self._lost: set[str] = set()
        self._losses: Counter[str] = Counter()
        self._current: str | None = None
        self._progress: FillProgress | None = None
        self._own, self._its = _Rate(), _Rate()
        self._filled = 0
        self._tried = False
        self.slow = False
        """Whether this fill is slow: nodes behind it should ask its source instead."""

    def update(self, nodes: Iterable[VersionNode]) -> None:
        """Apply a new list of the other nodes."""
        nodes = tuple(nodes)
        self._holders = spread(self._key, self._node_id, (node.node_id for node in nodes if node.held))
        others = {node.node_id for node in nodes if not node.held}
        self._before = predecessors(self._key, self._node_id, others)

    @property
    def candidates(self) -> list[str]:
        """The nodes that may be a source, the best one first."""
        return [*self._holders, *self._before]

    @property
    def lost(self) -> list[str]:
        """Candidates that did not answer; `back` makes them candidates again."""
        return [node for node in self.candidates if node in self._lost]

    def choose(self, now: float) -> Choice:
        """Return the source of the next range."""
        current = self._current
        if current and current in self.candidates and self._usable(current, now):
            return Choice(current, urgent=current in self._urged)
        choice = self._best(now)
        if choice.source != self._current:
            self._current = choice.source
            self._progress = None
            self._own, self._its = _Rate(), _Rate()
        return choice

    def _best(self, now: float) -> Choice:
        usable = [node for node in self.candidates if node not in self._lost]
        for node in usable:
            if self._avoided.get(node, 0.0) <= now:
                return Choice(node)
        for node in usable:
            # Refused as too busy a moment ago: it makes an exception before the master has to.
            if self._avoided[node] <= now + BUSY_SECONDS:
                del self._avoided[node]
                self._urged.add(node)
                return Choice(node, urgent=True)
        return Choice(MASTER)

    def _usable(self, node: str, now: float) -> bool:
        return node not in self._lost and self._avoided.get(node, 0.0) <= now

    def failed(self, node: str, failure: PeerFailure, now: float) -> None:
        """Record that a node was of no use as a source. Several requests to it may fail at the same time."""
        until = 0.0
        if failure is PeerFailure.UNREACHABLE:
            self._losses[node] += node not in self._lost
            self._lost.add(node)
            if self._losses[node] >= MAX_LOSSES:
                until = inf
        elif failure is PeerFailure.BUSY:
            until = now + (URGED_SECONDS if node in self._urged else BUSY_SECONDS)
            self._urged.discard(node)
        else:
            until = inf
        self._avoided[node] = max(until, self._avoided.get(node, 0.0))

    def back(self, node: str) -> None:
        """Record that a node that did not answer does again."""
        self._lost.discard(node)

    def observe(self, progress: FillProgress, filled: int, now: float) -> bool:
        """Record how far the current source is, and this fill (`filled` bytes). Return whether the source is slow."""
        if not self._current:
            return False
        before, self._progress = self._progress, progress
        if before is not None and (before.source, before.held) != (progress.source, progress.held):
            # It has waited for the source that it has lost: the rates until now say nothing about the new one.
            self._own, self._its = _Rate(), _Rate()
        self._filled = filled
        self._its.add(progress.filled, now)
        self._own.add(filled, now)
        lag, its, own = progress.filled - filled, self._its.value, self._own.value
        if progress.held or lag <= LAG_BYTES:
            self.slow = False
        elif its is not None and own is not None and own * SLOW_FACTOR < its:
            self.slow = True
        return progress.slow

    def trial(self, now: float) -> Trial | None:
        """Return a trial of a source that has the whole version; None: not needed.

        A node that fetches from another one compares itself with it, and says so if it is slow. One that fetches from
        the master, or has the whole version, has nothing to compare itself with: only a trial shows that it is slow.
        """
        progress, rate = self._progress, self._own.value
        if self._tried or not self._current or progress is None or rate is None or self._size is None:
            return None
        unknown = progress.held or not progress.source
        if not unknown or self._size - self._filled <= TRIAL_SECONDS * rate:
            return None
        self._tried = True
        others = (node for node in self._holders if node != self._current and self._usable(node, now))
        return Trial(next(others, MASTER), min(TRIAL_BYTES, int(TRIAL_SHARE_SECONDS * rate)))

    def compared(self, rate: float) -> bool:
        """Return whether the current source is slow, after a trial of another one with `rate` bytes per second."""
        own = self._own.value
        return bool(self._current) and own is not None and rate > SLOW_FACTOR * own
