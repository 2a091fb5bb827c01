"""The task that registers this node at the master, sends heartbeats, and finally unregisters it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from master_shim.protocol import HEARTBEAT_SECONDS, one_line

from ..backoff import Reminder, retry_seconds
from ..errors import NodeError, OriginError, OriginUnreachable

if TYPE_CHECKING:
    from random import Random

    from master_shim.protocol import Heartbeat, HeartbeatAnswer

    from ..delivery.tickets import Tickets
    from ..events import AutoResetEvent
    from ..master.client import Master
    from ..meetings.poller import Poller
    from ..meetings.service import Meetings
    from .address import ReportedAddress
    from .builder import HeartbeatBuilder

MIN_INTERVAL_SECONDS = 0.2
"""Shortest interval: one heartbeat reports twenty meetings that become current together."""

BUSY_FACTOR = 4
"""The pause after a heartbeat in units of its duration, up to `LONGEST_PAUSE_SECONDS`. A heartbeat lists all meetings:
while thousands of them become current, node and master would be busy with nothing else."""

LONGEST_PAUSE_SECONDS = 2.0
"""Shorter than the 5 s between two looks of the deployed master's start gate."""

MAX_INTERVAL_SECONDS = 10.0
"""Longest interval, even if the master requests a longer one: a deployed master drops a node after 30 s."""

LAST_BEAT_SECONDS = 0.5
"""Time limit of the last heartbeat, which reports the drain. Unregistering follows in any case."""

LEAVE_SECONDS = 2.0
"""Time limit of unregistering; without it the master drops the node after 30 s."""

_log = structlog.get_logger("trionode.heartbeat")


class HeartbeatSender:
    """Sends heartbeats: every few seconds, and at once when `due` is set or the master answers again."""

    def __init__(
        self,
        own: ReportedAddress,
        builder: HeartbeatBuilder,
        master: Master,
        meetings: Meetings,
        poller: Poller,
        tickets: Tickets,
        due: AutoResetEvent,
        rng: Random,
    ) -> None:
        self.connected = False
        """Whether the master has answered the last heartbeat."""
        self.conflict = ""
        """The master's words if another node uses this one's id or address, else empty."""
        self._own = own
        self._told: tuple[str, str] | None = None
        self._builder = builder
        self._master = master
        self._meetings = meetings
        self._poller = poller
        self._tickets = tickets
        self._due = due
        self._rng = rng
        self._left = False
        self._leaving = trio.Lock()
        self._sending = trio.CancelScope()

    async def run(self) -> None:
        """Register and send heartbeats until cancelled. Does nothing after `leave`."""
        if not self._left:
            with trio.CancelScope() as self._sending:
                await self._send_forever()
        await trio.sleep_forever()

    async def _send_forever(self) -> None:
        failures = 0
        reminder = Reminder()
        registered = False
        while True:
            began = trio.current_time()
            try:
                if not registered:
                    await self._find_address()
                    await self._master.register(self._own.registration)
                    registered = True
                beat = self._builder.build()
                answer = await self._master.heartbeat(beat)
            except (OriginUnreachable, OriginError) as error:
                self.connected = registered = False
                failures += 1
                if reminder.due(trio.current_time()):
                    _log.warning("the master did not answer a heartbeat", why=str(error))
                await trio.sleep(MIN_INTERVAL_SECONDS)
                with trio.move_on_after(retry_seconds(failures, self._rng.random(), longest=HEARTBEAT_SECONDS)):
                    # Register as soon as the master answers polls: its start gate counts registered nodes.
                    await self._poller.answered.wait()
                continue
            failures = 0
            reminder.reset()
            self._take_answer(beat, answer)
            pause = pause_seconds(trio.current_time() - began)
            await trio.sleep(pause)
            with trio.move_on_after(max(0.0, interval_seconds(answer) - pause)):
                await self._due.wait()

    async def _find_address(self) -> None:
        """Determine this node's address, which may have changed with the network, and log it if it differs."""
        await self._own.find()
        registration, problem = self._own.registration, self._own.problem
        address = f"{registration.scheme}://{registration.address}"
        if self._told == (address, problem):
            return
        self._told = (address, problem)
        if problem:
            _log.error("clients may not reach this node", address=address, why=problem)
        else:
            _log.info("clients reach this node", address=address)

    def _take_answer(self, beat: Heartbeat, answer: HeartbeatAnswer) -> None:
        if not self.connected:
            _log.info("connected to the master", protocol=self._master.protocol)
        self.connected = True
        self._note_conflict(one_line(answer.conflict))
        self._tickets.remove(beat.tickets)
        if answer.token is not None and answer.token != self._meetings.token:
            self._poller.request()

    def _note_conflict(self, conflict: str) -> None:
        if conflict and conflict != self.conflict:
            _log.error("another node uses this node's id or address", why=conflict)
        elif self.conflict and not conflict:
            _log.info("no other node uses this node's id or address any more")
        self.conflict = conflict

    async def leave(self) -> None:
        """Unregister this node, once: a later call returns when the first has ended.

        Takes `LEAVE_SECONDS` at most, also when cancelled.
        """
        with trio.move_on_after(LEAVE_SECONDS, shield=True):
            async with self._leaving:
                if not self._left:
                    self._left = True
                    await self._unregister()

    async def _unregister(self) -> None:
        # Another heartbeat would register this node again.
        self._sending.cancel()
        try:
            with trio.move_on_after(LAST_BEAT_SECONDS):
                await self._master.heartbeat(self._builder.build())
        except NodeError as error:
            _log.debug("the last heartbeat was not answered", why=str(error))
        try:
            await self._master.unregister(self._own.registration.node_id)
        except NodeError as error:
            # If the master was away already, this is in the log.
            log = _log.info if self.connected else _log.debug
            log("the node could not be unregistered", why=str(error))


def pause_seconds(duration: float) -> float:
    """Return the shortest time to the next heartbeat after one that took `duration`."""
    return min(max(MIN_INTERVAL_SECONDS, BUSY_FACTOR * duration), LONGEST_PAUSE_SECONDS)


def interval_seconds(answer: HeartbeatAnswer) -> float:
    """Return the time to the next heartbeat: as the master requests, within the limits of this node."""
    requested = answer.next_seconds
    if requested is None:
        return HEARTBEAT_SECONDS
    # Written so that NaN, which a lenient JSON encoder may send, gives the upper bound.
    return max(1.0, requested) if requested < MAX_INTERVAL_SECONDS else MAX_INTERVAL_SECONDS
