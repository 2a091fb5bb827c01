"""Limits of bandwidth and places among the downloads: properties, and simulations in a time of their own."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count, pairwise

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from trionode.delivery.admission import Downloads, Outcome, Place
from trionode.delivery.download import Asked, Download
from trionode.delivery.limits import BURST_SECONDS, MANY_CLIENTS, SMALLEST_SPAN_BYTES, Bucket, Limits
from trionode.errors import AtCapacity

RATE = 1_000_000


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 300_000)), min_size=1, max_size=40))
@example([(0.0, 250_000), (0.0, 1), (2.0, 250_000), (0.0, 250_000)])
def test_no_span_of_time_sees_more_than_the_rate_and_a_burst(bookings: list[tuple[float, int]]):
    bucket, now = Bucket(RATE), 0.0
    went: list[tuple[float, int]] = []
    for pause, size in bookings:
        now += pause
        went.append((now + bucket.book(size, now), size))
    largest = max(size for _, size in bookings)
    for first, (begin, _) in enumerate(went):
        total = 0
        for end, size in went[first:]:
            total += size
            assert total <= RATE * (end - begin + BURST_SECONDS) + largest + 1


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_what_is_given_back_costs_those_who_come_next_nothing(sizes: list[int], kept: list[bool]):
    bucket, only_kept = Bucket(RATE), Bucket(RATE)
    for size, keep in zip(sizes, kept, strict=False):
        bucket.book(size, 0.0)
        if keep:
            only_kept.book(size, 0.0)
        else:
            bucket.give_back(size)
    assert bucket.book(1, 0.0) == pytest.approx(only_kept.book(1, 0.0))


def simulate(limits: Limits, clients: list[str], seconds: float) -> list[list[tuple[float, int]]]:
    """Let one greedy download of each client go; return when each sent how much."""
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
        at = now + limits.book(clients[number], size, now).seconds
        sent[number].append((at, size))
        heappush(ready, (at, next(order), number))
    return sent


@pytest.mark.parametrize("downloads", [1, 2, 7, 64, 500])
def test_a_limit_for_all_is_shared_in_turn(downloads: int):
    rate, seconds = 20_000_000, 10.0
    sent = simulate(Limits(total_rate=rate), [f"c{n}" for n in range(downloads)], seconds)
    totals = [sum(size for at, size in one if at <= seconds) for one in sent]
    assert rate * seconds * 0.95 <= sum(totals) <= rate * (seconds + BURST_SECONDS) + 4 * SMALLEST_SPAN_BYTES
    step = max(SMALLEST_SPAN_BYTES, rate // downloads // 10)
    assert max(totals) - min(totals) <= 3 * step
    # Smoothly: nobody waits for much longer than a round takes.
    waits = [b - a for one in sent for (a, _), (b, _) in pairwise(one)]
    assert max(waits) <= 2 * max(0.1, downloads * SMALLEST_SPAN_BYTES / rate) + BURST_SECONDS


def test_each_client_has_its_own_limit_however_many_downloads_it_has():
    sent = simulate(Limits(client_rate=RATE), ["a", "b", "b", "b", "b"], 10.0)
    a, *b = (sum(size for at, size in one if at <= 10.0) for one in sent)
    assert a == pytest.approx(10 * RATE, rel=0.1)
    assert sum(b) == pytest.approx(10 * RATE, rel=0.1)


def test_both_limits_hold_together():
    sent = simulate(Limits(client_rate=RATE, total_rate=3 * RATE), list("abcdef"), 10.0)
    totals = [sum(size for at, size in one if at <= 10.0) for one in sent]
    assert sum(totals) == pytest.approx(30 * RATE, rel=0.1)
    assert max(totals) <= 1.3 * min(totals)


def test_clients_that_are_idle_are_forgotten():
    limits = Limits(client_rate=RATE)
    for number in range(20 * MANY_CLIENTS):
        limits.book(f"client-{number}", 1000, now=number / 100)
    assert len(limits._clients) <= 2 * MANY_CLIENTS


def test_limits_can_change_while_downloads_go_on():
    limits = Limits()
    assert limits.book("a", 1 << 40, 0.0).seconds == 0.0
    limits.change(RATE, 0)
    assert limits.book("a", 2 * RATE, 0.0).seconds == pytest.approx(2 - BURST_SECONDS)
    limits.change(0, RATE)
    assert limits.book("a", 2 * RATE, 0.0).seconds == pytest.approx(2 - BURST_SECONDS)
    limits.change(0, 0)
    assert limits.book("a", 1 << 40, 0.0).seconds == 0.0


# -- Places


@given(st.integers(0, 4), st.lists(st.one_of(st.just("arrive"), st.integers(0, 20)), max_size=80))
def test_places_are_given_in_order_and_none_is_lost(limit: int, steps: list[str | int]):
    downloads = Downloads(limit)
    mine: list[Place] = []
    awake: list[int] = []
    arrived = 0
    for step in steps:
        if step == "arrive":
            number, arrived = arrived, arrived + 1
            waiting = [place for place in mine if not place.admitted]
            try:
                mine.append(downloads.arrive(str(number), lambda number=number: awake.append(number)))
            except AtCapacity:
                assert len(waiting) >= limit > 0
        elif mine:
            assert isinstance(step, int)
            place = mine.pop(step % len(mine))
            downloads.release(place)
            downloads.release(place)
        admitted = [place for place in mine if place.admitted]
        waiting = [place for place in mine if not place.admitted]
        assert downloads.active == len(admitted)
        assert downloads.queued == len(waiting)
        assert sum(downloads.sending.values()) == len(admitted)
        assert not limit or len(admitted) <= limit
        assert not waiting or len(admitted) == limit, "nobody waits beside a free place"
        assert awake == sorted(awake), "first come, first served"
    for place in mine:
        downloads.release(place)
    assert (downloads.active, downloads.queued, dict(downloads.sending)) == (0, 0, {})


def test_the_master_hears_when_the_last_place_is_taken():
    downloads = Downloads(2)
    told: list[int] = []
    downloads.on_full = lambda: told.append(downloads.active)
    places = [downloads.arrive(None, lambda: None) for _ in range(2)]
    assert told == [2]
    downloads.set_limit(3)
    places.append(downloads.arrive(None, lambda: None))
    assert told == [2, 3]


def asked(number: int = 0) -> Asked:
    return Asked(f"m{number}", "ab" * 32, "127.0.0.1", None, trio.current_time())


async def test_who_waits_too_long_is_refused_and_others_move_up(autojump_clock: trio.testing.MockClock):
    downloads = Downloads(1)
    first = Download(downloads, asked())
    await first.admitted(4)
    began = trio.current_time()
    late = Download(downloads, asked())
    with pytest.raises(AtCapacity):
        await late.admitted(4)
    assert trio.current_time() - began == pytest.approx(4)
    late.close()
    second = Download(downloads, asked())
    with pytest.raises(AtCapacity):
        Download(downloads, asked())  # the queue is full
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.admitted, 4)
        await trio.sleep(1)
        first.close()
    assert downloads.active == 1
    second.close()
    assert (downloads.active, downloads.queued) == (0, 0)
    assert downloads.outcomes == {Outcome.REFUSED: 2, Outcome.LEFT: 2}


async def test_who_leaves_the_queue_leaves_nothing_there(autojump_clock: trio.testing.MockClock):
    downloads = Downloads(1)
    first = Download(downloads, asked())
    waiting = Download(downloads, asked())
    with trio.move_on_after(1):
        await waiting.admitted(4)
    waiting.close()
    assert (downloads.active, downloads.queued) == (1, 0)
    first.close()
    assert downloads.active == 0
