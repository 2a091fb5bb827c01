"""Decide where to split a package: at the members of its zip, and large members by their content. Pure.

A package is rebuilt whenever a document changes. All headers, times and offsets then change, while the bytes of most
members do not: chunks that begin and end at members are found again wherever they have moved.
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

    from .buffered_reader import BufferedReader
    from .digest import Digest
    from .zips import Members

CHUNK_BYTES = 256 * 1024
"""A range of up to this size is one chunk; longer ranges are split into chunks of this average (measured: 252 KiB)."""

MIN_CHUNK_BYTES = CHUNK_BYTES // 2
MAX_CHUNK_BYTES = 2 * CHUNK_BYTES
"""Bounds of the chunks of a longer range. A chunk is verified before the next node of a chain gets its first byte, so
each node is later than the one before it by the time of the longest chunk."""

_AVERAGE_BYTES = CHUNK_BYTES - MIN_CHUNK_BYTES  # FastCDC adds this to the minimum
_FIRST_VIEW_BYTES = 3 * CHUNK_BYTES // 2  # contains the next cut in five of six cases

INLINE_BYTES = 128
"""A chunk takes as much space in the manifest as this many literal bytes, so shorter ranges become literals."""

MAX_GAP_BYTES = 64 * 1024
"""A longer gap between two members is data and not headers, and is chunked."""

MAX_DIRECTORY_BYTES = 4 * 1024 * 1024
"""A longer directory is chunked, and not contained in the manifest."""

MAX_INLINE_BYTES = 16 * 1024 * 1024
"""A zip that would put more literal bytes into its manifest is malicious, and is chunked as if it were no zip."""


class Cut(Enum):
    """How a region is split into pieces."""

    INLINE = "inline"  # into one literal
    CHUNKED = "chunked"  # into chunks; by content if it is longer than CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Region:
    """A range of a package and how it is split. `offset` and `size` in bytes."""

    offset: int
    size: int
    cut: Cut


def regions(members: Members | None, size: int) -> tuple[Region, ...]:
    """Divide [0, size) into regions, in order, without gap or overlap, also for a zip with false offsets.

    Members that overlap an earlier one or lie outside the file are ignored: their bytes belong to the gaps, and long
    gaps are chunked.
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
    """Join adjacent inline regions, so that there is one literal between two chunks."""
    for inline, run in groupby(found, key=lambda region: region.cut is Cut.INLINE):
        touching = list(run)
        if inline:
            yield Region(touching[0].offset, sum(region.size for region in touching), Cut.INLINE)
        else:
            yield from touching


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a region: the digest of a chunk, or the bytes of a literal."""

    size: int
    content: Digest | bytes


def cut_region(reader: BufferedReader, region: Region) -> tuple[Part, ...]:
    """Split one region into its pieces. The same bytes give the same pieces at any offset.

    Regions are independent of each other: several threads can split them, each with its own reader. Raises
    `PackageChanged` when the file ends early.
    """
    # A chunker per call, since it is not thread-safe.
    chunker = _chunker() if region.cut is Cut.CHUNKED and region.size > CHUNK_BYTES else None
    parts: list[Part] = []
    at, left = region.offset, region.size
    while left > 0:
        length = min(left, MAX_CHUNK_BYTES) if chunker is None else _cut(chunker, reader, at, left)
        if region.cut is Cut.CHUNKED and length > INLINE_BYTES:
            parts.append(Part(length, reader.digest(at, length)))
        else:
            parts.append(Part(length, bytes(reader.view(at, length))))
        at += length
        left -= length
    return tuple(parts)


def _chunker() -> FastCDC:
    return FastCDC(_AVERAGE_BYTES, min_size=MIN_CHUNK_BYTES, max_size=MAX_CHUNK_BYTES, normalized_chunking=0)


def _cut(chunker: FastCDC, reader: BufferedReader, offset: int, left: int) -> int:
    """Return the length of the next chunk of a long range.

    A cut before the end of the view does not depend on the bytes that follow; most are found in the first view.
    """
    most = min(left, MAX_CHUNK_BYTES)
    viewed = min(most, _FIRST_VIEW_BYTES)
    while True:
        length = next(iter(chunker.cut_buf(reader.view(offset, viewed)))).length
        if length < viewed or viewed == most:
            return length
        viewed = min(most, 2 * viewed)


def join(parts: Iterable[Part]) -> tuple[Chunk | Literal, ...]:
    """Return the pieces of a manifest: the parts of all regions in order, with adjacent literals joined."""
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
