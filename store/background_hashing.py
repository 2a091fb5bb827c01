"""Hash a file in a background thread while it is being written. Reads the file, never writes it.

Every byte of a package is hashed twice before it is published: as part of its chunk when it arrives, and as part of
the whole package. The second pass runs here, in package order, as soon as bytes are final, which leaves almost nothing
of it for the commit. The result is that of hashing the file at the end: the bytes are read back from the file, and no
byte is written after it is final, since the file is locked, is not published yet, and a fill writes no chunk twice.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from .buffered_reader import BUFFER_BYTES, BufferedReader, PackageChanged, ReadInto
from .digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from .manifest import Chunk

STEP_BYTES = 1024 * 1024
"""The thread is given work in steps of this size, so that waking it costs little. Smaller packages start no thread."""


class PrefixHasher:
    """The digest of a file, computed from its beginning as its bytes become final. Safe from any thread."""

    def __init__(self, read_into: ReadInto) -> None:
        self._read_into = read_into
        self._lock = threading.Lock()
        self._hasher = blake3()
        self._at = 0
        self._buffer = memoryview(b"")
        self._stopped = False

    def advance(self, end: int) -> None:
        """Hash up to `end`, unless that is done. Raises `OSError` or `PackageChanged`; can then be called again."""
        with self._lock:
            wanted = min(BUFFER_BYTES, end - self._at)
            if len(self._buffer) < wanted:
                self._buffer = memoryview(bytearray(wanted))
            while self._at < end and not self._stopped:
                got = self._read_into(self._buffer[: end - self._at], self._at)
                if got <= 0:
                    raise PackageChanged(f"it ends at {self._at}, before byte {end}")
                self._hasher.update(self._buffer[:got])
                self._at += got

    def digest(self, size: int) -> Digest:
        """Return the digest of all `size` bytes, hashing the rest on this thread. Errors as `advance`."""
        self.advance(size)
        return Digest(self._hasher.hexdigest())

    def stop(self) -> None:
        """Make an `advance` that is running in another thread return early."""
        self._stopped = True


class BackgroundHasher:
    """One background thread per file that is being written. Safe from any thread. Close it before the file."""

    def __init__(self, read_into: ReadInto) -> None:
        self.prefix = PrefixHasher(read_into)
        self._read_into = read_into
        self._lock = threading.Lock()
        self._requested = 0
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def hash_up_to(self, end: int) -> None:
        """Hash the prefix up to `end` in the background; all bytes before `end` must be final."""
        with self._lock:
            if end - self._requested < STEP_BYTES or self._closed:
                return
            self._requested = end
            self._start().submit(self._advance, end)

    def check(self, chunks: Sequence[Chunk]) -> Future[list[bool]]:
        """Tell for each chunk whether its bytes are in the file. The future raises the `OSError` of a read."""
        with self._lock:
            if self._closed:
                raise ValueError("the file is closed")
            return self._start().submit(self._check, chunks)

    def run(self, function: Callable[[], None]) -> None:
        """Run a function that cannot fail in the background; ignored after `close`."""
        with self._lock:
            if not self._closed:
                self._start().submit(function)

    def close(self) -> None:
        """Wait until nothing reads the file any more. Closing twice is no error."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self.prefix.stop()
            thread.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-hash")
        return self._thread

    def _advance(self, end: int) -> None:
        with suppress(OSError, PackageChanged):  # the next `digest` reads that place again and raises the error
            self.prefix.advance(end)

    def _check(self, chunks: Sequence[Chunk]) -> list[bool]:
        reader = BufferedReader(self._read_into, max((chunk.offset + chunk.size for chunk in chunks), default=0))

        def is_there(chunk: Chunk) -> bool:
            try:
                return reader.digest(chunk.offset, chunk.size) == chunk.digest
            except PackageChanged:
                return False

        return [is_there(chunk) for chunk in chunks]
