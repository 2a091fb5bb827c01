"""Space on a disk: the ledger with a lock around it, and abandoned fills, whose space is given up when it is needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .errors import NeverFits, NoSpace
from .interface import Usage
from .recovery import remove_unlocked
from .space import Ledger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .digest import Digest
    from .filesystem import FileSystem, Room
    from .layout import Layout


class Accounts:
    """What is stored, being filled, and parked. Every method is safe from any thread."""

    def __init__(self, fs: FileSystem, layout: Layout, max_bytes: int, min_free_bytes: int) -> None:
        self._fs = fs
        self._layout = layout
        self._lock = threading.Lock()
        self._ledger = Ledger(max_bytes, min_free_bytes)
        self._parked: dict[Digest, int] = {}  # the oldest first

    def set_limits(self, max_bytes: int, min_free_bytes: int) -> None:
        """Put other limits in place; what is stored or reserved already stays so."""
        with self._lock:
            self._ledger.limit = max_bytes
            self._ledger.keep_free = min_free_bytes

    def room(self) -> Room:
        """Return what the file system has left."""
        return self._fs.room(self._layout.root)

    def reserve(self, size: int, held: int, has: int = 0, *, ahead: bool = False) -> None:
        """Count bytes as being filled, giving up parked fills for them, the oldest first; not for those asked `ahead`.

        `held` is what the same acquisition reserved before, `has` what its file already takes up uncounted.
        Raises `NoSpace`, `NeverFits`.
        """
        with self._lock:
            oldest = [] if ahead else list(self._parked)
        while True:
            room = self.room()
            with self._lock:
                try:
                    self._ledger.reserve(size, room.free + has, room.total, held)
                except NeverFits:
                    raise
                except NoSpace:
                    if not oldest:
                        raise
                else:
                    return
            self.give_up(oldest.pop(0))

    def give_up(self, digest: Digest) -> None:
        """Remove a parked fill, unless somebody is just resuming it. One that is not parked is no error."""
        if digest not in self._parked:
            return
        if remove_unlocked(self._fs, self._layout.part(digest)):
            self._fs.unlink(self._layout.map(digest))
            self.unpark(digest)

    def release(self, size: int) -> None:
        """Take a reservation back."""
        with self._lock:
            self._ledger.release(size)

    def park(self, digest: Digest, size: int) -> None:
        """Keep an abandoned fill's reservation, already counted, until it is resumed or its space is needed."""
        with self._lock:
            self._parked[digest] = size

    def park_again(self, digest: Digest, size: int) -> None:
        """Undo an `unpark`."""
        with self._lock:
            self._parked[digest] = size
            self._ledger.filling += size

    def unpark(self, digest: Digest) -> int:
        """Take the reservation of a parked fill back; return it, 0 when there is none."""
        with self._lock:
            size = self._parked.pop(digest, 0)
            self._ledger.release(size)
            return size

    def parked_anew(self, parked: Mapping[Digest, int]) -> None:
        """Replace all that is parked by what was found on the disk."""
        with self._lock:
            self._ledger.release(sum(self._parked.values()))
            self._parked = dict(parked)
            self._ledger.filling += sum(self._parked.values())

    def store(self, size: int) -> None:
        """Count a package as committed."""
        with self._lock:
            self._ledger.store(size)

    def forget(self, size: int) -> None:
        """Count a committed package as gone."""
        with self._lock:
            self._ledger.forget(size)

    def usage(self) -> Usage:
        """Return how much space is used and left."""
        room = self.room()
        with self._lock:
            return Usage(self._ledger.stored, self._ledger.filling, room.free, self._ledger.limit)
