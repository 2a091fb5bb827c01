"""Check whether bytes of a file are in the page cache, and read them into it without blocking the event loop.

`os.sendfile` and `os.pread` block the whole process on pages that are not in memory.
"""

from __future__ import annotations

import errno
import os

import trio

AHEAD_BYTES = 2 << 20
"""Read-ahead beyond the requested bytes: the disk is still reading when the next bytes are requested."""

_PROBE_BUFFER = [bytearray(1)]
"""Scratch buffer for the one-byte RWF_NOWAIT probe."""


def is_cached(fd: int, offset: int, size: int) -> bool:
    """Return whether `size` bytes from `offset` on can be read without waiting for the disk.

    Only the first and the last page are probed: the kernel reads ahead in order, so those between are cached if both
    are. Costs two small system calls, or one for a single byte. True on a file system that cannot tell
    (EOPNOTSUPP).
    """
    return _page_is_cached(fd, offset) and (size == 1 or _page_is_cached(fd, offset + size - 1))


def _page_is_cached(fd: int, offset: int) -> bool:
    try:
        os.preadv(fd, _PROBE_BUFFER, offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        if error.errno != errno.EOPNOTSUPP:
            raise
    # At the end of the file nothing is read, so nothing blocks.
    return True


async def read_into_cache(fd: int, offset: int, size: int) -> None:
    """Read `size` bytes from `offset` on into the page cache in a worker thread, and begin reading ahead."""
    await trio.to_thread.run_sync(_read, fd, offset, size)


def _read(fd: int, offset: int, size: int) -> None:
    os.posix_fadvise(fd, offset, size + AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
    os.pread(fd, size, offset)
