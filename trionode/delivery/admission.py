"""How many downloads go on, and whether one more may: a plain object with one owner. Imports nothing that does I/O."""

from __future__ import annotations

from collections import Counter

from ..errors import AtCapacity

WINDOW_BYTES = 1 << 20
"""What one read of a package takes: at 1 MiB the cost of a read is lost in that of its bytes."""

SMALLEST_WINDOW_BYTES = 64 << 10
"""Below this the cost of each read and write shows."""

READ_AHEAD_BYTES = 16 << 20
"""What all downloads together may hold in memory as windows, so that 500 of them cost little more than 10."""


class Downloads:
    """Counts of what is being sent. `limit` is `max_downloads`; 0 means none."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.active = 0
        self.sending: Counter[str] = Counter()
        """How many downloads of each version go on; those of a fill whose version nobody knows yet are not in it."""
        self.finished = 0
        self.broken_off = 0
        self.bytes_sent = 0

    def enter(self, version: str | None = None) -> None:
        """Count one more download, of `version` if that is known.

        Raises `AtCapacity` (and counts nothing) when the limit is reached.
        """
        if self.limit and self.active >= self.limit:
            raise AtCapacity(self.limit)
        self.active += 1
        if version is not None:
            self.sending[version] += 1

    def leave(self, version: str | None = None, *, whole: bool) -> None:
        """Count a download as over, `whole` or broken off. `version` is what was said to `enter`."""
        assert self.active > 0, "a download that was not counted cannot end"
        self.active -= 1
        if version is not None:
            self.sending[version] -= 1
            if not self.sending[version]:
                del self.sending[version]
        if whole:
            self.finished += 1
        else:
            self.broken_off += 1

    def window_bytes(self) -> int:
        """Return how much the next read of each download may take."""
        return max(SMALLEST_WINDOW_BYTES, min(WINDOW_BYTES, READ_AHEAD_BYTES // max(1, self.active)))
