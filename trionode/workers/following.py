"""What a process that does not lead does: hears from the leader what is current, and reports what it does itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog
import trio

from ..errors import OriginError, OriginUnreachable
from ..signals import Signal
from .channel import Channel, connect
from .wire import Board, Draining, FromLeader, Here, LookAsked, Looked, Reloading, Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import msgspec

    from ..metrics import Sample
    from .meetings import SharedMeetings
    from .wire import Facts

REPORT_SECONDS = 0.1
"""How often the leader hears what is done here, when that has changed."""

_log = structlog.get_logger("trionode.workers")


class Membership:
    """This process's end of the connection to the leader; a `meetings.Link`."""

    def __init__(
        self,
        storage: Path,
        meetings: SharedMeetings,
        counts: Callable[[], Sample],
        take_tickets: Callable[[], list[str]],
        take_facts: Callable[[Facts], None],
        order: Callable[[Draining | Reloading], None],
    ) -> None:
        self._storage = storage
        self._meetings = meetings
        self._counts = counts
        self._take_tickets = take_tickets
        self._take_facts = take_facts
        self._order = order
        self._up = False
        self._changed = Signal()
        self._outbox: list[msgspec.Struct] = []
        self._numbers = 0
        self._looks: dict[int, _Look] = {}

    # -- `meetings.Link`

    async def up(self) -> None:
        """Wait until there is a leader that listens, or this process leads."""
        while not self._up and not self._meetings.leading:
            await self._changed.wait()

    async def look(self, younger_than: float) -> bool:
        """Have the leader look at the master; false when the leader ended meanwhile."""
        self._numbers += 1
        look = self._looks[self._numbers] = _Look()
        self.tell(LookAsked(self._numbers, younger_than))
        await look.over.wait()
        if look.error is not None:
            raise look.error
        return look.answered

    def tell(self, message: msgspec.Struct) -> None:
        """Tell the leader something, now or as soon as there is one."""
        self._outbox.append(message)
        self._changed.give()

    # -- The connection

    async def follow(self) -> bool:
        """Follow the leader until it has ended; false at once when there is none to connect to."""
        try:
            stream = await connect(self._storage)
        except OSError:
            return False
        channel: Channel[FromLeader] = Channel(stream, FromLeader)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, channel)
                async for message in channel.messages():
                    await self._heed(message)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended
        finally:
            self._up = False
            with trio.CancelScope(shield=True):
                await channel.aclose()
            self._meetings.leader_lost()
            self.settle()
        return True

    def settle(self) -> None:
        """Let those who wait for the leader look again: it has ended, or this process leads."""
        # A look that was not answered is asked again, of whoever leads then.
        self._outbox = [message for message in self._outbox if not isinstance(message, LookAsked)]
        looks, self._looks = self._looks, {}
        for look in looks.values():
            look.over.set()
        self._changed.give()

    async def _heed(self, message: FromLeader) -> None:
        match message:
            case Board():
                await self._meetings.take(message)
                self._take_facts(message.facts)
                if not self._up:
                    self._up = True
                    self._changed.give()
            case Looked():
                look = self._looks.pop(message.number, None)
                if look is not None:
                    look.end(message)
            case Draining() | Reloading():
                self._order(message)

    async def _send(self, channel: Channel[FromLeader]) -> None:
        await channel.send(Here(os.getpid()))
        reported: Sample | None = None
        while True:
            while self._outbox:
                await channel.send(self._outbox.pop(0))
            counts, tickets = self._counts(), self._take_tickets()
            if counts != reported or tickets:
                await channel.send(Report(counts, tickets))
                reported = counts
            if not self._outbox:
                with trio.move_on_after(REPORT_SECONDS):
                    await self._changed.wait()


class _Look:
    """A look that was asked for."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.answered = False
        self.error: Exception | None = None

    def end(self, looked: Looked) -> None:
        self.answered = True
        if looked.what is not None:
            self.error = OriginError(looked.what, looked.status) if looked.reached else OriginUnreachable(looked.what)
        self.over.set()
