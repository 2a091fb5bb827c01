"""The committed packages in memory: their leases, and what this process knows about the health of their bytes."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from .records import Version, VersionMissing, age_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from .digest import Digest
    from .filesystem import FileState, FileSystem
    from .layout import Layout
    from .manifest import Chunk, Literal

IDLE_DESCRIPTORS = 64
"""Packages without a lease whose descriptor is kept open, so that the next download need not open the file."""

TOUCH_SECONDS = 60.0
"""How often the last use of a version is written to the disk: eviction does not need it to the second."""


class Entry:
    """A committed package. Changed only under the lock of its table."""

    __slots__ = (
        "bad",
        "checked_at",
        "digest",
        "draining",
        "fd",
        "last_used",
        "leases",
        "removed",
        "size",
        "touched",
        "users",
        "verified",
    )

    def __init__(self, digest: Digest, size: int, last_used: float, verified: FileState | None = None) -> None:
        self.digest = digest
        self.size = size
        self.last_used = last_used
        self.touched = last_used
        self.verified = verified  # the state of the file when this process last verified it, or None
        self.checked_at = 0.0 if verified is None else time.time()
        self.bad: set[Chunk | Literal] = set()  # pieces known to be bad
        self.fd = -1
        self.leases = 0
        self.users = 0  # leases other than for maintenance
        self.removed = False
        self.draining = False  # removed while there are leases


class Lease:
    """A committed package held open. If the version is removed, its bytes stay readable until the lease is closed.

    A context manager that closes.
    """

    __slots__ = ("_entry", "_open", "_table", "_use")

    def __init__(self, table: PackageTable, entry: Entry, *, use: bool) -> None:
        self._table = table
        self._entry = entry
        self._use = use
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
        """Whether this process has verified the file, and it has not changed since (inode, size, mtime and ctime)."""
        return unchanged(self._entry.verified, self._table.fs.fstat(self.fileno()))

    def fileno(self) -> int:
        """Return the open descriptor, which all leases of this version share: do not seek it.

        Raises `ValueError` after `close`.
        """
        if not self._open:
            raise ValueError("the lease is closed")
        return self._entry.fd

    def close(self) -> None:
        """Give the lease back. Closing twice is no error."""
        self._table.give_back(self)

    def end(self) -> Entry | None:
        """Close the lease, and return its entry the first time, then None. For the table, under its lock."""
        if not self._open:
            return None
        self._open = False
        self._entry.leases -= 1
        self._entry.users -= self._use
        return self._entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def unchanged(then: FileState | None, now: FileState) -> bool:
    """Return whether a file has not been written to: same inode, size, mtime and ctime.

    Unlinking a file changes its ctime but not its bytes, so the ctime of an unlinked file is not compared: a version
    that is removed while it is sent stays trusted.
    """
    return then == now or (
        then is not None
        and (then.inode, then.size, then.mtime_ns) == (now.inode, now.size, now.mtime_ns)
        and (then.ctime_ns == now.ctime_ns or now.links == 0)
    )


class PackageTable:
    """All committed packages by digest. Every method is short, and safe from any thread."""

    def __init__(self, fs: FileSystem, layout: Layout) -> None:
        self.fs = fs
        self._layout = layout
        self._lock = threading.Lock()
        self._entries: dict[Digest, Entry] = {}
        self._idle: dict[Digest, Entry] = {}  # open without a lease, the longest idle first
        self._draining = 0

    @property
    def draining(self) -> int:
        """Bytes of removed packages that still have leases."""
        return self._draining

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._entries

    def digests(self) -> list[Digest]:
        """Return the digests of all packages."""
        with self._lock:
            return list(self._entries)

    def versions(self) -> list[Version]:
        """Return all packages as records."""
        with self._lock:
            return [Version(e.digest, e.size, e.last_used, e.users > 0) for e in self._entries.values()]

    def put(self, entry: Entry) -> bool:
        """Add a package and return True; if it is in the table already, leave that entry alone and return False."""
        with self._lock:
            if entry.digest in self._entries:
                return False
            self._entries[entry.digest] = entry
            return True

    def pop(self, digest: Digest) -> Entry | None:
        """Remove a package and return its entry, if any. Its leases stay readable; the last closes the descriptor."""
        with self._lock:
            entry = self._entries.pop(digest, None)
            if entry is not None:
                self._retire(entry)
                if entry.leases > 0:
                    entry.draining = True
                    self._draining += entry.size
            return entry

    def lease(self, digest: Digest, *, use: bool) -> Lease:
        """Hold a package open; with `use`, count it as used until the end. Raises `VersionMissing`."""
        now = time.time()
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                raise VersionMissing(digest)
            if entry.fd < 0:
                try:
                    entry.fd = self.fs.open(self._layout.package(digest))
                except FileNotFoundError:  # removed by another process, or by hand
                    raise VersionMissing(digest) from None
            self._idle.pop(digest, None)
            entry.leases += 1
            entry.users += use
            touch = use and age_of(entry.touched, now) >= TOUCH_SECONDS
            if use:
                entry.last_used = now
            if touch:
                entry.touched = now
        if touch:
            with suppress(FileNotFoundError):  # the version was just removed
                self.fs.touch(self._layout.manifest(digest), now)
        return Lease(self, entry, use=use)

    def give_back(self, lease: Lease) -> None:
        """Take a lease back. The descriptor stays open until IDLE_DESCRIPTORS others became idle later."""
        with self._lock:
            entry = lease.end()
            if entry is None:
                return
            if entry.leases == 0:
                if entry.removed:
                    self._close_fd(entry)
                    if entry.draining:
                        self._draining -= entry.size
                else:
                    self._idle[entry.digest] = entry
                    if len(self._idle) > IDLE_DESCRIPTORS:
                        self._close_fd(self._idle.pop(next(iter(self._idle))))

    # -- health -----------------------------------------------------------------------------------------------

    def checked_at(self, digest: Digest) -> float:
        """Return when a package was last verified, in Unix seconds; 0.0 for never."""
        entry = self._entries.get(digest)
        return 0.0 if entry is None else entry.checked_at

    def mark_good(self, digest: Digest, state: FileState) -> None:
        """Trust a package: all its bytes were verified while its file was in `state`."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is not None:
                entry.verified = state
                entry.checked_at = time.time()
                entry.bad.clear()

    def mark_bad(self, digest: Digest, pieces: Iterable[Chunk | Literal]) -> None:
        """Stop trusting a package, and remember its bad pieces."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is not None:
                entry.verified = None
                entry.bad.update(pieces)

    def mark_repaired(self, digest: Digest, piece: Chunk | Literal) -> bool:
        """Forget a bad piece; return whether no other piece is known to be bad."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return True
            entry.bad.discard(piece)
            return not entry.bad

    def bad_pieces(self, digest: Digest) -> list[Chunk | Literal]:
        """Return the pieces known to be bad, in package order."""
        with self._lock:
            entry = self._entries.get(digest)
            return [] if entry is None else sorted(entry.bad, key=lambda piece: piece.offset)

    def close(self) -> None:
        """Close every descriptor without a lease; leases close the others."""
        with self._lock:
            for entry in self._entries.values():
                self._retire(entry)
            self._entries.clear()

    def _retire(self, entry: Entry) -> None:
        entry.removed = True
        if entry.leases == 0 and entry.fd >= 0:
            self._close_fd(entry)
        self._idle.pop(entry.digest, None)

    def _close_fd(self, entry: Entry) -> None:
        self.fs.close(entry.fd)
        entry.fd = -1
