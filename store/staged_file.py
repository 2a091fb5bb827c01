"""A locked file in `incoming/`, which ends once: committed, kept or discarded. The base of fills and streams.

The descriptor stays open until `close`, after a commit too: it is then the package itself, and clients that follow the
fill read on from it. It also stays open after a failed commit, since clients may be reading just then.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from .background_hashing import BackgroundHasher
from .errors import StoreError
from .records import PackageCorrupt
from .zip_directory import PackageRejected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .contents import Contents
    from .manifest import Manifest

ENDED = "the fill has ended"

WRITEBACK_BYTES = 8 * 1024 * 1024
"""Writeback is started after this many bytes, so that the sync of a commit has at most these left to write."""


class FillBusy(StoreError):
    """A fill of this name is in progress, in this process or another: its lock is held."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is being filled already")
        self.name = name


class StagedFile:
    """What fills and streams have in common. Safe from any thread: ending waits for calls in progress."""

    def __init__(self, contents: Contents, fd: int, path: Path, reserved: int) -> None:
        self._contents = contents
        self._fs = contents.fs
        self._fd = fd
        self._path = path
        self._reserved = reserved
        self._hasher = BackgroundHasher(partial(self._fs.read_into, fd))
        self._unwritten = 0  # bytes written since writeback was last started
        self._calls = 0
        self._idle = threading.Condition()
        self._accepting = True  # neither committed nor ended
        self._closed = False
        # Followers may hold the number of the descriptor: it must not be closed, and reused, before the owner ends.
        self._close_fd = weakref.finalize(self, self._fs.close, fd)
        self._close_fd.atexit = False

    def fileno(self) -> int:
        """Return the open descriptor; do not seek it. Raises `ValueError` after `close` or `discard`."""
        if self._closed:
            raise ValueError(ENDED)
        return self._fd

    def discard(self) -> None:
        """Release the lock and remove the file; after a commit, only close the descriptor. *Writes*.

        Discarding or closing twice is no error.
        """
        try:
            if self._stop_accepting():
                self._drop()
        finally:
            self._shut()

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Keep the fill from ending during a call. Raises `ValueError` after its end."""
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

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """End the fill with a commit: drop the file if the package is bad, accept calls again after other errors."""
        if not self._stop_accepting():
            raise ValueError(ENDED)
        try:
            yield
        except (PackageCorrupt, PackageRejected):
            self._drop()
            raise
        except BaseException:
            with self._idle:
                self._accepting = True  # nothing was published: the caller may try again, close or discard
            raise

    def _publish(self, size: int, manifest: Manifest | None) -> Manifest:
        return self._contents.publish(self._fd, self._path, size, manifest, self._hasher.prefix, self._reserved)

    def _stop_accepting(self) -> bool:
        """Reject further calls and wait for those in progress; return whether this was the first time."""
        with self._idle:
            first = self._accepting
            self._accepting = False
            self._idle.wait_for(lambda: self._calls == 0)
            return first

    def _count_written(self, count: int) -> None:
        """Start writeback once WRITEBACK_BYTES were written."""
        self._unwritten += count  # not locked: a lost update only delays the writeback
        if self._unwritten >= WRITEBACK_BYTES:
            self._unwritten = 0
            self._hasher.run(partial(self._fs.start_writeback, self._fd))

    def _leave(self) -> None:
        """End the writing and leave the file as it is, to be resumed by a later process."""
        self._stop_accepting()
        self._shut()

    def _drop(self) -> None:
        """Remove the file and release the reservation; the descriptor stays open."""
        try:
            self._fs.unlink(self._path)
        finally:
            self._contents.quota.release(self._reserved)

    def _shut(self) -> None:
        self._closed = True
        self._hasher.close()
        self._close_fd()
