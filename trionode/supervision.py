"""Background tasks: one that crashes is started again, and one that goes on crashing is not hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RESTART_SECONDS = 1.0
"""Between a crash of a task and its next start."""

MAX_CRASHES = 5
CRASH_WINDOW_SECONDS = 60.0
"""A task that crashes this often within this time will crash again: the node fails, in sight of everybody."""

_log = structlog.get_logger("trionode.node")


async def supervise(name: str, task: Callable[[], Awaitable[None]]) -> None:
    """Run a task that has no end; start it again when it crashes, and raise what it raised when it keeps crashing."""
    crashes: list[float] = []
    while True:
        try:
            await task()
        except Exception:
            now = trio.current_time()
            crashes = [at for at in crashes if now - at < CRASH_WINDOW_SECONDS] + [now]
            _log.exception("a task has crashed", task=name, crashes=len(crashes))
            if len(crashes) >= MAX_CRASHES:
                raise
            await trio.sleep(RESTART_SECONDS)
        else:
            raise AssertionError(f"the task {name!r} has no end, and ended")
