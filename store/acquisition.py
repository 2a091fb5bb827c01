"""What every acquisition on disk is: a locked file in `incoming/`, and an end that happens once.

The descriptor outlives a commit, until `close`: it is then the package itself, under its lasting name, and those who
follow the fill read on from it. It also outlives a commit that fails, since they may be reading just then.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .behind import Behind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .behind import WholeHash
    from .digest import Digest
    from .filesystem import FileSystem, Room
    from .interface import ChunkLocation, Lease
    from .manifest import Manifest

ENDED = "the fill has ended"

WRITE_OUT_BYTES = 8 * 1024 * 1024
"""How often the system is asked to begin writing out: the last of this is what a commit has to wait for."""


class Host(Protocol):
    """What a fill asks of its store. Safe from any thread."""

    @property
    def fs(self) -> FileSystem:
        """The seam to the file system."""
        ...

    def room(self) -> Room:
        """Return what the file system has left."""
        ...

    def reserve(self, size: int, held: int, *, ahead: bool = False) -> None:
        """Count bytes as being filled; `ahead`: nothing is to be given up for them. Raises `NoSpace`, `NeverFits`."""
        ...

    def release(self, size: int) -> None:
        """Take a reservation back."""
        ...

    def park(self, manifest: Manifest) -> bool:
        """Keep an abandoned fill's reservation until it is resumed or its space is needed.

        False: it is of no use, since the version was committed meanwhile.
        """
        ...

    def publish(
        self, fd: int, source: Path, size: int, manifest: Manifest | None, whole: WholeHash, reserved: int
    ) -> Manifest:
        """Verify a file and make it a package. Raises `PackageCorrupt`, or `PackageRejected` without a manifest."""
        ...

    def find(self, digest: Digest) -> ChunkLocation | None:
        """Return where a chunk lies."""
        ...

    def open_package(self, digest: Digest) -> Lease:
        """Hold a package open without counting it as used. Raises `VersionMissing`."""
        ...


class Acquisition:
    """What fills and streams share: a locked file, and an end that waits for the calls that are going on."""

    def __init__(self, host: Host, fd: int, path: Path, reserved: int) -> None:
        self._host = host
        self._fs = host.fs
        self._fd = fd
        self._path = path
        self._reserved = reserved
        self._behind = Behind(partial(self._fs.read_into, fd))
        self._unsent = 0  # bytes written since the system was last asked to begin writing them out
        self._calls = 0
        self._idle = threading.Condition()
        self._accepting = True  # takes bytes: neither committed nor ended
        self._closed = False
        # A follower may hold the descriptor's number: it must not be closed, and reused, before our owner says so.
        self._close_fd = weakref.finalize(self, self._fs.close, fd)
        self._close_fd.atexit = False

    def fileno(self) -> int:
        """Return the open descriptor; valid until `close` or `discard`."""
        if self._closed:
            raise ValueError(ENDED)
        return self._fd

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Hold off the end while a call is going on. Raises `ValueError` after it."""
        with self._idle:
            if not self._accepting:
                raise ValueError(ENDED)
            self._calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def _stop_accepting(self) -> bool:
        """Let no new call in and wait for those inside; return whether this was the first to do so."""
        with self._idle:
            first = self._accepting
            self._accepting = False
            self._idle.wait_for(lambda: self._calls == 0)
            return first

    def _accept_again(self) -> None:
        with self._idle:
            self._accepting = True

    def _wrote(self, count: int) -> None:
        """Let the disk begin with what was written: less is left to wait for when the whole is synced."""
        self._unsent += count  # a count lost between two threads makes a hint late, and nothing else
        if self._unsent >= WRITE_OUT_BYTES:
            self._unsent = 0
            self._behind.call(partial(self._fs.begin_writing_out, self._fd))

    def _shut(self) -> None:
        self._closed = True
        self._behind.close()
        self._close_fd()

    def _drop(self) -> None:
        """Remove the file and take the reservation back; the descriptor stays."""
        try:
            self._fs.unlink(self._path)
        finally:
            self._host.release(self._reserved)

    def discard(self) -> None:
        """Give the lock up and remove the file; after a commit, as `close`."""
        try:
            if self._stop_accepting():
                self._drop()
        finally:
            self._shut()
