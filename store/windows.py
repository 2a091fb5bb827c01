"""Reading somebody else's file by pieces, in bounded memory. Opens nothing: callers pass a reader.

No mmap: a file of somebody else's that is cut short under us must raise, not kill the process with SIGBUS.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from .digest import Digest
from .errors import PackageChanged

ReadInto = Callable[[memoryview, int], int]
"""`read_into(view, offset)` fills `view` from `offset` on and returns how many bytes it got; 0 at the end."""

WINDOW_BYTES = 1024 * 1024
"""Read at a time. By 256 KiB costs a tenth more; by 4 MiB it has left the processor's own cache when it is hashed."""

MAX_VIEW_BYTES = 4 * 1024 * 1024
"""The most that can be looked at in one piece."""


def read_exactly(read_into: ReadInto, view: memoryview, offset: int) -> None:
    """Fill `view` from `offset` on. Raises `PackageChanged` when the file ends before that."""
    got = 0
    while got < len(view):
        count = read_into(view[got:], offset + got)
        if count <= 0:
            raise PackageChanged(f"it ends at {offset + got}, before byte {offset + len(view)}")
        got += count


class Window:
    """A view of a file of `size` bytes that moves along with what is asked for. For one thread.

    Small pieces that follow each other cost one read for many of them. The buffer grows to the longest piece.
    """

    def __init__(self, read_into: ReadInto, size: int) -> None:
        self._read_into = read_into
        self._size = size
        self._buffer = memoryview(bytearray(min(WINDOW_BYTES, size)))
        self._start = 0
        self._end = 0

    def view(self, offset: int, count: int) -> memoryview:
        """Look at `count` bytes, at most MAX_VIEW_BYTES, all before `size`. Valid until the next call.

        Raises `PackageChanged` when the file ends before that.
        """
        if offset < self._start or offset + count > self._end:
            self._load(offset, count)
        at = offset - self._start
        return self._buffer[at : at + count]

    def digest(self, offset: int, count: int) -> Digest:
        """Return the digest of any number of bytes. Raises `PackageChanged` as `view` does."""
        hasher = blake3()
        self.hash_into(hasher, offset, count)
        return Digest(hasher.hexdigest())

    def hash_into(self, hasher: blake3, offset: int, count: int) -> None:
        """Add any number of bytes to a hasher. Raises `PackageChanged` as `view` does."""
        end = offset + count
        while offset < end:
            # What is at hand first, so that a piece that goes on beyond the window is not read twice.
            here = self._end - offset if self._start <= offset < self._end else WINDOW_BYTES
            step = min(here, end - offset)
            hasher.update(self.view(offset, step))
            offset += step

    def _load(self, offset: int, count: int) -> None:
        if not 0 <= offset <= offset + count <= self._size or count > MAX_VIEW_BYTES:
            raise ValueError(f"there are no {count} bytes to look at from {offset} on")
        kept = self._end - offset if self._start <= offset < self._end else 0
        left = self._buffer[offset - self._start :][:kept]
        if count > len(self._buffer):
            self._buffer = memoryview(bytearray(count))
        self._buffer[:kept] = left  # moving costs a third of reading again; they may overlap
        length = min(len(self._buffer), self._size - offset)
        self._start, self._end = offset, offset + kept
        while self._end < offset + length:
            got = self._read_into(self._buffer[self._end - offset : length], self._end)
            if got <= 0:
                break  # what comes before the end can still be looked at
            self._end += got
        if self._end < offset + count:
            raise PackageChanged(f"it ends at {self._end}, before byte {offset + count}")


def hash_bytes(read_into: ReadInto, size: int) -> Digest:
    """Return the digest of `size` bytes of a reader. Raises `PackageChanged` when they end early."""
    return Window(read_into, size).digest(0, size)
