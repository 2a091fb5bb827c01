"""Store a package whose size and digest are not known in advance, as it is streamed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .files import create_locked
from .quota import NoSpace
from .staged_file import FillBusy, StagedFile

if TYPE_CHECKING:
    from pathlib import Path

    from .contents import Contents
    from .manifest import Manifest

GROW_BYTES = 8 * 1024 * 1024
"""A stream reserves this much at a time, so that the free disk space is not queried for each append."""


class StreamFill(StagedFile):
    """A package being streamed, of which nothing is known in advance. Holds the lock of its name until it ends.

    It ends with `commit` or `discard`, and cannot be resumed. After a commit, whether the package is accepted or
    rejected, the descriptor is valid until `close`. Later calls raise `ValueError`.
    """

    def __init__(self, contents: Contents, fd: int, path: Path) -> None:
        super().__init__(contents, fd, path, 0)
        self._size = 0
        self._append_lock = threading.Lock()

    @classmethod
    def begin(cls, contents: Contents, name: str) -> StreamFill:
        """Lock the name and return the stream; see `Store.begin_stream`."""
        contents.quota.reserve(1)  # raises `NoSpace` if not a single byte would fit
        contents.quota.release(1)
        path = contents.layout.stream(name)
        fd = create_locked(contents.fs, path)  # a killed process may have left bytes in it: `commit` cuts them off
        if fd is None:
            raise FillBusy(name)
        return cls(contents, fd, path)

    @property
    def size(self) -> int:
        """Bytes appended so far; all of them are in the file."""
        return self._size

    @property
    def filled(self) -> int:
        """Bytes appended so far, as `size`."""
        return self._size

    def covered(self, offset: int) -> int:
        """Return how many bytes from `offset` on are in the file."""
        return max(0, self._size - offset)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. Raises `NoSpace`, `NeverFits`, `OSError`; `size` is then as it was before. *Writes*."""
        with self._call(), self._append_lock:
            view = memoryview(data)
            self._reserve(self._size + view.nbytes)
            with self._contents.quota.full_disk_as_no_space(view.nbytes):
                self._fs.write_at(self._fd, view, self._size)
            self._size += view.nbytes
            self._count_written(view.nbytes)
            self._hasher.hash_up_to(self._size)

    def commit(self) -> Manifest:
        """Read the whole zip, split it, and publish it durably; return its manifest. *Writes*.

        If the version is stored already, the file is removed and the manifest returned. Raises `PackageRejected` (the
        file is then removed). After any other error the stream is as it was before.
        """
        with self._committing():
            self._fs.truncate(self._fd, self._size)  # a failed append may have left bytes
            return self._publish(self._size, None)

    def close(self) -> None:
        """Close the descriptor. Before a commit, the same as `discard`."""
        self.discard()

    def _reserve(self, size: int) -> None:
        """Reserve up to `size` bytes, and ahead of need if that fits."""
        if size <= self._reserved:
            return
        needed = size - self._reserved
        for step in (max(needed, GROW_BYTES), needed):
            try:
                self._contents.quota.reserve(step, self._reserved, ahead=step > needed)
            except NoSpace:
                if step == needed:
                    raise
            else:
                self._reserved += step
                return
