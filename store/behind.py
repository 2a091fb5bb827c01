"""Hashing behind a writer: a thread reads back what was just written while the writer writes on. Changes no file.

Every byte of a package is hashed twice before it is published: as part of its chunk when it arrives, and as part of
the whole. Doing the second here, in package order, as soon as bytes are final, leaves almost nothing of it for the
commit. It is as good as hashing the whole at the end: what is read back is the file itself, and a byte that is final
is not written again: the file is locked, has no name yet that anybody else would open, and its fill writes no chunk
twice.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from .digest import Digest
from .errors import PackageChanged
from .windows import WINDOW_BYTES, ReadInto

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from .manifest import Chunk

STEP_BYTES = 1024 * 1024
"""What is worth waking the thread for. Smaller packages never start one."""


class WholeHash:
    """The digest of a file's bytes from the first on, as far as they are final. Safe from any thread."""

    def __init__(self, read_into: ReadInto) -> None:
        self._read_into = read_into
        self._lock = threading.Lock()
        self._hasher = blake3()
        self._at = 0
        self._buffer = memoryview(b"")
        self._stopped = False

    def advance(self, end: int) -> None:
        """Hash up to `end`, unless that was done. Raises `OSError` or `PackageChanged`, and can then go on."""
        with self._lock:
            wanted = min(WINDOW_BYTES, end - self._at)
            if len(self._buffer) < wanted:
                self._buffer = memoryview(bytearray(wanted))
            while self._at < end and not self._stopped:
                got = self._read_into(self._buffer[: end - self._at], self._at)
                if got <= 0:
                    raise PackageChanged(f"it ends at {self._at}, before byte {end}")
                self._hasher.update(self._buffer[:got])
                self._at += got

    def digest(self, size: int) -> Digest:
        """Return the digest of all `size` bytes, hashing what is left. Errors as `advance`."""
        self.advance(size)
        return Digest(self._hasher.hexdigest())

    def stop(self) -> None:
        """Let an `advance` that is going on end early."""
        self._stopped = True


class Behind:
    """The thread behind one writer, and what it hashes. `close` before the file is closed. Safe from any thread."""

    def __init__(self, read_into: ReadInto) -> None:
        self.whole = WholeHash(read_into)
        self._read_into = read_into
        self._lock = threading.Lock()
        self._asked = 0
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def reached(self, end: int) -> None:
        """Say that all bytes before `end` are final, so that the whole can be hashed up to there."""
        with self._lock:
            if end - self._asked < STEP_BYTES or self._closed:
                return
            self._asked = end
            self._start().submit(self._advance, end)

    def check(self, chunks: Sequence[Chunk]) -> Future[list[bool]]:
        """Tell of each chunk whether its bytes are in the file. The future raises the `OSError` of a read."""
        with self._lock:
            if self._closed:
                raise ValueError("the file is closed")
            return self._start().submit(lambda: [self.is_there(chunk) for chunk in chunks])

    def is_there(self, chunk: Chunk) -> bool:
        """Tell whether a chunk's bytes are in the file, on this thread."""
        buffer = memoryview(bytearray(min(chunk.size, WINDOW_BYTES)))
        hasher = blake3()
        done = 0
        while done < chunk.size:
            got = self._read_into(buffer[: chunk.size - done], chunk.offset + done)
            if got <= 0:
                return False
            hasher.update(buffer[:got])
            done += got
        return hasher.hexdigest() == chunk.digest

    def call(self, do: Callable[[], None]) -> None:
        """Let the thread do something that cannot fail and that the writer need not wait for."""
        with self._lock:
            if not self._closed:
                self._start().submit(do)

    def close(self) -> None:
        """Wait until nothing reads the file any more. Closing twice is no error."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self.whole.stop()
            thread.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-hash")
        return self._thread

    def _advance(self, end: int) -> None:
        with suppress(OSError, PackageChanged):  # whoever asks for the digest reads that place again
            self.whole.advance(end)
