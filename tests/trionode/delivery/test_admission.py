"""Permits for downloads and the queue for them: order, limits, and counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trionode.delivery.admission import (
    MAX_WINDOW_BYTES,
    MIN_WINDOW_BYTES,
    READ_AHEAD_BYTES,
    Downloads,
    Outcome,
    Permit,
)
from trionode.errors import AtCapacity
from trionode.settings import Settings


def ignore() -> None:
    pass


def limited_to(limit: int) -> Downloads:
    downloads = Downloads(on_full=ignore)
    downloads.configure(Settings(max_downloads=limit))
    return downloads


@given(st.integers(0, 4), st.lists(st.one_of(st.just("request"), st.integers(0, 20)), max_size=80))
def test_permits_are_given_in_order_and_none_is_lost(limit: int, steps: list[str | int]):
    downloads = limited_to(limit)
    mine: list[Permit] = []
    admitted_later: list[int] = []
    requested = 0
    for step in steps:
        if step == "request":
            number, requested = requested, requested + 1
            queued = [permit for permit in mine if not permit.admitted]
            try:
                mine.append(downloads.request_permit(str(number), lambda number=number: admitted_later.append(number)))
            except AtCapacity:
                assert len(queued) >= limit > 0
        elif mine:
            assert isinstance(step, int)
            permit = mine.pop(step % len(mine))
            downloads.release(permit)
            downloads.release(permit)
        admitted = [permit for permit in mine if permit.admitted]
        queued = [permit for permit in mine if not permit.admitted]
        assert downloads.active == len(admitted)
        assert downloads.queued == len(queued)
        assert sum(downloads.sending.values()) == len(admitted)
        assert not limit or len(admitted) <= limit
        assert not queued or len(admitted) == limit, "no download is queued while a permit is free"
        assert admitted_later == sorted(admitted_later), "first come, first served"
    for permit in mine:
        downloads.release(permit)
    assert (downloads.active, downloads.queued, dict(downloads.sending)) == (0, 0, {})


def test_the_owner_is_told_when_the_last_permit_is_taken():
    told: list[int] = []
    downloads = Downloads(on_full=lambda: told.append(downloads.active))
    downloads.configure(Settings(max_downloads=2))
    for _ in range(2):
        downloads.request_permit(None, ignore)
    assert told == [2]
    downloads.configure(Settings(max_downloads=3))
    downloads.request_permit(None, ignore)
    assert told == [2, 3]


def test_a_higher_limit_admits_queued_downloads_at_once():
    downloads = limited_to(1)
    first = downloads.request_permit("a", ignore)
    admitted: list[str] = []
    queued = downloads.request_permit("b", lambda: admitted.append("b"))
    downloads.configure(Settings(max_downloads=2))
    assert (first.admitted, queued.admitted, admitted) == (True, True, ["b"])
    assert downloads.sending == {"a": 1, "b": 1}


def test_a_lower_limit_lets_active_downloads_continue_and_admits_no_more():
    downloads = limited_to(3)
    active = [downloads.request_permit(None, ignore) for _ in range(3)]
    downloads.configure(Settings(max_downloads=1))
    queued = downloads.request_permit(None, ignore)
    for permit in active[:2]:
        downloads.release(permit)
        assert (downloads.active, queued.admitted) == (3 - active.index(permit) - 1, False)
    downloads.release(active[2])
    assert (downloads.active, queued.admitted) == (1, True)


def test_the_limits_of_the_settings_are_applied():
    downloads = Downloads(on_full=ignore)
    downloads.configure(Settings(max_downloads=7, queue_seconds=1.5, total_bytes_per_second=1_000_000))
    assert (downloads.limit, downloads.queue_seconds) == (7, 1.5)
    assert downloads.span_bytes(4 << 20) == 100_000
    downloads.configure(Settings(client_bytes_per_second=2_000_000))
    assert downloads.span_bytes(4 << 20) == 200_000
    downloads.configure(Settings())
    assert downloads.span_bytes(4 << 20) == 4 << 20


@pytest.mark.parametrize("active", [0, 1, 24, 100, 500, 5000])
def test_the_reads_of_all_downloads_together_are_bounded(active: int):
    downloads = limited_to(0)
    for _ in range(active):
        downloads.request_permit(None, ignore)
    window = downloads.window_bytes()
    assert MIN_WINDOW_BYTES <= window <= MAX_WINDOW_BYTES
    assert window == MIN_WINDOW_BYTES or window * active <= READ_AHEAD_BYTES


def test_every_outcome_is_counted_and_only_complete_downloads_have_a_duration():
    downloads = limited_to(0)
    for outcome in Outcome:
        downloads.count_end(outcome, 2.0, 0.5)
    downloads.count_end(Outcome.REFUSED, 2.0, None)
    assert (downloads.finished, downloads.broken_off) == (1, 2)
    assert downloads.outcomes[Outcome.REFUSED] == 2
    assert (sum(downloads.duration.counts), downloads.duration.total) == (1, 2.0)
    assert (sum(downloads.first_byte.counts), downloads.first_byte.total) == (4, 2.0)
