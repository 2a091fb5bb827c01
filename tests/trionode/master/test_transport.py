"""The rate limit of what is fetched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from trionode.master.transport import FetchPace
from trionode.settings import Settings
from trionode.token_bucket import BURST_SECONDS


@pytest.mark.parametrize("fetches", [1, 4])
async def test_all_fetches_together_keep_to_the_limit(autojump_clock: MockClock, fetches: int) -> None:
    rate, part, count = 1 << 20, 64 << 10, 160
    pace = FetchPace()
    pace.configure(replace(Settings(), sync_bytes_per_second=rate))
    began = trio.current_time()

    async def fetch() -> None:
        for _ in range(count // fetches):
            await pace.spend(part)

    async with trio.open_nursery() as nursery:
        for _ in range(fetches):
            nursery.start_soon(fetch)
    assert trio.current_time() - began == pytest.approx(count * part / rate - BURST_SECONDS)


async def test_the_limit_may_be_changed_and_removed_while_bytes_arrive(autojump_clock: MockClock) -> None:
    pace, began = FetchPace(), trio.current_time()
    await pace.spend(1 << 40)
    assert trio.current_time() == began
    pace.configure(replace(Settings(), sync_bytes_per_second=1000))
    await pace.spend(2000)
    assert trio.current_time() - began == pytest.approx(2 - BURST_SECONDS)
    pace.configure(Settings())
    await pace.spend(1 << 40)
    assert trio.current_time() - began == pytest.approx(2 - BURST_SECONDS)
