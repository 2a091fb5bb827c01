"""One pass over a file in bounded memory, hashed as a whole beside whatever else is done with its bytes.

No mmap: a file of somebody else's that is cut short under us must raise, not kill the process with SIGBUS.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from blake3 import blake3

from .digest import Digest
from .errors import PackageChanged

if TYPE_CHECKING:
    from types import TracebackType

ReadInto = Callable[[memoryview, int], int]
"""`read_into(view, offset)` fills `view` from `offset` on and returns how many bytes it got; 0 at the end."""

WINDOW_BYTES = 4 * 1024 * 1024
"""Read at a time. Two of these, and room for what is left of the one before: 16 MiB for a pass over any file."""

PEEK_BYTES = 4 * 1024 * 1024
"""The most that can be looked at in one piece."""


def read_exactly(read_into: ReadInto, view: memoryview, offset: int) -> None:
    """Fill `view` from `offset` on. Raises `PackageChanged` when the file ends before that."""
    got = 0
    while got < len(view):
        count = read_into(view[got:], offset + got)
        if count <= 0:
            raise PackageChanged(f"it ends at {offset + got}, before byte {offset + len(view)}")
        got += count


class Windows:
    """The `size` bytes of a file in order; a context manager.

    While the caller works on one window, a thread reads and hashes the next (both let go of the interpreter lock),
    so hashing the whole costs next to nothing on a machine with a second core.
    """

    def __init__(self, read_into: ReadInto, size: int) -> None:
        self._read_into = read_into
        self._size = size
        self._whole = blake3()
        window = min(WINDOW_BYTES, size)
        count = 1 if size <= WINDOW_BYTES else 2
        self._buffers = [memoryview(bytearray(PEEK_BYTES * (count - 1) + window)) for _ in range(count)]
        self._room = PEEK_BYTES * (count - 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-read") if count > 1 else None
        self._next: Future[int] | None = None
        self._loaded = 0  # windows that are in a buffer
        self._view = memoryview(b"")  # what is left of the bytes at hand
        if self._thread is None:
            self._view = self._buffers[0][: self._load(0)]
            self._loaded = 1
        else:
            self._next = self._thread.submit(self._load, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def peek(self, count: int) -> memoryview:
        """Look at the next `count` bytes, at most PEEK_BYTES and no more than are left. Valid until the next call."""
        while len(self._view) < count:
            self._advance()
        return self._view[:count]

    def skip(self, count: int) -> None:
        """Go past `count` bytes that were looked at."""
        self._view = self._view[count:]

    def take(self, count: int) -> memoryview:
        """`peek` and `skip` in one."""
        view = self.peek(count)
        self.skip(count)
        return view

    def take_digest(self, count: int) -> Digest:
        """Go past any number of bytes and return their digest."""
        hasher = blake3()
        while count > 0:
            step = min(count, PEEK_BYTES)
            hasher.update(self.take(step))
            count -= step
        return Digest(hasher.hexdigest())

    def digest(self) -> Digest:
        """Return the digest of the whole file. Reads to its end first, if need be."""
        while self._next is not None:
            self._advance()
        return Digest(self._whole.hexdigest())

    def _advance(self) -> None:
        if self._next is None:
            raise ValueError("there are no more bytes")
        buffer = self._buffers[self._loaded % 2]
        left = self._view[-PEEK_BYTES:]
        start = self._room - len(left)
        end = self._room + self._next.result()
        buffer[start : self._room] = left
        self._view = buffer[start:end]
        self._loaded += 1
        self._next = None
        # The other buffer is free only now: what was left of it has been copied.
        if self._loaded * WINDOW_BYTES < self._size and self._thread is not None:
            self._next = self._thread.submit(self._load, self._loaded)

    def _load(self, index: int) -> int:
        start = index * WINDOW_BYTES
        count = min(WINDOW_BYTES, self._size - start)
        view = self._buffers[index % 2 if self._thread is not None else 0][self._room : self._room + count]
        read_exactly(self._read_into, view, start)
        self._whole.update(view)
        return count
