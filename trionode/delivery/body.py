"""From the pieces of an answer to what a server can send: spans of a file that may go out now, or windows of bytes."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio

from ..errors import FillFailed
from ..pages import bring_in, in_memory
from ..sync.active import ActiveFill

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .admission import Downloads
    from .checked import CheckedLease


class PackageBody:
    """What a response sends: `pieces`, which are framing (bytes) and ranges of `source`; None: all, to its end.

    Made for one task, which sends what `next` returns before it asks again. It is a file as the zero-copy extension
    wants it, and one that can tell whether its bytes are right.
    """

    def __init__(
        self,
        source: CheckedLease | ActiveFill,
        pieces: tuple[bytes | range, ...] | None,
        downloads: Downloads,
        client: str = "",
    ) -> None:
        self.source = source
        self.downloads = downloads
        self.client = client
        """Whose share of the bandwidth this takes."""
        self.sent = 0
        """Bytes of the body that the kernel, or a server without zero-copy, has taken."""
        self.whole = False
        """Whether all of it went out."""
        self.failure = ""
        """Why not, where the reason is on this side."""
        self.began_at: float | None = None
        """When the first byte of it went out."""
        self._endless = pieces is None
        self._left = deque[bytes | range]((range(sys.maxsize),) if pieces is None else pieces)
        self._given = 0

    def sending(self) -> AbstractContextManager[trio.CancelScope | None]:
        """Return what to send inside of: a scope that is cancelled when the fill behind it fails; None for a lease."""
        return self.source.sending() if isinstance(self.source, ActiveFill) else nullcontext()

    @property
    def behind(self) -> bool:
        """Whether less went out than `next` has given: the client takes no more."""
        return self.sent < self._given

    async def next(self, largest: int) -> bytes | range | None:
        """Return what may be sent now: framing, or up to `largest` bytes of the source; None when that was all.

        Raises `FillFailed` when the fill that is followed fails, or what is stored is damaged and cannot be repaired:
        the caller cuts the answer off, so that the client sees it.
        """
        piece = self._left[0] if self._left else None
        if isinstance(piece, range):
            size = min(self.downloads.span_bytes(largest), len(piece))
            if isinstance(self.source, ActiveFill):
                size = min(size, await self.source.available(piece.start))
            await self.source.ready()
            await self._pace(size)
            if size:
                self._left[0] = piece[size:]
                piece = piece[:size]
            elif self._endless:
                piece = None
            else:
                raise FillFailed(f"the package ends at {piece.start}, before its end")
        if piece is None:
            self.whole = not self.behind
            return None
        if isinstance(piece, bytes) or not self._left[0]:
            self._left.popleft()
        self._given += len(piece)
        return piece

    async def _pace(self, size: int) -> None:
        """Wait until so many bytes more may go, by the limits of the node."""
        booking = self.downloads.limits.book(self.client, size, trio.current_time())
        if not booking.seconds:
            return
        waited = False
        try:
            await trio.sleep(booking.seconds)
            waited = True
        finally:
            if not waited:
                booking.give_back()

    async def read(self, span: range) -> bytes:
        """Return a span's bytes: read on this thread when they are in memory, else after a worker thread has.

        A file that was changed meanwhile is made right, and read again. Raises `FillFailed` as `next`.
        """
        fd = self.source.fileno()
        while True:
            if not in_memory(fd, span.start, len(span)):
                await bring_in(fd, span.start, len(span))
            data = os.pread(fd, len(span), span.start)
            if self.source.trusted:
                break
            await self.source.ready()
        if len(data) != len(span):
            raise FillFailed(f"the package ends at {span.start + len(data)}, before its end")
        return data

    # -- What the server asks of a file it sends (`server.sendfile.Checked`)

    def fileno(self) -> int:
        """Return the descriptor of the package."""
        return self.source.fileno()

    @property
    def trusted(self) -> bool:
        """Whether the package's bytes are right now."""
        return self.source.trusted

    async def ready(self) -> None:
        """Return once they are. Raises `FillFailed`."""
        await self.source.ready()

    def moved(self, count: int) -> None:
        """Count bytes of the body that went out."""
        if self.began_at is None and count:
            self.began_at = trio.current_time()
        self.sent += count
        self.downloads.bytes_sent += count
