"""The body of an answer: its pieces, split into spans of a file that may be sent now, or windows of bytes."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio

from ..errors import FillFailed
from ..fetch.live_fill import LiveFill
from ..page_cache import is_cached, read_into_cache

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .admission import Downloads
    from .verified_lease import VerifiedLease


class PackageBody:
    """The `pieces` of an answer: framing (bytes) and ranges of `source`. None: the source from `begin` to its end.

    `peer`: it is sent to another node, which does not wait behind clients, and verifies what it gets.

    For one task, which sends what `next` returns before it calls it again. The zero-copy extension is given this
    object as the file: it implements `server.hypercorn.sendfile.VerifiedFile`.
    """

    def __init__(
        self,
        source: VerifiedLease | LiveFill,
        pieces: tuple[bytes | range, ...] | None,
        downloads: Downloads,
        client: str = "",
        *,
        peer: bool = False,
        begin: int = 0,
    ) -> None:
        self._source = source
        self._downloads = downloads
        self._client = client
        self._peer = peer
        self.sent = 0
        """Bytes of the body that the kernel, or a server without zero-copy, has accepted."""
        self.complete = False
        """Whether the whole body was sent."""
        self.failure = ""
        """Why this node could not send the body; "" if it did not fail."""
        self.began_at: float | None = None
        """When the first byte was sent, in Trio's clock."""
        self._until_end = pieces is None
        self._remaining = deque[bytes | range]((range(begin, sys.maxsize),) if pieces is None else pieces)
        self._piece_at: int | None = None
        self._handed_out = 0

    @property
    def behind(self) -> bool:
        """Whether less was sent than `next` has returned: the client has left or stopped reading."""
        return self.sent < self._handed_out

    def fail(self, reason: str) -> None:
        """Record that the body cannot be sent."""
        self.failure = reason

    def sending(self) -> AbstractContextManager[trio.CancelScope | None]:
        """Return the context to send in: a scope that is cancelled when the fill fails; none for a lease."""
        return self._source.sending() if isinstance(self._source, LiveFill) else nullcontext()

    def window_bytes(self) -> int:
        """Return the size limit of the next read."""
        return self._downloads.window_bytes()

    async def next(self, largest: int) -> bytes | range | None:
        """Return what may be sent now: framing, or up to `largest` bytes of the source; None at the end.

        Raises `FillFailed` when the fill fails, or the stored bytes are damaged and cannot be repaired. The caller
        then cuts off the answer, which the client sees as a failure.
        """
        piece = self._remaining[0] if self._remaining else None
        if isinstance(piece, range):
            if self._piece_at is None:
                self._piece_at = piece.start
            size = min(self._downloads.span_bytes(largest), len(piece))
            if isinstance(self._source, LiveFill):
                size = min(size, await self._source.available(piece.start, self._piece_at, peer=self._peer))
            await self._source.ensure_trusted()
            await self._wait_for_rate(size)
            if size:
                self._remaining[0] = piece[size:]
                piece = piece[:size]
            elif self._until_end:
                piece = None
            else:
                raise FillFailed(f"the package ends at {piece.start}, before its end")
        if piece is None:
            self.complete = not self.behind
            return None
        if isinstance(piece, bytes) or not self._remaining[0]:
            self._remaining.popleft()
            self._piece_at = None
        self._handed_out += len(piece)
        return piece

    async def _wait_for_rate(self, size: int) -> None:
        limits, now = self._downloads.rate_limits, trio.current_time()
        reservation = limits.reserve_for_peer(size, now) if self._peer else limits.reserve(self._client, size, now)
        if not reservation.seconds:
            return
        waited = False
        try:
            await trio.sleep(reservation.seconds)
            waited = True
        finally:
            if not waited:
                reservation.cancel()

    async def read(self, span: range) -> bytes:
        """Return the bytes of a span. Disk reads happen in a worker thread.

        If the file was changed meanwhile it is verified, repaired if need be, and read again. Raises `FillFailed` as
        `next` does.
        """
        fd = self._source.fileno()
        while True:
            if not is_cached(fd, span.start, len(span)):
                await read_into_cache(fd, span.start, len(span))
            data = os.pread(fd, len(span), span.start)
            if self._source.trusted:
                break
            await self._source.ensure_trusted()
        if len(data) != len(span):
            raise FillFailed(f"the package ends at {span.start + len(data)}, before its end")
        return data

    # -- `server.hypercorn.sendfile.VerifiedFile`

    def fileno(self) -> int:
        """Return the descriptor of the package."""
        return self._source.fileno()

    @property
    def trusted(self) -> bool:
        """Whether the package's bytes are known to be right."""
        return self._source.trusted

    async def ensure_trusted(self) -> None:
        """Return when the bytes are known to be right. Raises `FillFailed`."""
        await self._source.ensure_trusted()

    def count_sent(self, count: int) -> None:
        """Count bytes of the body that were sent."""
        if self.began_at is None and count:
            self.began_at = trio.current_time()
        self.sent += count
        self._downloads.count_sent(count, peer=self._peer)
