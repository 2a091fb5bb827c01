"""A fill in progress for the downloads that follow it: verified bytes as they arrive, and its outcome."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from ..errors import FillFailed
from ..events import Broadcast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store import Digest, Fill, StreamFill

HOLD_BACK_BYTES = 64 << 10
"""The last bytes of a package are sent only after the whole was verified: if the fill fails at its end, the client has
no zip that opens."""


class LiveFill:
    """A fill in progress. `digest` and `size` (bytes) are None while unknown: a legacy master sends neither.

    `token` is the legacy master's when the fill began, else ""; `began_at` is in Trio's clock. The file is closed when
    the fill has ended and no download follows it.
    """

    def __init__(
        self,
        meeting_id: str,
        digest: Digest | None = None,
        size: int | None = None,
        *,
        token: str = "",
        began_at: float = 0.0,
    ) -> None:
        self.meeting_id = meeting_id
        self.digest = digest
        self.size = size
        self.token = token
        self.began_at = began_at
        self.source = ""
        """The id of the node that the last bytes were requested from; "" for the master."""
        self.slow = False
        """Whether the fill receives less than half of what its source does."""
        self.fetched: Counter[str] = Counter()
        """Bytes received, by source."""
        self.error: Exception | None = None
        """Why the fill failed."""
        self.finished = False
        """Whether the fill has ended, in success or failure."""
        self._file: Fill | StreamFill | None = None
        self._end_at = sys.maxsize
        self._complete = False
        self._discard = False
        self._committed: tuple[int, int] | None = None
        self._followers = 0
        self._sending: set[trio.CancelScope] = set()
        self._moved = Broadcast()
        self._waiting: dict[object, int] = {}

    @property
    def filled(self) -> int:
        """Bytes of the package that are here."""
        return 0 if self._file is None else self._file.filled

    # -- For the task that fills

    def begin(self, file: Fill | StreamFill, end_at: int = sys.maxsize) -> None:
        """Let downloads read `file`, which this object closes from now on.

        Nothing is held back from ranges that begin at `end_at` or later: programs that read single members of a zip
        ask for its directory first. Only for a file whose every byte is verified against a manifest.
        """
        self._file = file
        self._end_at = end_at
        self.advance()

    def advance(self) -> None:
        """Wake the followers: bytes were added."""
        self._moved.notify()

    def complete(self) -> None:
        """Record that the last byte is here, and the whole is being verified. Other nodes verify it meanwhile, too."""
        self._complete = True
        self.advance()

    def waiting_offsets(self) -> list[int]:
        """Return the offsets at which followers wait, the longest wait first."""
        return list(self._waiting.values())

    def discard_at_end(self) -> None:
        """Remove what was fetched when the fill ends, instead of keeping it to resume from."""
        self._discard = True

    def finish(self, error: Exception | None = None) -> None:
        """End the fill, in success or with `error`. Only the first call counts."""
        if not self.finished:
            self.finished = True
            self.error = error
            self._committed = self._file_state()
            self.advance()
            if error is not None:
                for scope in self._sending:
                    scope.cancel()
            self._close_if_unused()

    # -- For the downloads that follow

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep the file open inside the block, also after the fill has ended."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._close_if_unused()

    def fileno(self) -> int:
        """Return the descriptor of the file. Valid for bytes that `available` has returned."""
        assert self._file is not None, "`available` has returned nothing yet"
        return self._file.fileno()

    async def available(self, offset: int, begin: int = 0, *, peer: bool = False) -> int:
        """Wait until bytes from `offset` on may be sent, and return how many; 0 at the end of the package.

        `begin` is where the range that was asked for begins. Nothing is held back from another node (`peer`), which
        verifies what it gets: otherwise each node would end after the one before it has verified the whole.
        Raises `FillFailed` when the fill has failed.
        """
        waiter = object()
        try:
            while True:
                if self.error is not None:
                    raise FillFailed(str(self.error)) from self.error
                ready = self._ready_bytes(offset, begin, peer=peer)
                if ready > 0 or self.finished or (peer and self._complete):
                    return ready
                self._waiting.setdefault(waiter, offset)
                await self._moved.wait()
        finally:
            self._waiting.pop(waiter, None)

    async def wait_begun(self) -> None:
        """Wait until the first bytes may be sent or the fill has ended. Raises `FillFailed` like `available`."""
        await self.available(0)

    async def wait_finished(self) -> None:
        """Wait until the fill has ended, in success or failure."""
        while not self.finished:
            await self._moved.wait()

    @property
    def trusted(self) -> bool:
        """Whether the bytes that `available` has returned are right.

        Always during the fill; after it if the file has not changed. A package that changes later is repaired for new
        downloads; those that followed its fill are cut off.
        """
        return self._committed is None or self._committed == self._file_state()

    async def ensure_trusted(self) -> None:
        """Raise `FillFailed` unless the bytes are right."""
        if not self.trusted:
            raise FillFailed("the package was changed on the disk after it was fetched")

    @contextmanager
    def sending(self) -> Iterator[trio.CancelScope]:
        """Cancel the block when the fill fails, even if it waits for a client that does not read."""
        with trio.CancelScope() as scope:
            self._sending.add(scope)
            try:
                yield scope
            finally:
                self._sending.discard(scope)

    def _ready_bytes(self, offset: int, begin: int, *, peer: bool) -> int:
        if self._file is None:
            return 0
        covered = self._file.covered(offset)
        if peer or self.finished or begin >= self._end_at:
            return covered
        return max(0, min(covered, self._file.size - HOLD_BACK_BYTES - offset))

    def _file_state(self) -> tuple[int, int] | None:
        # Not the ctime: an eviction unlinks the package, which changes the ctime and none of the bytes.
        if self._file is None:
            return None
        found = os.fstat(self._file.fileno())
        return (found.st_size, found.st_mtime_ns)

    def _close_if_unused(self) -> None:
        if self.finished and not self._followers and self._file is not None:
            file, self._file = self._file, None
            if self._discard:
                file.discard()
            else:
                file.close()
