"""Rate limits of the node and of each client, for LANs that carry video as well: token buckets. Pure.

A download reserves the bytes that it sends next, and waits for the seconds that the reservation returns. Reservations
are small, so that all downloads under a limit make progress in turn.
"""

from __future__ import annotations

from math import inf

from ..token_bucket import Bucket

STEP_SECONDS = 0.1
"""Size of a reservation, in seconds of the download's share: short enough not to disturb video on the same line."""

SMALLEST_SPAN_BYTES = 8 << 10
"""Smallest reservation: below it the overhead of each call is significant."""

NO_LIMIT_BYTES = 1 << 62
"""Larger than any package."""

MANY_CLIENTS = 1024
"""Number of buckets from which on idle ones are removed."""


class RateLimits:
    """The limits of each client (by address) and of all together, in bytes per second; 0: no limit."""

    def __init__(self, client_rate: int = 0, total_rate: int = 0) -> None:
        self._client_rate = client_rate
        self._total = Bucket(total_rate) if total_rate else None
        self._peers = Bucket(total_rate) if total_rate else None
        self._clients: dict[str, Bucket] = {}
        self._sweep_at = MANY_CLIENTS

    def change(self, client_rate: int, total_rate: int) -> None:
        """Apply other limits from the next reservation on."""
        if client_rate != self._client_rate:
            self._client_rate = client_rate
            self._clients.clear()
        if total_rate != (self._total.rate if self._total else 0):
            self._total = Bucket(total_rate) if total_rate else None
            self._peers = Bucket(total_rate) if total_rate else None

    def span_bytes(self, active: int) -> int:
        """Return how many bytes each of `active` downloads should reserve at a time."""
        share = min(self._client_rate or inf, self._total.rate / max(1, active) if self._total else inf)
        return NO_LIMIT_BYTES if share == inf else max(SMALLEST_SPAN_BYTES, int(share * STEP_SECONDS))

    def reserve(self, client: str, count: int, now: float) -> Reservation:
        """Reserve `count` bytes for a client."""
        buckets = []
        if self._total is not None:
            buckets.append(self._total)
        if self._client_rate:
            buckets.append(self._bucket_of(client, now))
        return Reservation(buckets, count, now)

    def reserve_for_peer(self, count: int, now: float) -> Reservation:
        """Reserve `count` bytes for another node, which waits only for other nodes: clients get what is left.

        A node that is late makes all those late that fetch from it.
        """
        if self._total is None or self._peers is None:
            return Reservation([], count, now)
        self._total.reserve(count, now)
        return Reservation([self._peers], count, now)

    def _bucket_of(self, client: str, now: float) -> Bucket:
        if len(self._clients) >= self._sweep_at:
            self._clients = {name: bucket for name, bucket in self._clients.items() if not bucket.idle(now)}
            self._sweep_at = max(MANY_CLIENTS, 2 * len(self._clients))
        return self._clients.setdefault(client, Bucket(self._client_rate))


class Reservation:
    """Bytes that may be sent `seconds` after they were reserved."""

    def __init__(self, buckets: list[Bucket], count: int, now: float) -> None:
        self._buckets = buckets
        self._count = count
        self.seconds = max((bucket.reserve(count, now) for bucket in buckets), default=0.0)

    def cancel(self) -> None:
        """Undo the reservation: its bytes are not sent."""
        for bucket in self._buckets:
            bucket.cancel(self._count)
