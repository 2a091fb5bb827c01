"""Rate limits: properties of the token buckets, and simulations in virtual time."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trionode.delivery.rate_limit import MANY_CLIENTS, SMALLEST_SPAN_BYTES, RateLimits
from trionode.token_bucket import BURST_SECONDS, Bucket

RATE = 1_000_000


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 300_000)), min_size=1, max_size=40))
@example([(0.0, 250_000), (0.0, 1), (2.0, 250_000), (0.0, 250_000)])
def test_no_period_has_more_than_its_rate_and_a_burst(reservations: list[tuple[float, int]]):
    bucket, now = Bucket(RATE), 0.0
    granted: list[tuple[float, int]] = []
    for pause, size in reservations:
        now += pause
        granted.append((now + bucket.reserve(size, now), size))
    largest = max(size for _, size in reservations)
    for first, (begin, _) in enumerate(granted):
        total = 0
        for end, size in granted[first:]:
            total += size
            assert total <= RATE * (end - begin + BURST_SECONDS) + largest + 1


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_a_cancelled_reservation_does_not_delay_later_ones(sizes: list[int], kept: list[bool]):
    bucket, only_kept = Bucket(RATE), Bucket(RATE)
    for size, keep in zip(sizes, kept, strict=False):
        bucket.reserve(size, 0.0)
        if keep:
            only_kept.reserve(size, 0.0)
        else:
            bucket.cancel(size)
    assert bucket.reserve(1, 0.0) == pytest.approx(only_kept.reserve(1, 0.0))


def simulate(limits: RateLimits, clients: list[str], seconds: float) -> list[list[tuple[float, int]]]:
    """Run one download of each client that sends as fast as it may; return the times and sizes of what each sent."""
    sent: list[list[tuple[float, int]]] = [[] for _ in clients]
    order = count()
    ready: list[tuple[float, int, int]] = []
    for number in range(len(clients)):
        heappush(ready, (0.0, next(order), number))
    while ready:
        now, _, number = heappop(ready)
        if now > seconds:
            continue
        size = min(4 << 20, limits.span_bytes(len(clients)))
        at = now + limits.reserve(clients[number], size, now).seconds
        sent[number].append((at, size))
        heappush(ready, (at, next(order), number))
    return sent


@pytest.mark.parametrize("downloads", [1, 2, 7, 64, 500])
def test_the_total_limit_is_shared_equally(downloads: int):
    rate, seconds = 20_000_000, 10.0
    sent = simulate(RateLimits(total_rate=rate), [f"c{n}" for n in range(downloads)], seconds)
    totals = [sum(size for at, size in one if at <= seconds) for one in sent]
    assert rate * seconds * 0.95 <= sum(totals) <= rate * (seconds + BURST_SECONDS) + 4 * SMALLEST_SPAN_BYTES
    step = max(SMALLEST_SPAN_BYTES, rate // downloads // 10)
    assert max(totals) - min(totals) <= 3 * step
    # No download waits for much longer than a round of all takes.
    waits = [b - a for one in sent for (a, _), (b, _) in pairwise(one)]
    assert max(waits) <= 2 * max(0.1, downloads * SMALLEST_SPAN_BYTES / rate) + BURST_SECONDS


def test_a_client_has_one_limit_for_all_its_downloads():
    sent = simulate(RateLimits(client_rate=RATE), ["a", "b", "b", "b", "b"], 10.0)
    a, *b = (sum(size for at, size in one if at <= 10.0) for one in sent)
    assert a == pytest.approx(10 * RATE, rel=0.1)
    assert sum(b) == pytest.approx(10 * RATE, rel=0.1)


def test_both_limits_hold_together():
    sent = simulate(RateLimits(client_rate=RATE, total_rate=3 * RATE), list("abcdef"), 10.0)
    totals = [sum(size for at, size in one if at <= 10.0) for one in sent]
    assert sum(totals) == pytest.approx(30 * RATE, rel=0.1)
    assert max(totals) <= 1.3 * min(totals)


def test_the_buckets_of_idle_clients_are_removed():
    limits = RateLimits(client_rate=RATE)
    for number in range(20 * MANY_CLIENTS):
        limits.reserve(f"client-{number}", 1000, now=number / 100)
    assert len(limits._clients) <= 2 * MANY_CLIENTS


def test_limits_may_change_during_downloads():
    limits = RateLimits()
    assert limits.reserve("a", 1 << 40, 0.0).seconds == 0.0
    limits.change(RATE, 0)
    assert limits.reserve("a", 2 * RATE, 0.0).seconds == pytest.approx(2 - BURST_SECONDS)
    limits.change(0, RATE)
    assert limits.reserve("a", 2 * RATE, 0.0).seconds == pytest.approx(2 - BURST_SECONDS)
    limits.change(0, 0)
    assert limits.reserve("a", 1 << 40, 0.0).seconds == 0.0
