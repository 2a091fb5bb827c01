"""How often something took how long: counts by upper bound, as Prometheus wants them. Pure."""

from __future__ import annotations

from bisect import bisect_left

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""From a small answer on a LAN to a tablet at the far end of a weak wireless network."""


class Histogram:
    """Counts of what was observed, in seconds; `counts[i]` is how many lay above `SECONDS[i - 1]`, up to `SECONDS[i]`.

    The last count is of those beyond every bound.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds
