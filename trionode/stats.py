"""Counters of the node, as plain objects that their owners increment. Imports nothing of ours."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of a histogram's buckets, in seconds: from a small answer on a LAN to a weak wireless network."""


class Histogram:
    """Observed durations: `counts[i]` is the number above `SECONDS[i - 1]` and up to `SECONDS[i]`.

    The last count is that of durations above every bound; `total` is the sum in seconds.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class FillStats:
    """Fills that have ended since the start."""

    done: int = 0
    failed: int = 0


@dataclass(slots=True)
class PeerStats:
    """What fetching from other nodes came to since the start."""

    bytes_fetched: int = 0
    """Bytes of packages received from other nodes."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Times that a node was passed over during a fetch, by reason."""
    wrong_bytes: Counter[str] = field(default_factory=Counter)
    """Times that a node sent bytes that are not the package's, by its id."""


@dataclass(slots=True)
class RepairStats:
    """What scrub and repair have done since the start."""

    scrubbed_bytes: int = 0
    repaired_chunks: int = 0
    repaired_bytes: int = 0
    unrepairable: int = 0
    """Versions removed because a piece of them could not be fetched again."""
    unrepaired: int = 0
    """Repairs postponed because the master did not answer."""
