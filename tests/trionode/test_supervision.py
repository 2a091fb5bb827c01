"""Background tasks that crash or return, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from trionode.supervision import CRASH_WINDOW_SECONDS, MAX_CRASHES, RESTART_SECONDS, supervise

if TYPE_CHECKING:
    from trio.testing import MockClock


class Crashing:
    """A task that crashes after `seconds`, `times` times, and then runs until cancelled."""

    def __init__(self, times: int, seconds: float) -> None:
        self.starts = 0
        self._times, self._seconds = times, seconds

    async def run(self) -> None:
        self.starts += 1
        await trio.sleep(self._seconds)
        if self.starts <= self._times:
            raise OSError(f"crash {self.starts}")
        await trio.sleep_forever()


async def test_the_last_crash_of_a_task_that_keeps_crashing_is_raised(autojump_clock: MockClock):
    task = Crashing(1000, 0.0)
    began = trio.current_time()
    with pytest.raises(OSError, match=f"crash {MAX_CRASHES}"):
        await supervise("task", task.run)
    assert task.starts == MAX_CRASHES
    assert trio.current_time() - began == (MAX_CRASHES - 1) * RESTART_SECONDS


async def test_a_task_that_crashes_now_and_then_is_restarted_each_time(autojump_clock: MockClock):
    task = Crashing(100, CRASH_WINDOW_SECONDS / (MAX_CRASHES - 1))
    with trio.move_on_after(10_000):
        await supervise("task", task.run)
    assert task.starts == 101


async def test_a_task_that_returns_is_a_bug():
    with pytest.raises(AssertionError, match="the background task 'short' returned"):
        await supervise("short", trio.lowlevel.checkpoint)
