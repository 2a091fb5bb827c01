"""How fast packages may be sent: limits for the node and for each client, where a LAN carries video too. Pure.

A download books the bytes that it will send next, and is told how long to wait until they may go. Each books a little
at a time, so that all who share a limit come round in turn.
"""

from __future__ import annotations

from math import inf

BURST_SECONDS = 0.25
"""What a limit that was not used lately lets go at once, in seconds of its rate: small answers do not wait."""

STEP_SECONDS = 0.1
"""What one download books at a time, in seconds of its share: short enough that a video beside it does not stutter."""

SMALLEST_SPAN_BYTES = 8 << 10
"""Below this the cost of each booking and call shows."""

NO_LIMIT_BYTES = 1 << 62
"""More than any package has."""

MANY_CLIENTS = 1024
"""From so many on, clients that have nothing outstanding are forgotten now and then."""


class Bucket:
    """One limit of `rate` bytes per second. Over any time `t` it lets `rate * (t + BURST_SECONDS)` go, and one booking.

    Times are seconds of any clock that only goes forward.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_until = -inf

    def book(self, count: int, now: float) -> float:
        """Book `count` bytes; return how many seconds from `now` they may go."""
        self._paid_until = max(self._paid_until, now - BURST_SECONDS) + count / self.rate
        return max(0.0, self._paid_until - now)

    def give_back(self, count: int) -> None:
        """Undo a booking whose bytes do not go after all: who comes next need not wait for them."""
        self._paid_until -= count / self.rate

    def idle(self, now: float) -> bool:
        """Tell whether this bucket is as good as a new one."""
        return self._paid_until <= now - BURST_SECONDS


class Limits:
    """The limits of one process, in bytes per second: for each client (by its address) and for all; 0 means none."""

    def __init__(self, client_rate: int = 0, total_rate: int = 0) -> None:
        self._client_rate = client_rate
        self._total = Bucket(total_rate) if total_rate else None
        self._clients: dict[str, Bucket] = {}
        self._sweep_at = MANY_CLIENTS

    def change(self, client_rate: int, total_rate: int) -> None:
        """Let other limits hold from the next booking on."""
        if client_rate != self._client_rate:
            self._client_rate = client_rate
            self._clients.clear()
        if total_rate != (self._total.rate if self._total else 0):
            self._total = Bucket(total_rate) if total_rate else None

    def span_bytes(self, active: int) -> int:
        """Return how much one of `active` downloads should book at a time."""
        share = min(self._client_rate or inf, self._total.rate / max(1, active) if self._total else inf)
        return NO_LIMIT_BYTES if share == inf else max(SMALLEST_SPAN_BYTES, int(share * STEP_SECONDS))

    def book(self, client: str, count: int, now: float) -> Booking:
        """Book `count` bytes for a client."""
        buckets = []
        if self._total is not None:
            buckets.append(self._total)
        if self._client_rate:
            buckets.append(self._bucket_of(client, now))
        return Booking(buckets, count, now)

    def _bucket_of(self, client: str, now: float) -> Bucket:
        if len(self._clients) >= self._sweep_at:
            self._clients = {name: bucket for name, bucket in self._clients.items() if not bucket.idle(now)}
            self._sweep_at = max(MANY_CLIENTS, 2 * len(self._clients))
        return self._clients.setdefault(client, Bucket(self._client_rate))


class Booking:
    """Bytes that may go `seconds` from the time they were booked at."""

    def __init__(self, buckets: list[Bucket], count: int, now: float) -> None:
        self._buckets = buckets
        self._count = count
        self.seconds = max((bucket.book(count, now) for bucket in buckets), default=0.0)

    def give_back(self) -> None:
        """Undo it: its bytes do not go."""
        for bucket in self._buckets:
            bucket.give_back(self._count)
