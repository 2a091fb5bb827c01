"""Committed packages held open: one descriptor for all that read a version, and what is known of its bytes."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from .errors import VersionMissing
from .interface import Version

if TYPE_CHECKING:
    from types import TracebackType

    from .digest import Digest
    from .filesystem import FileSystem, Seen
    from .layout import Layout

IDLE_DESCRIPTORS = 64
"""Packages kept open that nobody reads, so that the next download need not open one."""

TOUCH_SECONDS = 60.0
"""How often a version's last use is written to the disk: eviction need not know it to the second."""


class Entry:
    """What a store knows of one committed package. Changed only under its shelf's lock."""

    __slots__ = ("digest", "draining", "fd", "gone", "last_used", "leases", "size", "touched", "verified")

    def __init__(self, digest: Digest, size: int, last_used: float, verified: Seen | None = None) -> None:
        self.digest = digest
        self.size = size
        self.last_used = last_used
        self.touched = last_used
        self.verified = verified  # the file's state when this process last found its bytes right
        self.fd = -1
        self.leases = 0
        self.gone = False
        self.draining = False  # removed, and still being read


class DiskLease:
    """A lease; see `interface.Lease`."""

    __slots__ = ("_entry", "_open", "_shelf")

    def __init__(self, shelf: Shelf, entry: Entry) -> None:
        self._shelf = shelf
        self._entry = entry
        self._open = True

    @property
    def digest(self) -> Digest:
        """The version that is held."""
        return self._entry.digest

    @property
    def size(self) -> int:
        """Bytes in the package."""
        return self._entry.size

    @property
    def trusted(self) -> bool:
        """Whether the bytes are those this process last verified."""
        return unchanged(self._entry.verified, self._shelf.fs.look_at(self.fileno()))

    def fileno(self) -> int:
        """Return the descriptor all leases of this version share."""
        if not self._open:
            raise ValueError("the lease was given back")
        return self._entry.fd

    def close(self) -> None:
        """Give the lease back."""
        self._shelf.give_back(self)

    def end(self) -> Entry | None:
        """Mark as given back; return the entry the first time. For the shelf, under its lock."""
        if not self._open:
            return None
        self._open = False
        return self._entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def unchanged(then: Seen | None, now: Seen) -> bool:
    """Tell whether a file is still as it was seen: same inode, size, times.

    Unlinking a file changes its ctime and nothing of its bytes, so that of a file without a name is not compared:
    what is being sent while its version is evicted stays trusted.
    """
    return then == now or (
        then is not None
        and (then.inode, then.size, then.mtime_ns) == (now.inode, now.size, now.mtime_ns)
        and (then.ctime_ns == now.ctime_ns or now.links == 0)
    )


class Shelf:
    """All committed packages by digest. Every method is short, and safe from any thread."""

    def __init__(self, fs: FileSystem, layout: Layout) -> None:
        self.fs = fs
        self._layout = layout
        self._lock = threading.Lock()
        self._entries: dict[Digest, Entry] = {}
        self._idle: dict[Digest, Entry] = {}  # open and unread, the longest so first
        self._draining = 0

    @property
    def draining(self) -> int:
        """Bytes of packages that were taken off the shelf and are still being read."""
        return self._draining

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._entries

    def digests(self) -> list[Digest]:
        """Return all digests."""
        with self._lock:
            return list(self._entries)

    def versions(self) -> list[Version]:
        """Return all versions."""
        with self._lock:
            return [Version(e.digest, e.size, e.last_used) for e in self._entries.values()]

    def put(self, entry: Entry) -> bool:
        """Add a package; one that is here already stays as it is. Return whether it was added."""
        with self._lock:
            if entry.digest in self._entries:
                return False
            self._entries[entry.digest] = entry
            return True

    def pop(self, digest: Digest) -> Entry | None:
        """Take a package off the shelf. Leases on it stay readable; the last one closes the descriptor."""
        with self._lock:
            entry = self._entries.pop(digest, None)
            if entry is not None:
                self._retire(entry)
                if entry.leases > 0:
                    entry.draining = True
                    self._draining += entry.size
            return entry

    def lease(self, digest: Digest, *, use: bool = True) -> DiskLease:
        """Hold a package open; with `use`, count it as used now. Raises `VersionMissing`."""
        now = time.time()
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                raise VersionMissing(digest)
            if entry.fd < 0:
                try:
                    entry.fd = self.fs.open(self._layout.package(digest))
                except FileNotFoundError:  # another process removed it, or somebody by hand
                    raise VersionMissing(digest) from None
            self._idle.pop(digest, None)
            entry.leases += 1
            touch = use and now - entry.touched >= TOUCH_SECONDS
            if use:
                entry.last_used = now
            if touch:
                entry.touched = now
        if touch:
            with suppress(FileNotFoundError):  # being removed just now: then its last use is of no interest
                self.fs.touch(self._layout.manifest(digest), now)
        return DiskLease(self, entry)

    def give_back(self, lease: DiskLease) -> None:
        """Take a lease back; closing the descriptor waits until enough others are idle."""
        with self._lock:
            entry = lease.end()
            if entry is None:
                return
            entry.leases -= 1
            if entry.leases == 0:
                if entry.gone:
                    self._shut(entry)
                    if entry.draining:
                        self._draining -= entry.size
                else:
                    self._idle[entry.digest] = entry
                    if len(self._idle) > IDLE_DESCRIPTORS:
                        self._shut(self._idle.pop(next(iter(self._idle))))

    def verified(self, digest: Digest, state: Seen | None) -> None:
        """Remember the state a package's file was in when its bytes were found right; None: they are not."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is not None:
                entry.verified = state

    def close(self) -> None:
        """Close what nobody reads, and let leases close the rest."""
        with self._lock:
            for entry in self._entries.values():
                self._retire(entry)
            self._entries.clear()

    def _retire(self, entry: Entry) -> None:
        entry.gone = True
        if entry.leases == 0 and entry.fd >= 0:
            self._shut(entry)
        self._idle.pop(entry.digest, None)

    def _shut(self, entry: Entry) -> None:
        self.fs.close(entry.fd)
        entry.fd = -1
