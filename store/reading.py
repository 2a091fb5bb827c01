"""Split a file into a manifest, and check a file against one. Reads files, writes none.

Both need the digest of the whole and those of the pieces: two threads read the bytes at the same time, one for each.
Reading from the page cache costs a fifth of hashing; passing buffers from one thread to the other costs more than that,
because of the waiting. Hashing releases the interpreter lock.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import zips
from .buffered_reader import BufferedReader, PackageChanged, ReadInto, hash_bytes
from .digest import Digest
from .manifest import Chunk, Literal, Manifest
from .splitting import cut_region, join, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .splitting import Part, Region

Whole = TypeVar("Whole")
Batch = TypeVar("Batch")
Result = TypeVar("Result")
Sized = TypeVar("Sized", "Region", "Chunk | Literal")

BATCH_BYTES = 1024 * 1024
"""A thread takes this many bytes of work at a time, so that the cost of taking it is negligible."""


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Read from `offset` of a descriptor into `view`; return the number of bytes read, 0 at the end."""
    return os.preadv(fd, [view], offset)


def split_file(path: str | os.PathLike[str]) -> Manifest:
    """Split a file and return its manifest, in bounded memory (about 10 MiB, and the manifest).

    Raises `OSError` when the file cannot be read, `InvalidManifest` when it is empty, and `PackageChanged` when it is
    truncated or written to meanwhile.
    """
    with Path(path).open("rb", buffering=0) as file:
        fd = file.fileno()
        return split_fd(fd, os.fstat(fd).st_size)


def split_fd(fd: int, size: int) -> Manifest:
    """Split the first `size` bytes of an open file, without seeking it. Errors as `split_file`."""
    before = os.fstat(fd)
    manifest = split_bytes(partial(read_into, fd), size)
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise PackageChanged("it was written to")
    return manifest


def check_fd(fd: int, size: int, *, unpack: bool) -> None:
    """Check that the first `size` bytes of an open file are a package, without seeking it.

    `unpack`: read all members too; see `zips.check_package`. Raises `PackageRejected`, `PackageChanged`, `OSError`.
    """
    zips.check_package(partial(read_into, fd), size, unpack=unpack)


def count_files(fd: int, size: int) -> int:
    """Return the number of files in a package, without seeking it; 0 for one that is no zip. Errors as `check_fd`."""
    return zips.count_files(partial(read_into, fd), size)


def split_bytes(reader: ReadInto, size: int, whole: Callable[[], Digest] | None = None) -> Manifest:
    """Split the first `size` bytes. Raises `PackageChanged` when the file ends before that.

    `whole` returns the digest of the whole; it is passed if that is cheaper than reading the bytes again.
    """

    def split(buffered: BufferedReader, batch: Sequence[Region]) -> list[Part]:
        return [part for region in batch for part in cut_region(buffered, region)]

    batches = _batches(regions(zips.find_members(reader, size), size))
    digest, parts = _in_two_threads(reader, size, batches, split, whole or partial(hash_bytes, reader, size))
    return Manifest(digest, size, join(chain.from_iterable(parts)))


def check(reader: ReadInto, manifest: Manifest) -> tuple[bool, tuple[Chunk, ...]]:
    """Check a file against a manifest: return whether the whole is good, and the bad chunks.

    A bad literal shows only in the whole. If the file ends early, incomplete chunks are bad.
    """

    def find_bad(buffered: BufferedReader, batch: Sequence[Chunk | Literal]) -> list[Chunk | Literal]:
        return [piece for piece in batch if not _is_good(buffered, piece)]

    batches = _batches(manifest.pieces)
    good, found = _in_two_threads(reader, manifest.size, batches, find_bad, partial(_whole_is_good, reader, manifest))
    bad = [*chain.from_iterable(found)]
    return good and not bad, tuple(piece for piece in bad if isinstance(piece, Chunk))


def _is_good(buffered: BufferedReader, piece: Chunk | Literal) -> bool:
    expected = piece.digest if isinstance(piece, Chunk) else Digest.of(piece.data)
    try:
        return buffered.digest(piece.offset, piece.size) == expected
    except PackageChanged:
        return False


def _whole_is_good(reader: ReadInto, manifest: Manifest) -> bool:
    try:
        return hash_bytes(reader, manifest.size) == manifest.digest
    except PackageChanged:
        return False


def _in_two_threads(
    reader: ReadInto,
    size: int,
    batches: Sequence[Batch],
    work: Callable[[BufferedReader, Batch], Result],
    whole: Callable[[], Whole],
) -> tuple[Whole, list[Result]]:
    """Return the result of `whole`, and those of `work` for each batch, in order; raise the first error of either.

    One thread runs `whole`, and then batches from the end; this one runs batches from the front, until they meet.
    """
    todo = deque(enumerate(batches))
    done: dict[int, Result] = {}

    def run_batches(take: Callable[[], tuple[int, Batch]]) -> None:
        buffered = BufferedReader(reader, size)
        while True:
            try:
                number, batch = take()
            except IndexError:  # no batch is left
                return
            done[number] = work(buffered, batch)

    def whole_then_batches() -> Whole:
        result = whole()
        run_batches(todo.pop)
        return result

    with ThreadPoolExecutor(1, thread_name_prefix="store-read") as thread:
        other = thread.submit(whole_then_batches)
        try:
            run_batches(todo.popleft)
        finally:
            todo.clear()  # after an error in one thread, the other starts no more batches
        result = other.result()
    return result, [done[number] for number in range(len(batches))]


def _batches(pieces: Sequence[Sized]) -> list[list[Sized]]:
    """Group adjacent pieces into batches of at least BATCH_BYTES."""
    batches: list[list[Sized]] = []
    size = BATCH_BYTES
    for piece in pieces:
        if size >= BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(piece)
        size += piece.size
    return batches
