"""Background tasks: one that crashes is restarted, and one that keeps crashing fails the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import structlog
import trio

from store import ReadStopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RESTART_SECONDS = 1.0
"""Delay between the crash of a task and its restart."""

MAX_CRASHES = 5
CRASH_WINDOW_SECONDS = 60.0
"""A task that crashes `MAX_CRASHES` times within this window is not restarted."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_log = structlog.get_logger("trionode.node")


async def read_in_thread(
    call: Callable[[Unpack[Arguments]], T], *arguments: *Arguments, limiter: trio.CapacityLimiter | None = None
) -> T:
    """Make a store call that may read whole packages, in a worker thread.

    When the node stops, the store ends the call (`Store.stop_reading`), and this waits to be cancelled: nothing is
    known about the package, and nobody should act on it.
    """
    try:
        return await trio.to_thread.run_sync(call, *arguments, limiter=limiter)
    except ReadStopped:
        await trio.sleep_forever()


async def supervise(name: str, task: Callable[[], Awaitable[None]]) -> None:
    """Run an endless task; restart it when it crashes. Raises its last exception if it keeps crashing."""
    crashes: list[float] = []
    while True:
        try:
            await task()
        except Exception:
            now = trio.current_time()
            crashes = [at for at in crashes if now - at < CRASH_WINDOW_SECONDS] + [now]
            _log.exception("a background task crashed", task=name, crashes=len(crashes))
            if len(crashes) >= MAX_CRASHES:
                raise
            await trio.sleep(RESTART_SECONDS)
        else:
            raise AssertionError(f"the background task {name!r} returned; it must run until cancelled")
