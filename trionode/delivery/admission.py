"""Admission of downloads: permits, the queue for them, and the counters of all downloads. Pure."""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import TYPE_CHECKING

from ..errors import AtCapacity
from ..stats import Histogram
from .rate_limit import RateLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import Settings

MAX_WINDOW_BYTES = 1 << 20
"""Largest read of a package: at 1 MiB the overhead of a call is negligible."""

MIN_WINDOW_BYTES = 64 << 10
"""Smallest read: below it the overhead of each call is significant."""

READ_AHEAD_BYTES = 24 << 20
"""Memory for the windows of all downloads together, so that 500 of them cost little more than 10."""


class Outcome(Enum):
    """How a download ended. `LEFT`: the client left or was cut off as too slow, or the node stopped."""

    SENT = "sent"
    LEFT = "left"
    FAILED = "failed"
    REFUSED = "refused"


class Permit:
    """A download's permit, or its place in the queue. `on_admitted` is called when it leaves the queue."""

    def __init__(self, version: str | None, on_admitted: Callable[[], None]) -> None:
        self.version = version
        self.on_admitted = on_admitted
        self.admitted = False
        self.released = False


class Downloads:
    """At most `limit` active downloads (0: any number), and a FIFO queue of the same length.

    `on_full` is called when the last free permit is taken: the master should then send no more clients.
    """

    def __init__(self, on_full: Callable[[], None]) -> None:
        self.rate_limits = RateLimits()
        self.queue_seconds = 0.0
        self.limit = 0
        self.active = 0
        self.sending: Counter[str] = Counter()
        """Active downloads by version; without those that follow a fill whose version is not known yet."""
        self.outcomes: Counter[Outcome] = Counter()
        self.bytes_sent = 0
        """Bytes of packages sent to clients."""
        self.bytes_sent_to_peers = 0
        """Bytes of packages sent to other nodes."""
        self.first_byte = Histogram()
        self.duration = Histogram()
        """Durations of complete downloads, from the request to the first byte and to the last."""
        self._on_full = on_full
        self._queue: deque[Permit] = deque()

    @property
    def queued(self) -> int:
        """Downloads in the queue."""
        return len(self._queue)

    @property
    def finished(self) -> int:
        """Downloads that were sent completely."""
        return self.outcomes[Outcome.SENT]

    @property
    def broken_off(self) -> int:
        """Downloads that ended before their last byte."""
        return self.outcomes[Outcome.LEFT] + self.outcomes[Outcome.FAILED]

    def configure(self, settings: Settings) -> None:
        """Apply the limits of the settings. Active downloads continue, whatever the new limit."""
        self.limit = settings.max_downloads
        self.queue_seconds = settings.queue_seconds
        self.rate_limits.change(settings.client_bytes_per_second, settings.total_bytes_per_second)
        self._admit_queued()

    def request_permit(self, version: str | None, on_admitted: Callable[[], None]) -> Permit:
        """Return a permit for a download of `version` (None: not known yet), or a place in the queue.

        Raises `AtCapacity` when the queue is full.
        """
        permit = Permit(version, on_admitted)
        if not self._queue and not self._full():
            self._admit(permit)
        elif len(self._queue) < self.limit:
            self._queue.append(permit)
        else:
            raise AtCapacity(self.limit)
        return permit

    def release(self, permit: Permit) -> None:
        """Release a permit, or leave the queue. Idempotent."""
        if permit.released:
            return
        permit.released = True
        if not permit.admitted:
            self._queue.remove(permit)
            return
        self.active -= 1
        if permit.version is not None:
            self.sending[permit.version] -= 1
            if not self.sending[permit.version]:
                del self.sending[permit.version]
        self._admit_queued()

    def count_sent(self, count: int, *, peer: bool = False) -> None:
        """Count bytes of packages that were sent, to a client or to another node (`peer`)."""
        if peer:
            self.bytes_sent_to_peers += count
        else:
            self.bytes_sent += count

    def count_end(self, outcome: Outcome, seconds: float, first_byte_seconds: float | None) -> None:
        """Count a download that has ended, and its times since the request."""
        self.outcomes[outcome] += 1
        if first_byte_seconds is not None:
            self.first_byte.observe(first_byte_seconds)
        if outcome is Outcome.SENT:
            self.duration.observe(seconds)

    def span_bytes(self, largest: int) -> int:
        """Return how many bytes each download should send at a time: `largest`, or less under a rate limit."""
        return min(largest, self.rate_limits.span_bytes(self.active))

    def window_bytes(self) -> int:
        """Return how many bytes the next read of each download may take."""
        return max(MIN_WINDOW_BYTES, min(MAX_WINDOW_BYTES, READ_AHEAD_BYTES // max(1, self.active)))

    def _full(self) -> bool:
        return 0 < self.limit <= self.active

    def _admit_queued(self) -> None:
        while self._queue and not self._full():
            permit = self._queue.popleft()
            self._admit(permit)
            permit.on_admitted()

    def _admit(self, permit: Permit) -> None:
        permit.admitted = True
        self.active += 1
        if permit.version is not None:
            self.sending[permit.version] += 1
        if self._full():
            self._on_full()
