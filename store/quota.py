"""Account for the bytes of packages and fills, against the limits and the free disk space.

Pure: the disk is reached through functions that the owner passes.
"""

from __future__ import annotations

import errno
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import StoreError
from .records import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .digest import Digest
    from .filesystem import DiskSpace

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoSpace(StoreError):
    """The bytes do not fit now, but would after an eviction or the end of a fill. Nothing was written."""

    def __init__(self, needed: int, available: int) -> None:
        lacking = f"{needed} bytes are needed and {available} are available"
        # A write that failed is small, or exceeds the quota of a user on a disk that has room.
        super().__init__(lacking if needed > available else "the disk, or a quota on it, is full")
        self.needed = needed
        self.available = available


class NeverFits(NoSpace):
    """The bytes would not fit in an empty store either, so evicting is of no use."""


class Ledger:
    """How many bytes are committed and reserved, against the limits. Not locked: its owner locks it.

    `limit` (`max_bytes`, 0 for none) bounds both together; `keep_free` (`min_free_bytes`) is left free on the disk.
    """

    def __init__(self, limit: int, keep_free: int) -> None:
        self.limit = limit
        self.keep_free = keep_free
        self.stored = 0
        self.filling = 0

    def reserve(self, size: int, free: int, total: int, held: int = 0) -> None:
        """Reserve `size` bytes for a fill, on a file system with `free` of `total` bytes free.

        `held` are the bytes that the same fill has already reserved. Raises `NeverFits` if the fill would not fit in
        an empty store, `NoSpace` if it does not fit now; nothing is then reserved.
        """
        most = max(0, total - self.keep_free)
        if self.limit:
            most = min(most, self.limit)
        if held + size > most:
            raise NeverFits(held + size, most)
        available = max(0, free - self.keep_free)
        if self.limit:
            available = min(available, max(0, self.limit - self.stored - self.filling))
        if size > available:
            raise NoSpace(size, available)
        self.filling += size

    def release(self, size: int) -> None:
        """Release a reservation."""
        self.filling -= size

    def store(self, size: int) -> None:
        """Count a committed package."""
        self.stored += size

    def forget(self, size: int) -> None:
        """Count a committed package as removed."""
        self.stored -= size


class Quota:
    """The ledger of one store, with its lock. Every method is safe from any thread.

    A *parked* fill is one that was abandoned and can be resumed: its file and its reservation are kept until their
    space is needed. `disk_space` returns the space of the file system; `remove_parked` removes the file of a parked
    fill, unless it is being resumed, and returns whether it is removed.
    """

    def __init__(
        self,
        max_bytes: int,
        min_free_bytes: int,
        disk_space: Callable[[], DiskSpace],
        remove_parked: Callable[[Digest], bool],
    ) -> None:
        self._disk_space = disk_space
        self._remove_parked = remove_parked
        self._lock = threading.Lock()
        self._ledger = Ledger(max_bytes, min_free_bytes)
        self._parked: dict[Digest, int] = {}  # the oldest first

    def set_limits(self, max_bytes: int, min_free_bytes: int) -> None:
        """Change the limits. What is stored or reserved is kept, even if it exceeds them."""
        with self._lock:
            self._ledger.limit = max_bytes
            self._ledger.keep_free = min_free_bytes

    def reserve(self, size: int, held: int = 0, has: int = 0, *, ahead: bool = False) -> None:
        """Reserve bytes for a fill, giving up parked fills for them, the oldest first, unless `ahead`.

        `held` are the bytes that the fill has already reserved, `has` the unreserved bytes that its file takes up on
        the disk. Raises `NoSpace`, `NeverFits`.
        """
        with self._lock:
            oldest = [] if ahead else list(self._parked)
        while True:
            space = self._disk_space()
            with self._lock:
                try:
                    self._ledger.reserve(size, space.free + has, space.total, held)
                except NeverFits:
                    raise
                except NoSpace:
                    if not oldest:
                        raise
                else:
                    return
            self.give_up(oldest.pop(0))

    def release(self, size: int) -> None:
        """Release a reservation."""
        with self._lock:
            self._ledger.release(size)

    def park(self, digest: Digest, size: int) -> None:
        """Keep the reservation of a fill that was abandoned."""
        with self._lock:
            self._parked[digest] = size

    def resume(self, digest: Digest, size: int, has: int) -> None:
        """Reserve bytes for a fill, in place of its parked reservation if there is one.

        `has` are the bytes of its file. Raises `NoSpace`, `NeverFits`; the fill then stays parked.
        """
        parked = self._unpark(digest)
        try:
            self.reserve(size, has=has)
        except NoSpace:
            if parked and has:
                with self._lock:
                    self._parked[digest] = parked
                    self._ledger.filling += parked
            raise

    def parked(self) -> dict[Digest, int]:
        """Return the sizes of the parked fills, the oldest first."""
        with self._lock:
            return dict(self._parked)

    def give_up(self, digest: Digest) -> None:
        """Remove a parked fill, unless it is being resumed. A fill that is not parked is no error."""
        if digest in self._parked and self._remove_parked(digest):
            self._unpark(digest)

    def replace_parked(self, parked: Mapping[Digest, int]) -> None:
        """Replace all parked fills by those that were found on the disk, given by their sizes."""
        with self._lock:
            self._ledger.release(sum(self._parked.values()))
            self._parked = dict(parked)
            self._ledger.filling += sum(self._parked.values())

    def store(self, size: int) -> None:
        """Count a committed package."""
        with self._lock:
            self._ledger.store(size)

    def forget(self, size: int) -> None:
        """Count a committed package as removed."""
        with self._lock:
            self._ledger.forget(size)

    def usage(self, draining: int) -> Usage:
        """Return the space that is used and free, `draining` included."""
        space = self._disk_space()
        with self._lock:
            return Usage(
                self._ledger.stored, self._ledger.filling, space.free, space.total, self._ledger.limit, draining
            )

    @contextmanager
    def full_disk_as_no_space(self, needed: int) -> Iterator[None]:
        """Raise `NoSpace` in place of the system's error for a full disk or an exceeded quota."""
        try:
            yield
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise NoSpace(needed, self._disk_space().free) from error
            raise

    def _unpark(self, digest: Digest) -> int:
        with self._lock:
            size = self._parked.pop(digest, 0)
            self._ledger.release(size)
            return size
