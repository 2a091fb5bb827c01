"""Which range of a package is requested next, and how missing chunks are grouped into ranges."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from store import Chunk, Digest
from trionode.fetch.scheduler import AHEAD_BYTES, BATCH_BYTES, GAP_BYTES, choose_range, plan_batches

MIB = 1 << 20
NO_DIGEST = Digest("00" * 32)


@given(
    st.lists(st.integers(1, 3 * MIB), min_size=1, max_size=30),
    st.lists(st.integers(0, 30), max_size=30),
    st.lists(st.integers(0, 60 * MIB), max_size=8),
)
@example([MIB] * 30, [], [29 * MIB, 0])
def test_the_next_range_is_the_one_that_a_naive_search_finds(
    sizes: list[int], requested: list[int], waiting: list[int]
):
    remaining, at = [], 0
    for number, size in enumerate(sizes):
        if number not in requested:
            remaining.append(range(at, at + size))
        at += size
    if not remaining:
        return
    index, first = choose_range(remaining, waiting)
    assert first in remaining[index]
    for offset in waiting:
        containing = [i for i, part in enumerate(remaining) if offset in part]
        if containing:
            assert (index, first) == (containing[0], offset)
            return
    for offset in waiting:
        following = [i for i, part in enumerate(remaining) if offset < part.start < offset + AHEAD_BYTES]
        if following:
            assert index == following[0]
            return
    assert index == 0


GAPS = st.just(0) | st.integers(0, 2 * GAP_BYTES) | st.integers(0, 1 << 30)


@given(st.lists(st.tuples(GAPS, st.integers(1, 3 << 20) | st.integers(1, 40_000)), max_size=40))
def test_batches_are_adjacent_bounded_and_lose_nothing(gaps_and_sizes: list[tuple[int, int]]):
    chunks: list[Chunk] = []
    offset = 0
    for gap, size in gaps_and_sizes:
        offset += gap
        chunks.append(Chunk(offset, size, NO_DIGEST))
        offset += size
    batches = list(plan_batches(chunks))
    assert [chunk for batch in batches for chunk in batch] == chunks
    for batch in batches:
        assert all(b.offset - (a.offset + a.size) <= GAP_BYTES for a, b in pairwise(batch))
        assert len(batch) == 1 or batch[-1].offset + batch[-1].size - batch[0].offset <= BATCH_BYTES
    for batch, after in pairwise(batches):
        # The next batch could not have been requested together with this one.
        too_far = after[0].offset - (batch[-1].offset + batch[-1].size) > GAP_BYTES
        assert too_far or after[0].offset + after[0].size - batch[0].offset > BATCH_BYTES
