"""Cutting, hashing and checking the bytes behind a descriptor. Reads files, writes none."""

from __future__ import annotations

import os
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

    A wrong literal shows in the whole only. Where the bytes end early, the chunks that are not all there are bad.
    """
    bad: list[Chunk] = []
    padded = _Padded(reader, manifest.size)
    right = True
    with Windows(padded, manifest.size) as windows:
        for piece in manifest.pieces:
            got = windows.take_digest(piece.size)
            if isinstance(piece, Literal):
                right &= got == Digest.of(piece.data)
            elif got != piece.digest or piece.offset + piece.size > padded.end:
                bad.append(piece)
        right &= windows.digest() == manifest.digest and padded.end == manifest.size
    return right and not bad, tuple(bad)


class _Padded:
    """A reader that goes on with zeros where the file ends, and knows where that was."""

    def __init__(self, reader: ReadInto, size: int) -> None:
        self._reader = reader
        self.end = size

    def __call__(self, view: memoryview, offset: int) -> int:
        got = self._reader(view, offset)
        if got > 0:
            return got
        self.end = min(self.end, offset)
        view[:] = bytes(len(view))
        return len(view)
