"""Cutting, hashing and checking the bytes behind a descriptor. Reads files, writes none.

Whatever needs both the digest of the whole and those of the pieces reads the bytes twice at the same time, in two
threads. Reading from the page cache costs a fifth of hashing, and handing buffers from thread to thread costs more
than that, once each waits for the other. All that takes long lets go of the interpreter lock.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .digest import Digest
from .errors import PackageChanged
from .manifest import Chunk, Literal, Manifest
from .splitting import cut_region, join, regions
from .windows import ReadInto, Window, hash_bytes
from .zips import find_members

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .splitting import Part, Region

Whole = TypeVar("Whole")
Turn = TypeVar("Turn")
Done = TypeVar("Done")
Sized = TypeVar("Sized", "Region", "Chunk | Literal")

__all__ = ["ReadInto", "check", "hash_bytes", "read_into", "split_bytes", "split_fd", "split_file"]

TURN_BYTES = 1024 * 1024
"""What a thread takes on at a time of the regions still to be cut: enough that taking it costs nothing."""


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` of a descriptor on; return how many bytes came, 0 at the end."""
    return os.preadv(fd, [view], offset)


def split_file(path: str | os.PathLike[str]) -> Manifest:
    """Cut a file into a manifest, in bounded memory (some 10 MiB, and the manifest).

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


def split_bytes(reader: ReadInto, size: int, whole: Callable[[], Digest] | None = None) -> Manifest:
    """Cut `size` bytes of a reader into a manifest. Raises `PackageChanged` when they end early.

    `whole` returns the digest of all of them for whoever has it more cheaply than by reading them again.
    """

    def cut(window: Window, turn: Sequence[Region]) -> list[Part]:
        return [part for region in turn for part in cut_region(window, region)]

    turns = _turns(regions(find_members(reader, size), size))
    digest, parts = _share(reader, size, turns, cut, whole or partial(hash_bytes, reader, size))
    return Manifest(digest, size, join(chain.from_iterable(parts)))


def check(reader: ReadInto, manifest: Manifest) -> tuple[bool, tuple[Chunk, ...]]:
    """Compare a reader's bytes with a manifest: whether the whole is right, and which chunks are not.

    A wrong literal shows in the whole only. Where the bytes end early, the chunks that are not all there are bad.
    """

    def compare(window: Window, turn: Sequence[Chunk | Literal]) -> list[Chunk | Literal]:
        return [piece for piece in turn if not _is_right(window, piece)]

    turns = _turns(manifest.pieces)
    right, found = _share(reader, manifest.size, turns, compare, partial(_whole_is_right, reader, manifest))
    wrong = [*chain.from_iterable(found)]
    return right and not wrong, tuple(piece for piece in wrong if isinstance(piece, Chunk))


def _is_right(window: Window, piece: Chunk | Literal) -> bool:
    try:
        if isinstance(piece, Chunk):
            return window.digest(piece.offset, piece.size) == piece.digest
        return window.digest(piece.offset, piece.size) == Digest.of(piece.data)
    except PackageChanged:
        return False


def _whole_is_right(reader: ReadInto, manifest: Manifest) -> bool:
    try:
        return hash_bytes(reader, manifest.size) == manifest.digest
    except PackageChanged:
        return False


def _share(
    reader: ReadInto,
    size: int,
    turns: Sequence[Turn],
    do: Callable[[Window, Turn], Done],
    whole: Callable[[], Whole],
) -> tuple[Whole, list[Done]]:
    """Return what `whole` returns, and what `do` makes of each turn, in order; raise what either raises.

    One thread does the whole, and then turns from the end; this one does turns from the front, until they meet.
    """
    todo = deque(enumerate(turns))
    done: dict[int, Done] = {}

    def work(take: Callable[[], tuple[int, Turn]]) -> None:
        window = Window(reader, size)
        while True:
            try:
                number, turn = take()
            except IndexError:  # nothing is left
                return
            done[number] = do(window, turn)

    def whole_then_help() -> Whole:
        found = whole()
        work(todo.pop)
        return found

    with ThreadPoolExecutor(1, thread_name_prefix="store-read") as thread:
        helper = thread.submit(whole_then_help)
        try:
            work(todo.popleft)
        finally:
            todo.clear()  # when one fails, the other begins nothing more
        found = helper.result()
    return found, [done[number] for number in range(len(turns))]


def _turns(pieces: Sequence[Sized]) -> list[list[Sized]]:
    """Put pieces that follow each other together until they are worth a turn."""
    turns: list[list[Sized]] = []
    size = TURN_BYTES
    for piece in pieces:
        if size >= TURN_BYTES:
            turns.append([])
            size = 0
        turns[-1].append(piece)
        size += piece.size
    return turns
