"""Range headers, against a naive model."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from master_shim.protocol.ranges import GAP_BYTES, MAX_RANGES, parse_ranges


def naive_one(size: int, first: int | None, last: int | None) -> set[int] | None:
    """Return the requested offsets of one range, or None if its last byte is before the first."""
    every = range(size)
    if first is None:
        assert last is not None
        return set(every[max(size - last, 0) :])
    if last is not None and last < first:
        return None
    return {n for n in every if n >= first and (last is None or n <= last)}


def written(first: int | None, last: int | None) -> str:
    return f"{'' if first is None else first}-{'' if last is None else last}"


numbers = st.one_of(st.integers(0, 60), st.integers(0, 2000), st.integers(0, 10**25))
specs = st.one_of(
    st.tuples(numbers, st.one_of(st.none(), numbers)),
    st.tuples(st.none(), numbers),
)


@given(st.integers(0, 50), specs)
@example(10, (10**22, 10**21))
@example(0, (0, None))
@example(10, (None, 0))
def test_a_range_is_what_a_naive_model_says(size: int, spec: tuple[int | None, int | None]) -> None:
    parsed = parse_ranges(f"bytes={written(*spec)}", size)
    wanted = naive_one(size, *spec)
    if wanted is None:
        assert parsed is None
    else:
        assert parsed is not None
        assert [set(part) for part in parsed] == ([wanted] if wanted else [])


@given(st.integers(0, 2000), st.lists(specs, min_size=1, max_size=12))
@example(2000, [(0, 0), (1000, 1000), (None, 1)])
@example(2000, [(1500, None), (0, 10), (1400, 1600)])
def test_several_ranges_are_what_a_naive_model_says(size: int, requested: list[tuple[int | None, int | None]]) -> None:
    parsed = parse_ranges("bytes=" + ",".join(written(*spec) for spec in requested), size)
    each = [naive_one(size, *spec) for spec in requested]
    wanted = set().union(*(positions or () for positions in each))
    if parsed is None:
        assert None in each
        return
    assert None not in each
    sent = [n for part in parsed for n in part]
    assert len(sent) == len(set(sent)), "no byte is sent twice"
    assert wanted <= set(sent)
    # Only gaps too small to be worth another part are sent unrequested.
    runs = sorted(parsed, key=lambda part: part.start)
    assert all(after.start - before.stop > GAP_BYTES for before, after in pairwise(runs))
    assert all({part.start, part.stop - 1} <= wanted for part in parsed)
    for run in runs:
        inside = sorted(wanted.intersection(run))
        assert all(after - before <= GAP_BYTES + 1 for before, after in pairwise(inside))
    # In request order: each part at the position of the first range in it.
    firsts = [min(i for i, positions in enumerate(each) if positions and positions <= set(part)) for part in parsed]
    assert firsts == sorted(firsts)


def test_leading_zeros_do_not_change_a_number() -> None:
    assert parse_ranges(f"bytes={'0' * 5000}5-{'0' * 5000}9", 100) == (range(5, 10),)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (",".join(["0-0"] * MAX_RANGES), (range(1),)),
        (",".join(["0-0"] * (MAX_RANGES + 1)), None),
        ("," * 100_000, None),
        (",,0-1,,", (range(2),)),
        ("", None),
        (",", None),
        ("0-1,200-", (range(2),)),
        ("200-,300-", ()),
        ("-0,200-", ()),
        ("0-1,x", None),
        ("0-1,9-8", None),
        ("0-,0-,-100", (range(100),)),
    ],
)
def test_lists_of_ranges(text: str, wanted: tuple[range, ...] | None) -> None:
    assert parse_ranges(f"bytes={text}", 100) == wanted


@given(st.text(max_size=30))
@example("bytes=-")
@example("bytes=１-２")
@example("lines=0-1")
@example("bytes=0-1, bytes=5-6")
def test_any_other_range_is_ignored(text: str) -> None:
    one = r"[ \t]*(?:[0-9]+-[0-9]*|-[0-9]+)?[ \t]*"
    if re.fullmatch(rf"[ \t]*bytes[ \t]*={one}(?:,{one})*", text, re.ASCII | re.IGNORECASE) is None:
        assert parse_ranges(text, 50) is None
