"""From a slice of a package to what a server can send: spans of a file that may go out now, or windows of bytes."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FillFailed
from ..pages import bring_in, in_memory
from ..sync.fetch import ActiveFill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager

    from .admission import Downloads
    from .checked import CheckedLease


@dataclass(eq=False)
class PackageBody:
    """What a response sends: the bytes `[start, stop)` of `source`; `stop` None: to the end, wherever that is.

    `whole` becomes true when the last of them was handed to the server.
    """

    source: CheckedLease | ActiveFill
    start: int
    stop: int | None
    downloads: Downloads
    whole: bool = False

    def sending(self) -> AbstractContextManager[None]:
        """Return what to send inside of: it is cut off when the fill behind it fails."""
        return self.source.sending() if isinstance(self.source, ActiveFill) else nullcontext()

    async def spans(self, largest: Callable[[], int]) -> AsyncIterator[tuple[int, int]]:
        """Yield (offset, size) of what may be sent now, up to `largest()` bytes each; send one before taking the next.

        Raises `FillFailed` when the fill that is followed fails, or what is stored is damaged and cannot be repaired:
        the caller cuts the answer off, so that the client sees it.
        """
        offset = self.start
        while self.stop is None or offset < self.stop:
            size = largest() if self.stop is None else min(largest(), self.stop - offset)
            if isinstance(self.source, ActiveFill):
                size = min(size, await self.source.available(offset))
                if not size and self.stop is None:
                    break
                if not size:
                    raise FillFailed(f"the package ends at {offset}, before its end")
            await self.source.ready()
            yield offset, size
            offset += size
            self.downloads.bytes_sent += size
        self.whole = True

    async def read(self, offset: int, size: int) -> bytes:
        """Return a span's bytes: read on this thread when they are in memory, else after a worker thread has.

        A file that was changed meanwhile is made right, and read again. Raises `FillFailed` as `spans`.
        """
        fd = self.source.fileno()
        while True:
            if not in_memory(fd, offset, size):
                await bring_in(fd, offset, size)
            data = os.pread(fd, size, offset)
            if self.source.trusted:
                break
            await self.source.ready()
        if len(data) != size:
            raise FillFailed(f"the package ends at {offset + len(data)}, before its end")
        return data
