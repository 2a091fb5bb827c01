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


class Schedule:
    """The ranges of a fill that were not requested yet. False when there are none."""

    def __init__(self, missing: Iterable[Chunk]) -> None:
        self._batches = list(plan_batches(missing))
        self._ranges = [_range_of(batch) for batch in self._batches]

    def __bool__(self) -> bool:
        return bool(self._batches)

    def take(self, waiting: Sequence[int]) -> tuple[Chunk, ...]:
        """Remove and return the chunks to request next, from the one that a client waits for. See `choose_range`."""
        index, first = choose_range(self._ranges, waiting)
        before = tuple(chunk for chunk in self._batches[index] if chunk.offset + chunk.size <= first)
        return self._cut(index, before)

    def take_end(self, size: int) -> tuple[Chunk, ...]:
        """Remove and return the last chunks: one, and adjacent ones up to `size` bytes; none if nothing is left."""
        if not self._batches:
            return ()
        batch = self._batches[-1]
        end = batch[-1].offset + batch[-1].size
        return self._cut(-1, tuple(chunk for chunk in batch[:-1] if end - chunk.offset > size))

    def _cut(self, index: int, before: tuple[Chunk, ...]) -> tuple[Chunk, ...]:
        """Remove a range, except its first chunks `before`, which are requested later."""
        batch = self._batches[index]
        if before:
            self._batches[index], self._ranges[index] = before, _range_of(before)
        else:
            del self._batches[index], self._ranges[index]
        return batch[len(before) :]


def _range_of(batch: tuple[Chunk, ...]) -> range:
    return range(batch[0].offset, batch[-1].offset + batch[-1].size)


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
