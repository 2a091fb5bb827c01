"""How many downloads go on, who may begin the next, and how they ended: a plain object with one owner. Pure."""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ..errors import AtCapacity
from ..histogram import Histogram
from .limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_BYTES = 1 << 20
"""What one read of a package takes: at 1 MiB the cost of a read is lost in that of its bytes."""

SMALLEST_WINDOW_BYTES = 64 << 10
"""Below this the cost of each read and write shows."""

READ_AHEAD_BYTES = 24 << 20
"""What all downloads together may hold in memory as windows, so that 500 of them cost little more than 10."""


class Outcome(Enum):
    """How a download ended. `LEFT`: its connection did, by the client, its silence, or the node's own end."""

    SENT = "sent"
    LEFT = "left"
    FAILED = "failed"
    REFUSED = "refused"


class Place:
    """A download's place: among those that go on, or in the queue. `wake` is called when it moves up."""

    def __init__(self, version: str | None, wake: Callable[[], None]) -> None:
        self.version = version
        self.wake = wake
        self.admitted = False
        self.gone = False
        self.slot: int | None = None
        """Its place among those of all processes of the node."""


class Slots(Protocol):
    """The places of all processes of a node; see `workers.slots`."""

    def take(self, limit: int) -> int | None:
        """Take one of `limit` places; None when all are taken."""
        ...

    def give_back(self, place: int) -> None:
        """Give a place back."""
        ...


class Downloads:
    """Those that go on, at most `limit` (`max_downloads`; 0: any number), and as many that wait, in their order.

    `on_full` is called whenever the last free place is taken: the master should send nobody more.
    """

    def __init__(self, limit: int = 0, limits: Limits | None = None) -> None:
        self.limit = limit
        self.limits = limits or Limits()
        self.active = 0
        self.sending: Counter[str] = Counter()
        """How many downloads of each version go on; those of a fill whose version nobody knows yet are not in it."""
        self.outcomes: Counter[Outcome] = Counter()
        self.bytes_sent = 0
        self.first_byte = Histogram()
        self.duration = Histogram()
        """Of downloads that were sent whole, from the request to the first byte and to the last."""
        self.on_full: Callable[[], None] = lambda: None
        self.slots: Slots | None = None
        """Where places are shared with other processes, which then count too."""
        self._queue: deque[Place] = deque()

    @property
    def queued(self) -> int:
        """How many wait for a place."""
        return len(self._queue)

    @property
    def finished(self) -> int:
        """How many were sent whole."""
        return self.outcomes[Outcome.SENT]

    @property
    def broken_off(self) -> int:
        """How many ended before their end."""
        return self.outcomes[Outcome.LEFT] + self.outcomes[Outcome.FAILED]

    def arrive(self, version: str | None, wake: Callable[[], None]) -> Place:
        """Take a place for a download of `version` (None: not known yet), or get in line for one.

        Raises `AtCapacity` when as many wait already as may go on at once.
        """
        place = Place(version, wake)
        if not self._queue and self._admit(place):
            pass
        elif len(self._queue) < self.limit:
            self._queue.append(place)
        else:
            raise AtCapacity(self.limit)
        return place

    def release(self, place: Place) -> None:
        """Give a place up, or leave the line. Doing so twice is no error."""
        if place.gone:
            return
        place.gone = True
        if not place.admitted:
            self._queue.remove(place)
            return
        self.active -= 1
        if place.slot is not None and self.slots is not None:
            self.slots.give_back(place.slot)
        if place.version is not None:
            self.sending[place.version] -= 1
            if not self.sending[place.version]:
                del self.sending[place.version]
        self.move_up()

    def set_limit(self, limit: int) -> None:
        """Let another limit hold from now on; downloads that go on are not touched."""
        self.limit = limit
        self.move_up()

    def _full(self) -> bool:
        return 0 < self.limit <= self.active

    def move_up(self) -> None:
        """Let those in the queue go on for whom there is a place. With shared places, to be called now and then."""
        while self._queue and self._admit(self._queue[0]):
            self._queue.popleft().wake()

    def _admit(self, place: Place) -> bool:
        """Let a download go on if there is a place; tell whether there was."""
        if self._full():
            return False
        if self.limit and self.slots is not None:
            place.slot = self.slots.take(self.limit)
            if place.slot is None:
                return False
        place.admitted = True
        self.active += 1
        if place.version is not None:
            self.sending[place.version] += 1
        if self._full():
            self.on_full()
        return True

    def span_bytes(self, largest: int) -> int:
        """Return how much each download should send at a time: up to `largest`, less where a rate is limited."""
        return min(largest, self.limits.span_bytes(self.active))

    def window_bytes(self) -> int:
        """Return how much the next read of each download may take."""
        return max(SMALLEST_WINDOW_BYTES, min(WINDOW_BYTES, READ_AHEAD_BYTES // max(1, self.active)))
