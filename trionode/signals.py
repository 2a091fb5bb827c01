"""A signal that can be waited for and given again and again: the one place where events are replaced."""

from __future__ import annotations

import trio


class Signal:
    """Wakes everybody who waits at the moment it is given. A wait begun later waits for the next time.

    No wake-up is lost if what is waited for is looked at first and then waited for without an await between.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def give(self) -> None:
        """Wake all who wait. May be called from any task of the loop."""
        event, self._event = self._event, trio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait until the signal is next given."""
        await self._event.wait()


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
