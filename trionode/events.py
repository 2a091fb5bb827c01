"""Two reusable events: a broadcast, and an auto-reset event with one waiter."""

from __future__ import annotations

import trio

WAKE_AT_ONCE = 4
"""Waiters woken in one pass of the event loop. Waking 200 followers of a fill at once blocked it for 20 ms."""


class Broadcast:
    """Wakes every task that is waiting when `notify` is called. Nothing is remembered for later waits.

    Waiters are woken in FIFO order, a few in each pass of the event loop. No wake-up is lost if the condition is
    checked before waiting, without an await between the two.
    """

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()

    def notify(self) -> None:
        """Wake all waiters. May be called from any task of the loop."""
        woken, self._waiting = self._waiting, trio.lowlevel.ParkingLot()
        woken.unpark(count=WAKE_AT_ONCE)

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        waiting = self._waiting
        # A task that was unparked returns normally from `park`, even if it is cancelled then, and wakes the next.
        await waiting.park()
        waiting.unpark()


class AutoResetEvent:
    """An auto-reset event with one waiter: `set` is remembered until the next `wait`, which clears it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Set the event. Setting it again before it is waited for changes nothing."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the event is set, and clear it."""
        await self._event.wait()
        self._event = trio.Event()
