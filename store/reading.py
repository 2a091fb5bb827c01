"""Cutting, hashing and checking the bytes behind a descriptor. Reads files, writes none."""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from pathlib import Path

from .digest import Digest
from .errors import PackageChanged
from .manifest import Chunk, Literal, Manifest
from .splitting import split
from .windows import ReadInto, Windows
from .zips import find_members


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` of a descriptor on; return how many bytes came, 0 at the end."""
    return os.preadv(fd, [view], offset)


def split_file(path: str | os.PathLike[str]) -> Manifest:
    """Cut a file into a manifest, in one pass and in bounded memory (about 16 MiB, and the manifest).

    Raises `OSError` when it cannot be read, `InvalidManifest` when it is empty, and `PackageChanged` when it was
    cut short or written to meanwhile.
    """
    with Path(path).open("rb", buffering=0) as file:
        fd = file.fileno()
        return split_fd(fd, os.fstat(fd).st_size)


def split_fd(fd: int, size: int) -> Manifest:
    """Cut the first `size` bytes behind a descriptor into a manifest. Errors as `split_file`; never seeks."""
    before = os.fstat(fd)
    manifest = split_bytes(partial(read_into, fd), size)
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise PackageChanged("it was written to")
    return manifest


def split_bytes(reader: ReadInto, size: int) -> Manifest:
    """Cut `size` bytes of a reader into a manifest. Raises `PackageChanged` when they end early."""
    members = find_members(reader, size)
    with Windows(reader, size) as windows:
        return split(windows, size, members)


def hash_bytes(reader: ReadInto, size: int) -> Digest:
    """Return the digest of `size` bytes of a reader. Raises `PackageChanged` when they end early."""
    with Windows(reader, size) as windows:
        return windows.digest()


def check(reader: ReadInto, manifest: Manifest) -> tuple[bool, tuple[Chunk, ...]]:
    """Compare a reader's bytes with a manifest: whether the whole is right, and which chunks are not.

    A wrong literal shows in the whole only. Where the bytes end early, the chunks from there on are bad.
    """
    bad: list[Chunk] = []
    whole = True
    left = deque(manifest.pieces)
    try:
        with Windows(reader, manifest.size) as windows:
            while left:
                piece = left[0]
                got = windows.take_digest(piece.size)
                if isinstance(piece, Literal):
                    whole &= got == Digest.of(piece.data)
                elif got != piece.digest:
                    bad.append(piece)
                left.popleft()
            whole &= windows.digest() == manifest.digest and not bad
    except PackageChanged:
        return False, (*bad, *(piece for piece in left if isinstance(piece, Chunk)))
    return whole, tuple(bad)
