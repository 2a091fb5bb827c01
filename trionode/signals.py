"""A signal that can be waited for and given again and again: the one place where events are replaced."""

from __future__ import annotations

import trio

WAKE_AT_ONCE = 4
"""How many a signal wakes in one pass of the loop."""


class Signal:
    """Wakes everybody who waits at the moment it is given. A wait begun later waits for the next time.

    They are woken a few in each pass of the loop, in the order they came, since hundreds may wait: woken all at once
    they would hold the loop for long (200 requests that follow a fill: 20 ms at each of its chunks).

    No wake-up is lost if what is waited for is looked at first and then waited for without an await between.
    """

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()

    def give(self) -> None:
        """Wake all who wait. May be called from any task of the loop."""
        woken, self._waiting = self._waiting, trio.lowlevel.ParkingLot()
        woken.unpark(count=WAKE_AT_ONCE)

    async def wait(self) -> None:
        """Wait until the signal is next given."""
        waiting = self._waiting
        # Returns normally once it is woken, cancelled or not: so the next in line always hears of it.
        await waiting.park()
        waiting.unpark()


class Request:
    """Something wanted by anybody and done by one task: asked for any number of times, it is done once.

    Unlike a `Signal` it is remembered: asked for while nobody waits, the next wait returns at once.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def ask(self) -> None:
        """Ask. Asking again before it is taken changes nothing."""
        self._event.set()

    async def taken(self) -> None:
        """Wait until somebody asks, and take the request."""
        await self._event.wait()
        self._event = trio.Event()
