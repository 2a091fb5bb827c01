"""Delay before a failed attempt is repeated: exponential, bounded, with jitter. Pure."""

from __future__ import annotations

FIRST_RETRY_SECONDS = 1.0

MAX_RETRY_SECONDS = 15.0
"""Longest delay: however long the failures lasted, a node recovers within this time."""


def retry_seconds(failures: int, random: float, *, longest: float = MAX_RETRY_SECONDS) -> float:
    """Return the delay in seconds after `failures` (>= 1) failed attempts in a row.

    `random` in [0, 1) spreads nodes that failed at the same moment.
    """
    # The exponent is bounded: after a year of failures it would be about 2 ** 10_000_000.
    ceiling = min(longest, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * (0.5 + 0.5 * random)
