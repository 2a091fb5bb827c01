"""From a slice of a package to the messages of an ASGI response, in windows; from a fill as it arrives."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from ..errors import FillFailed
from ..sync.fetch import ActiveFill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from store import Lease

    from .admission import Downloads

_PAGE_BYTES = 4096


@dataclass(eq=False)
class PackageBody:
    """What a response sends: the bytes `[start, stop)` of `source`; `stop` None: to the end, wherever that is.

    `whole` becomes true when the last of them was handed to the server.
    """

    source: Lease | ActiveFill
    start: int
    stop: int | None
    downloads: Downloads
    whole: bool = False

    def sending(self) -> AbstractContextManager[None]:
        """Return what to send inside of: it is cut off when the fill behind it fails."""
        return self.source.sending() if isinstance(self.source, ActiveFill) else nullcontext()

    async def windows(self) -> AsyncIterator[bytes]:
        """Yield the bytes in windows of up to 1 MiB, smaller ones the more downloads there are.

        Raises `FillFailed` when they end too early: the caller cuts the answer off, so that the client sees it.
        """
        offset = self.start
        while self.stop is None or offset < self.stop:
            size = self.downloads.window_bytes()
            if self.stop is not None:
                size = min(size, self.stop - offset)
            ready = await self.source.available(offset) if isinstance(self.source, ActiveFill) else size
            if not ready and self.stop is None:
                break
            data = await read_window(self.source.fileno(), offset, min(size, ready))
            if not data:
                raise FillFailed(f"the package ends at {offset}, before its end")
            yield data
            offset += len(data)
            self.downloads.bytes_sent += len(data)
        self.whole = True


async def read_window(fd: int, offset: int, size: int) -> bytes:
    """Read up to `size` bytes; on this thread when they are in memory, else in a worker thread.

    Only the first and the last page are asked about: the kernel reads ahead in order, so what lies between is there
    when both are. Costs two small system calls, and never copies the window twice.
    """
    if _in_memory(fd, offset) and _in_memory(fd, offset + size - 1):
        return os.pread(fd, size, offset)
    return await trio.to_thread.run_sync(os.pread, fd, size, offset)


def _in_memory(fd: int, offset: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError as error:
        # EAGAIN: not in memory. EOPNOTSUPP: a file system that cannot tell.
        if error.errno in {errno.EAGAIN, errno.EOPNOTSUPP}:
            return False
        raise
