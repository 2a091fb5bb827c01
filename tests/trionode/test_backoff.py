"""Delays before a failed attempt is repeated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trionode.backoff import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, retry_seconds

fractions = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10**9), fractions, st.floats(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS))
def test_delays_grow_up_to_a_bound(failures: int, random: float, longest: float):
    assert 0 < retry_seconds(failures, random) <= MAX_RETRY_SECONDS
    assert retry_seconds(failures, random) <= retry_seconds(failures + 1, random)
    assert 0 < retry_seconds(failures, random, longest=longest) <= longest
    assert retry_seconds(1, random) <= FIRST_RETRY_SECONDS


@given(st.integers(1, 10), fractions)
def test_a_delay_has_half_of_its_length_as_jitter(failures: int, random: float):
    longest = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (failures - 1))
    assert longest / 2 <= retry_seconds(failures, random) <= longest
    assert retry_seconds(failures, 0.0) == longest / 2
