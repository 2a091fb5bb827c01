from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.range_set import RangeSet


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=20))
def test_against_a_bitmap(added):
    ranges = RangeSet()
    there = bytearray(100)
    for start, size in added:
        ranges.add(start, start + size)
        there[start : start + size] = b"\1" * size
        for offset in range(100):
            end = there.find(b"\0", offset)
            assert ranges.covered(offset) == (end if end >= 0 else 100) - offset
