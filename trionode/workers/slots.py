"""Places that the processes of one machine share, each taken by one at a time, and free again when that one ends.

Place `n` is the lock on byte `n` of a file. That is exact where messages come late: 300 tablets that come within a
tenth of a second are still not more than `max_downloads`. A process must open the file once only: closing it anywhere
else would give all its locks up, as is the way of these locks.
"""

from __future__ import annotations

import fcntl
import os
from itertools import chain
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Slots:
    """The places of one file, as this process has them. Calls are a few microseconds; none waits."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mine: set[int] = set()
        self._chance = Random()  # noqa: S311 - spreads the search, guards nothing

    def take(self, limit: int) -> int | None:
        """Take one of the first `limit` places; None when all are taken, here and elsewhere."""
        start: int = self._chance.randrange(limit)
        for place in chain(range(start, limit), range(start)):
            if place not in self._mine and self._lock(place):
                self._mine.add(place)
                return place
        return None

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:  # EACCES or EAGAIN: another process has it
            return False
        return True

    def give_back(self, place: int) -> None:
        """Give a place back."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, place)
        self._mine.discard(place)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._fd)
