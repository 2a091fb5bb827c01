"""Whether bytes of a file are in memory, and bringing them there without blocking the loop.

`os.sendfile` and `os.pread` block on pages that are not in memory, and with them every other client.
"""

from __future__ import annotations

import errno
import os

import trio

AHEAD_BYTES = 2 << 20
"""How far ahead of what is wanted the disk is told to read: it is still reading when the next bytes are asked for."""


_BYTE = [bytearray(1)]
"""Where what is read only to see whether it can be goes. Nobody looks at it."""


def in_memory(fd: int, offset: int, size: int) -> bool:
    """Tell whether `size` bytes from `offset` on can be read without waiting for the disk.

    Only the first and the last page are asked about: the kernel reads ahead in order, so what lies between is there
    when both are. Two small system calls, or one for a single byte. A file system that cannot tell (EOPNOTSUPP) is
    taken at its best.
    """
    return _page_in_memory(fd, offset) and (size == 1 or _page_in_memory(fd, offset + size - 1))


def _page_in_memory(fd: int, offset: int) -> bool:
    try:
        os.preadv(fd, _BYTE, offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        if error.errno != errno.EOPNOTSUPP:
            raise
    # At the end of the file nothing is read, and nothing waited for.
    return True


async def bring_in(fd: int, offset: int, size: int) -> None:
    """Have `size` bytes from `offset` on read into memory by a worker thread, and what follows begun."""
    await trio.to_thread.run_sync(_read, fd, offset, size)


def _read(fd: int, offset: int, size: int) -> None:
    os.posix_fadvise(fd, offset, size + AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
    os.pread(fd, size, offset)
