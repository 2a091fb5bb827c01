"""What the leader does for the other processes of its node: tells them what is current, and sums up what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from store import Digest

from ..errors import OriginError, OriginUnreachable
from ..metrics import Sample
from ..sync.plan import Check
from .channel import Channel, listen
from .meetings import FillNumbers
from .wire import (
    Board,
    CheckAsked,
    Drain,
    Draining,
    Facts,
    Here,
    LookAsked,
    Looked,
    Lost,
    Reload,
    Reloading,
    Report,
    Said,
    ToLeader,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .meetings import SharedMeetings
    from .wire import FillEnd, MeetingState

SETTLE_SECONDS = 0.005
"""After an event, before it is told: what comes together is told together."""

TELL_SECONDS = 0.25
"""How often what changes all the time, such as the bytes sent, is told."""

DRAIN_POLL_SECONDS = 0.2

_log = structlog.get_logger("trionode.workers")


class Orders(Protocol):
    """What a command may order a node to do."""

    def drain(self) -> bool:
        """Begin to drain the whole node; return whether its processes then end by themselves."""
        ...

    def reload(self) -> tuple[str, bool]:
        """Have the whole node read its settings again; return what to say of it, and whether they were right."""
        ...


class Office:
    """The leader's end of all connections. `facts` is asked for what is so now, but for the counts."""

    def __init__(
        self,
        storage: Path,
        meetings: SharedMeetings,
        counts: Callable[[], Sample],
        facts: Callable[[Sample, int], Facts],
        saw_ticket: Callable[[str], None],
        orders: Orders,
    ) -> None:
        self._storage = storage
        self._meetings = meetings
        self._counts = counts
        self._facts = facts
        self._saw_ticket = saw_ticket
        self._orders = orders
        self._numbers = FillNumbers()
        self._sessions: set[_Session] = set()
        self._ended = Sample()

    # -- What the node asks

    def elsewhere(self) -> Sample:
        """Return what the other processes do, and what those did that have ended."""
        return sum((session.counts for session in self._sessions), start=self._ended)

    @property
    def workers(self) -> int:
        """How many processes there are, this one included."""
        return 1 + sum(session.worker for session in self._sessions)

    def tell_to_drain(self) -> None:
        """Have all other processes take no new assignments."""
        self._tell_all(Draining())

    def tell_to_reload(self) -> None:
        """Have all other processes read their settings again."""
        self._tell_all(Reloading())

    def _tell_all(self, message: Draining | Reloading) -> None:
        for session in self._sessions:
            if session.worker:
                session.orders.append(message)
                session.wake.set()

    # -- Connections

    async def run(self) -> None:
        """Serve the other processes until cancelled."""
        try:
            listener = await listen(self._storage)
        except OSError as error:
            # A folder without room, or on a file system without sockets. This process serves all the same.
            _log.error("no other process can work with this one", why=str(error))
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_informed)
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def _serve(self, stream: trio.SocketStream) -> None:
        session = _Session(Channel(stream, ToLeader))
        self._sessions.add(session)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._inform, session)
                async for message in session.channel.messages():
                    await self._heed(session, message, nursery)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended
        finally:
            self._sessions.discard(session)
            self._ended += session.counts.ended()
            with trio.CancelScope(shield=True):
                await session.channel.aclose()

    async def _heed(self, session: _Session, message: ToLeader, nursery: trio.Nursery) -> None:
        match message:
            case Here():
                session.worker = True
                session.wake.set()
            case Report():
                session.counts = message.counts
                for ticket in message.tickets:
                    self._saw_ticket(ticket)
            case LookAsked():
                nursery.start_soon(self._look, session, message)
            case CheckAsked():
                meeting = self._meetings.get(message.meeting_id)
                if meeting is not None and message.doubt:
                    self._meetings.doubt(meeting)
                elif meeting is not None:
                    self._meetings.want(meeting, Check(message.check))
            case Lost():
                self._meetings.withdraw(Digest(message.digest))
            case Drain():
                nursery.start_soon(self._drain, session)
            case Reload():
                text, right = self._orders.reload()
                await session.channel.send(Said(text, 0 if right else 2))

    async def _look(self, session: _Session, asked: LookAsked) -> None:
        answer = Looked(asked.number, None, reached=True, status=0)
        try:
            await self._meetings.look(younger_than=asked.younger_than)
        except OriginUnreachable as error:
            answer = Looked(asked.number, error.what, reached=False, status=0)
        except OriginError as error:
            answer = Looked(asked.number, error.what, reached=True, status=error.status)
        # First what came of it, then that it is over.
        await self._send_news(session)
        await session.channel.send(answer)

    async def _drain(self, session: _Session) -> None:
        """Drain, and say what is still going on until the connection ends with the node."""
        ends = self._orders.drain()
        before = -1
        while True:
            active = (self._counts() + self.elsewhere()).active
            if active != before:
                await session.channel.send(Said(f"draining; downloads going on: {active}"))
                before = active
            if not ends and not active:
                await session.channel.send(
                    Said("drained: off the master's list, and nothing is going on; stop the server now", 0)
                )
                return
            await trio.sleep(DRAIN_POLL_SECONDS)

    # -- News

    async def _keep_informed(self) -> None:
        while True:
            with trio.move_on_after(TELL_SECONDS):
                await self._meetings.stirred.wait()
            await trio.sleep(SETTLE_SECONDS)
            for session in self._sessions:
                session.wake.set()

    async def _inform(self, session: _Session) -> None:
        while True:
            await session.wake.wait()
            session.wake = trio.Event()
            if session.worker:
                while session.orders:
                    await session.channel.send(session.orders.pop(0))
                await self._send_news(session)

    async def _send_news(self, session: _Session) -> None:
        """Tell one process what it does not know yet. Composed and sent in one piece, so that news keep their order."""
        async with session.telling:
            states = self._meetings.states(self._numbers)
            ended = self._numbers.take_ended()
            if ended:
                for other in self._sessions:
                    other.ended += ended
            facts = self._facts(self._counts() + self.elsewhere(), self.workers)
            board = session.news(states, facts)
            if board is not None:
                await session.channel.send(board)


class _Session:
    """One connection: what its process does, and what it was told."""

    def __init__(self, channel: Channel[ToLeader]) -> None:
        self.channel = channel
        self.worker = False
        self.counts = Sample()
        self.wake = trio.Event()
        self.telling = trio.Lock()
        self.orders: list[Draining | Reloading] = []
        self.ended: list[FillEnd] = []
        self._told: dict[str, MeetingState] = {}
        self._told_facts: Facts | None = None

    def news(self, states: dict[str, MeetingState], facts: Facts) -> Board | None:
        """Return what is new since this was last asked, or None; what it returns counts as told."""
        changed = [state for meeting_id, state in states.items() if self._told.get(meeting_id) != state]
        gone = [meeting_id for meeting_id in self._told if meeting_id not in states]
        if not (changed or gone or self.ended) and facts == self._told_facts:
            return None
        board = Board(changed, gone, self.ended, facts)
        self._told, self._told_facts, self.ended = states, facts, []
        return board
