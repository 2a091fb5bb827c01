"""Read a file piece by piece in bounded memory. Opens nothing: the caller passes a read function.

No mmap: if another process truncates the file, reading must raise an error and not kill this process with SIGBUS.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from .digest import Digest
from .errors import StoreError

ReadInto = Callable[[memoryview, int], int]
"""`read_into(view, offset)` reads from `offset` into `view` and returns the number of bytes read; 0 at the end."""

BUFFER_BYTES = 1024 * 1024
"""Bytes per read. 256 KiB is a tenth slower; 4 MiB no longer fit the processor's cache when they are hashed."""

MAX_VIEW_BYTES = 4 * 1024 * 1024
"""The longest view, which is the longest chunk that a package is cut into."""


class PackageChanged(StoreError):
    """A file was truncated or written to while it was read, so the result would not describe its bytes."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the package changed while it was read: {reason}")
        self.reason = reason


def read_exactly(read_into: ReadInto, view: memoryview, offset: int) -> None:
    """Fill `view` with the bytes at `offset`. Raises `PackageChanged` when the file ends before that."""
    got = 0
    while got < len(view):
        count = read_into(view[got:], offset + got)
        if count <= 0:
            raise PackageChanged(f"it ends at {offset + got}, before byte {offset + len(view)}")
        got += count


class BufferedReader:
    """A buffer over a file of `size` bytes, which moves to what is read. Use it from one thread.

    Small pieces that follow each other share one read. The buffer grows to the longest piece.
    """

    def __init__(self, read_into: ReadInto, size: int) -> None:
        self._read_into = read_into
        self._size = size
        self._buffer = memoryview(bytearray(min(BUFFER_BYTES, size)))
        self._start = 0
        self._end = 0

    def view(self, offset: int, count: int) -> memoryview:
        """Return `count` bytes, at most MAX_VIEW_BYTES and all before `size`. Valid until the next call.

        Raises `PackageChanged` when the file ends before that, `ValueError` for a range that is not allowed.
        """
        if offset < self._start or offset + count > self._end:
            self._load(offset, count)
        at = offset - self._start
        return self._buffer[at : at + count]

    def digest(self, offset: int, count: int) -> Digest:
        """Return the digest of any number of bytes. Errors as `view`."""
        hasher = blake3()
        end = offset + count
        while offset < end:
            # Use up the buffered bytes first, so that a piece that extends beyond the buffer is not read twice.
            buffered = self._end - offset if self._start <= offset < self._end else BUFFER_BYTES
            step = min(buffered, end - offset)
            hasher.update(self.view(offset, step))
            offset += step
        return Digest(hasher.hexdigest())

    def _load(self, offset: int, count: int) -> None:
        if not 0 <= offset <= offset + count <= self._size or count > MAX_VIEW_BYTES:
            raise ValueError(f"cannot view {count} bytes at {offset} of {self._size}")
        kept = self._end - offset if self._start <= offset < self._end else 0
        left = self._buffer[offset - self._start :][:kept]
        if count > len(self._buffer):
            self._buffer = memoryview(bytearray(count))
        self._buffer[:kept] = left  # moving costs a third of reading again; the two ranges may overlap
        length = min(len(self._buffer), self._size - offset)
        self._start, self._end = offset, offset + kept
        while self._end < offset + length:
            got = self._read_into(self._buffer[self._end - offset : length], self._end)
            if got <= 0:
                break  # the bytes before the end can still be viewed
            self._end += got
        if self._end < offset + count:
            raise PackageChanged(f"it ends at {self._end}, before byte {offset + count}")


def hash_bytes(read_into: ReadInto, size: int) -> Digest:
    """Return the digest of the first `size` bytes. Raises `PackageChanged` when the file ends before that."""
    return BufferedReader(read_into, size).digest(0, size)
