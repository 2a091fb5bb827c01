"""A set of byte ranges: which ranges of a file are verified. Pure; safe from any thread."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right


class RangeSet:
    """Disjoint ranges; ranges that touch are merged.

    `covered` costs one bisection (about half a microsecond): each follower of a fill calls it for each buffer it sends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def total(self) -> int:
        """Bytes in all ranges."""
        with self._lock:
            return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add the range [start, end), which may overlap others."""
        with self._lock:
            first = bisect_left(self._ends, start)
            last = bisect_right(self._starts, end)
            if first < last:
                start = min(start, self._starts[first])
                end = max(end, self._ends[last - 1])
            self._starts[first:last] = [start]
            self._ends[first:last] = [end]

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are in the set; 0 when `offset` is not."""
        with self._lock:
            index = bisect_right(self._starts, offset) - 1
            return max(0, self._ends[index] - offset) if index >= 0 else 0
