"""Group missing chunks into ranges, and choose the range to request next. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from store import Chunk

BATCH_BYTES = 2 << 20
"""Size limit of a range request. Smaller ranges leave the line idle between requests; larger ones delay the bytes that
a client waits for."""

GAP_BYTES = 1 << 10
"""Chunks with at most this gap between them count as adjacent. The gap between two documents is zip headers, which the
manifest contains; fetching them again costs less than a request."""

AHEAD_BYTES = 4 << 20
"""Ranges up to this far ahead of a waiting client are preferred, so that its next bytes arrive in time."""


def plan_batches(missing: Iterable[Chunk]) -> Iterator[tuple[Chunk, ...]]:
    """Group chunks (in package order) that are adjacent, or nearly, into requests of up to `BATCH_BYTES`."""
    batch: list[Chunk] = []
    for chunk in missing:
        if batch:
            adjacent = chunk.offset - (batch[-1].offset + batch[-1].size) <= GAP_BYTES
            if not adjacent or chunk.offset + chunk.size - batch[0].offset > BATCH_BYTES:
                yield tuple(batch)
                batch = []
        batch.append(chunk)
    if batch:
        yield tuple(batch)


def choose_range(remaining: Sequence[range], waiting: Sequence[int]) -> tuple[int, int]:
    """Return the index of the range to request next, and the offset in it from which its bytes are needed first.

    `remaining` (not empty) are the ranges not requested yet, in package order; `waiting` the offsets at which clients
    wait, the longest wait first. Ranges with these offsets are preferred, then ranges that follow them within
    `AHEAD_BYTES`, then the first one. A range that is not in `remaining` has been requested.
    """
    following = [(offset, bisect_right(remaining, offset, key=lambda part: part.stop)) for offset in waiting]
    found = [(offset, index) for offset, index in following if index < len(remaining)]
    for offset, index in found:
        if remaining[index].start <= offset:
            return index, offset
    for offset, index in found:
        if remaining[index].start < offset + AHEAD_BYTES:
            return index, remaining[index].start
    return 0, remaining[0].start
