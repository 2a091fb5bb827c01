"""When a failed attempt is repeated (exponential, bounded, with jitter), and when it is logged again. Pure."""

from __future__ import annotations

from math import inf

FIRST_RETRY_SECONDS = 1.0

MAX_RETRY_SECONDS = 15.0
"""Longest delay: however long the failures lasted, a node recovers within this time."""

REMIND_SECONDS = 300.0
"""Interval at which a failure that lasts is logged: often enough to be seen, too seldom to fill a log."""


class Reminder:
    """Tells when a failure that may last is logged: the first time, then every `REMIND_SECONDS`."""

    def __init__(self) -> None:
        self._due_at = -inf

    def due(self, now: float) -> bool:
        """Return whether a failure at `now` is to be logged."""
        if now < self._due_at:
            return False
        self._due_at = now + REMIND_SECONDS
        return True

    def reset(self) -> None:
        """Begin again: the next failure is the first."""
        self._due_at = -inf


def retry_seconds(failures: int, random: float, *, longest: float = MAX_RETRY_SECONDS) -> float:
    """Return the delay in seconds after `failures` (>= 1) failed attempts in a row.

    `random` in [0, 1) spreads nodes that failed at the same moment.
    """
    # The exponent is bounded: after a year of failures it would be about 2 ** 10_000_000.
    ceiling = min(longest, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * (0.5 + 0.5 * random)
