"""Which range of a package is requested next, and how missing chunks are grouped into ranges."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from store import Chunk, Digest
from trionode.fetch.scheduler import AHEAD_BYTES, BATCH_BYTES, GAP_BYTES, Schedule, choose_range, plan_batches

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


@given(
    st.lists(st.tuples(st.integers(1, MIB), st.integers(0, 2 * GAP_BYTES)), min_size=1, max_size=30),
    st.lists(st.one_of(st.integers(1, 2 * MIB), st.lists(st.integers(0, 30 * MIB), max_size=3)), max_size=60),
)
def test_each_chunk_is_taken_once_and_the_end_only_for_trials(
    sizes: list[tuple[int, int]], steps: list[int | list[int]]
):
    chunks, at = [], 0
    for size, gap in sizes:
        chunks.append(Chunk(at, size, NO_DIGEST))
        at += size + gap
    schedule, left = Schedule(chunks), list(chunks)
    for step in [*steps, *[[0]] * len(chunks)]:
        if not left:
            assert not schedule
            assert schedule.take_end(1) == ()
            return
        if isinstance(step, int):
            taken = schedule.take_end(step)
            assert taken == tuple(left[-len(taken) :])
            assert len(taken) == 1 or left[-1].offset + left[-1].size - taken[0].offset <= step
        else:
            taken = schedule.take(step)
            start = left.index(taken[0])
            assert tuple(left[start : start + len(taken)]) == taken
        for chunk in taken:
            left.remove(chunk)
    assert not left
