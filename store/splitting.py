"""Where a package is cut: at the members of its zip first, and inside large ones by their content. Pure.

A package is rebuilt whenever one document changes, and then its headers, times and offsets change everywhere while
most members' bytes stay. Cutting at the members finds every one of those again, wherever it moved to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING

from pyfastcdc import FastCDC

from .manifest import Chunk, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .digest import Digest
    from .windows import Window
    from .zips import Members

CHUNK_BYTES = 1024 * 1024
"""What is no longer than this stays one chunk, and the average that longer ranges are cut to (1.03 MiB measured)."""

MIN_CHUNK_BYTES = CHUNK_BYTES // 2
MAX_CHUNK_BYTES = 4 * 1024 * 1024
_AVERAGE_BYTES = CHUNK_BYTES - MIN_CHUNK_BYTES  # FastCDC counts the average from the smallest chunk on
_LOOK_BYTES = 3 * CHUNK_BYTES // 2  # holds five chunks in six, and half of it is still at hand for the next

INLINE_BYTES = 128
"""Naming a chunk costs as much as carrying this many bytes, so shorter ranges go into the literal around them."""

MAX_GAP_BYTES = 64 * 1024
"""Headers between two members are far shorter; what is longer is data of some kind and is chunked."""

MAX_DIRECTORY_BYTES = 4 * 1024 * 1024
MAX_INLINE_BYTES = 16 * 1024 * 1024
"""A zip that would put more than this into its manifest was made to do so, and is chunked plainly."""


class Cut(Enum):
    """How a region becomes pieces."""

    INLINE = "inline"  # into one literal
    CHUNKED = "chunked"  # into chunks, by content when it is longer than CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Region:
    """A range of a package and how it becomes pieces. `offset` and `size` in bytes."""

    offset: int
    size: int
    cut: Cut


def regions(members: Members | None, size: int) -> tuple[Region, ...]:
    """Divide [0, size) into regions, in order, without gap or overlap, whatever the zip says about itself.

    Members that overlap one before them or lie outside the file are no regions of their own: their bytes belong
    to the gaps, and long gaps are chunked like bytes that are no zip.
    """
    if members is None:
        return _plain(size)
    found: list[Region] = []
    at = 0
    for offset, length in sorted(members.ranges):
        if length <= INLINE_BYTES or offset < at or offset + length > size:
            continue
        found += _gap(at, offset, MAX_GAP_BYTES)
        found.append(Region(offset, length, Cut.CHUNKED))
        at = offset + length
    directory = members.directory if at <= members.directory <= size else size
    found += _gap(at, directory, MAX_GAP_BYTES)
    found += _gap(directory, size, MAX_DIRECTORY_BYTES)
    merged = tuple(_merge(found))
    if sum(region.size for region in merged if region.cut is Cut.INLINE) > MAX_INLINE_BYTES:
        return _plain(size)
    return merged


def _plain(size: int) -> tuple[Region, ...]:
    return (Region(0, size, Cut.CHUNKED if size > INLINE_BYTES else Cut.INLINE),) if size else ()


def _gap(start: int, end: int, inline: int) -> Iterator[Region]:
    if end > start:
        yield Region(start, end - start, Cut.INLINE if end - start <= inline else Cut.CHUNKED)


def _merge(found: Sequence[Region]) -> Iterator[Region]:
    """Join inline regions that touch: one literal for what lies between two chunks."""
    for inline, run in groupby(found, key=lambda region: region.cut is Cut.INLINE):
        touching = list(run)
        if inline:
            yield Region(touching[0].offset, sum(region.size for region in touching), Cut.INLINE)
        else:
            yield from touching


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a region: a chunk with its digest, or a few bytes that go into a literal."""

    size: int
    content: Digest | bytes


def cut_region(window: Window, region: Region) -> tuple[Part, ...]:
    """Cut one region into its pieces. The same bytes give the same pieces wherever they lie.

    Regions do not depend on each other, so that several threads can cut, each with a window of its own.
    Raises `PackageChanged` when the bytes end early.
    """
    # One chunker for each call: it must not be used by two threads.
    chunker = _chunker() if region.cut is Cut.CHUNKED and region.size > CHUNK_BYTES else None
    parts: list[Part] = []
    at, left = region.offset, region.size
    while left > 0:
        length = min(left, MAX_CHUNK_BYTES) if chunker is None else _cut(chunker, window, at, left)
        if region.cut is Cut.CHUNKED and length > INLINE_BYTES:
            parts.append(Part(length, window.digest(at, length)))
        else:
            parts.append(Part(length, bytes(window.view(at, length))))
        at += length
        left -= length
    return tuple(parts)


def _chunker() -> FastCDC:
    return FastCDC(_AVERAGE_BYTES, min_size=MIN_CHUNK_BYTES, max_size=MAX_CHUNK_BYTES, normalized_chunking=0)


def _cut(chunker: FastCDC, window: Window, offset: int, left: int) -> int:
    """Return the length of the next chunk of a long range.

    A cut found before the end of what was looked at is the cut, however much follows; most are found in the first look.
    """
    most = min(left, MAX_CHUNK_BYTES)
    looked = min(most, _LOOK_BYTES)
    while True:
        length = next(iter(chunker.cut_buf(window.view(offset, looked)))).length
        if length < looked or looked == most:
            return length
        looked = min(most, 2 * looked)


def join(parts: Iterable[Part]) -> tuple[Chunk | Literal, ...]:
    """Return the pieces of a manifest: the parts of all regions in order, literals that touch made one."""
    pieces: list[Chunk | Literal] = []
    literal = bytearray()
    at = 0
    for part in parts:
        if isinstance(part.content, bytes):
            literal += part.content
        else:
            if literal:
                pieces.append(Literal(at - len(literal), bytes(literal)))
                literal.clear()
            pieces.append(Chunk(at, part.size, part.content))
        at += part.size
    if literal:
        pieces.append(Literal(at - len(literal), bytes(literal)))
    return tuple(pieces)
