"""The task that tells the master this node is there, what it holds and how busy it is."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

import structlog
import trio

from master_shim.protocol import HEARTBEAT_SECONDS, PROTOCOL, Heartbeat, Load, MeetingName, Registration

from ..errors import OriginError, OriginUnreachable
from .beats import fitted
from .plan import retry_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from master_shim.protocol import HeartbeatAnswer

    from ..delivery.admission import Downloads
    from ..metrics import Sample
    from .meetings import Meetings
    from .sources import Master

FASTEST_BEAT_SECONDS = 0.2
"""Between two beats, however much changes: twenty meetings that become current together are one message."""

SLOWEST_BEAT_SECONDS = 10.0
"""Whatever `next_seconds` an answer asks for: the deployed master drops a node after 30 s of silence."""

MAX_TICKETS = 10_000
"""Tickets kept for the next beat; a master that is away for long does not fill the memory."""

BEAT_TICKETS = 5_000
"""Tickets in one beat, a third of what it may hold: there must be room for the meetings, too (see `beats.fitted`)."""

_TICKET = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""A ticket comes back from whoever asks for a package: what the shim never made is not kept, let alone passed on."""

_log = structlog.get_logger("trionode.heartbeat")


class Pulse:
    """What the heartbeats of one node are made of, and what came back."""

    def __init__(
        self, node_id: str, address: str, meetings: Meetings, downloads: Downloads, counts: Callable[[], Sample]
    ) -> None:
        self.node_id = node_id
        self.address = address
        self.connected = False
        """Whether the last beat was answered."""
        self.draining = False
        self._meetings = meetings
        self._downloads = downloads
        self._counts = counts
        self._tickets: dict[str, None] = {}
        self._left_out = 0
        self._measured_at = trio.current_time()
        self._measured_bytes = 0

    def saw_ticket(self, ticket: str) -> None:
        """Remember that a client the master sent has arrived. Retries of one client are one ticket."""
        if len(self._tickets) < MAX_TICKETS and _TICKET.fullmatch(ticket):
            self._tickets[ticket] = None

    def take_tickets(self) -> list[str]:
        """Return the tickets not reported yet, and forget them: another process of this node reports them."""
        tickets, self._tickets = list(self._tickets), {}
        return tickets

    def load(self) -> Load:
        """Return what this node is doing now, in all its processes; the rate is the mean since the last call."""
        counts = self._counts()
        now, sent = trio.current_time(), counts.bytes_sent
        rate = (sent - self._measured_bytes) / max(now - self._measured_at, 1e-3)
        self._measured_at, self._measured_bytes = now, sent
        # Those that wait count too: with them this node is not only full, but behind.
        return Load(counts.active + counts.queued, self._downloads.limit, round(rate), self.draining)

    def next_beat(self) -> Heartbeat:
        """Compose a beat from what is so now."""
        promised = self._meetings.promised()
        whole = Heartbeat(
            node_id=self.node_id,
            address=self.address,
            active_meetings=tuple(MeetingName(m.id, m.title) for m in self._meetings.in_progress()),
            synced_meetings=tuple(promised),
            load=self.load(),
            packages={meeting_id: str(digest) for meeting_id, digest in promised.items()},
            filling=tuple(str(fill.digest) for fill in self._meetings.filling() if fill.digest is not None),
            tickets=tuple(islice(self._tickets, BEAT_TICKETS)),
            protocol=PROTOCOL,
        )
        beat = fitted(whole)
        left_out = len(whole.active_meetings) - len(beat.active_meetings)
        if left_out and not self._left_out:
            _log.error("a heartbeat does not hold all meetings; the oldest are left out", left_out=left_out)
        self._left_out = left_out
        return beat

    def answered(self, beat: Heartbeat) -> None:
        """Forget the tickets that an answered beat has reported."""
        self.connected = True
        for ticket in beat.tickets:
            self._tickets.pop(ticket, None)


async def beat_forever(
    pulse: Pulse, master: Master, look: Callable[[], None], meetings: Meetings, chance: Random
) -> None:
    """Register, then beat until cancelled: every few seconds, and at once when what a beat says has changed.

    A master that has forgotten this node learns of it by the next beat, and one that was away hears of it as soon as it
    has answered a look, since its start gate asks for the nodes it knows. `look` is called when an answer's token is
    another than the one last seen.
    """
    failures = 0
    registered = False
    while True:
        try:
            if not registered:
                await master.register(Registration(pulse.node_id, pulse.address))
                registered = True
            beat = pulse.next_beat()
            answer = await master.heartbeat(beat)
        except (OriginUnreachable, OriginError) as error:
            pulse.connected = False
            registered = False
            failures += 1
            if failures == 1:
                _log.warning("no heartbeat answered", why=str(error))
            await trio.sleep(FASTEST_BEAT_SECONDS)
            with trio.move_on_after(retry_seconds(failures, chance.random(), most=HEARTBEAT_SECONDS)):
                await meetings.reached.taken()
            continue
        if failures or not pulse.connected:
            _log.info("connected to the master", protocol=master.protocol)
        failures = 0
        pulse.answered(beat)
        if answer.token is not None and answer.token != meetings.token:
            look()
        await trio.sleep(FASTEST_BEAT_SECONDS)
        with trio.move_on_after(beat_seconds(answer) - FASTEST_BEAT_SECONDS):
            await meetings.changed.taken()


def beat_seconds(answer: HeartbeatAnswer) -> float:
    """Return the time to the next beat: what the master asks for, within what keeps this node alive there."""
    wanted = answer.next_seconds
    if wanted is None:
        return HEARTBEAT_SECONDS
    # Written so that NaN, which JSON cannot carry but a lenient encoder may, gives the upper bound.
    return max(1.0, wanted) if wanted < SLOWEST_BEAT_SECONDS else SLOWEST_BEAT_SECONDS
