"""Notices that the machine has slept: no timer of the process has run meanwhile, and its connections are of no use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHECK_SECONDS = 1.0
"""Interval between two looks at the clocks. It begins before the sleep and ends after it."""

SLEPT_SECONDS = 5.0
"""A shorter sleep is no reason to do anything: a heartbeat and a poll follow within this time anyway."""

_log = structlog.get_logger("trionode.heartbeat")


def seconds_asleep() -> float:
    """Return how long the machine has slept since it was started: only one of the clocks goes on meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch_sleep(woke: Callable[[], Awaitable[None]], asleep: Callable[[], float] = seconds_asleep) -> None:
    """Call `woke` after every sleep, until cancelled. `asleep` returns the seconds slept since any fixed moment."""
    before = asleep()
    while True:
        await trio.sleep(CHECK_SECONDS)
        now = asleep()
        slept, before = now - before, now
        if slept >= SLEPT_SECONDS:
            _log.info("the machine has slept; the master is asked now", seconds=round(slept))
            await woke()
