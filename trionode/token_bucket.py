"""A token bucket, for the rates of what is sent and of what is fetched. Pure: takes `now`."""

from __future__ import annotations

from math import inf

BURST_SECONDS = 0.25
"""Burst of an idle bucket, in seconds of its rate, so that small answers do not wait."""


class Bucket:
    """A token bucket of `rate` bytes per second.

    In any time `t` it grants `rate * (t + BURST_SECONDS)` bytes and one reservation more. Times are seconds of any
    monotonic clock.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_until = -inf

    def reserve(self, count: int, now: float) -> float:
        """Reserve `count` bytes. Return the seconds to wait from `now` on."""
        self._paid_until = max(self._paid_until, now - BURST_SECONDS) + count / self.rate
        return max(0.0, self._paid_until - now)

    def cancel(self, count: int) -> None:
        """Undo a reservation of bytes that are not sent."""
        self._paid_until -= count / self.rate

    def idle(self, now: float) -> bool:
        """Return whether this bucket is in the state of a new one."""
        return self._paid_until <= now - BURST_SECONDS
