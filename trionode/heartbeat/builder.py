"""Builds heartbeats from the node's present state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from master_shim.protocol import PROTOCOL, Heartbeat, Load, MeetingName

from .size_limit import limit_size

if TYPE_CHECKING:
    from ..delivery.admission import Downloads
    from ..delivery.tickets import Tickets
    from ..lifecycle import Lifecycle
    from ..meetings.service import Meetings
    from .address import ReportedAddress

MAX_BEAT_TICKETS = 5_000
"""Tickets in one heartbeat, a third of its size limit: the rest is for the meetings."""

_log = structlog.get_logger("trionode.heartbeat")


class HeartbeatBuilder:
    """Builds the heartbeats of one node."""

    def __init__(
        self,
        own: ReportedAddress,
        meetings: Meetings,
        downloads: Downloads,
        tickets: Tickets,
        lifecycle: Lifecycle,
    ) -> None:
        self._own = own
        self._meetings = meetings
        self._downloads = downloads
        self._tickets = tickets
        self._lifecycle = lifecycle
        self._left_out = 0
        self._measured_at = trio.current_time()
        self._measured_bytes = 0

    def build(self) -> Heartbeat:
        """Return a heartbeat of the present state, within the size limit."""
        advertised = self._meetings.advertised()
        registration = self._own.registration
        sources = {str(fill.digest): fill.source for fill in self._meetings.fills() if fill.digest is not None}
        whole = Heartbeat(
            node_id=registration.node_id,
            address=registration.address,
            active_meetings=tuple(MeetingName(m.id, m.title) for m in self._meetings.in_progress()),
            synced_meetings=tuple(advertised),
            load=self._load(),
            packages={meeting_id: str(digest) for meeting_id, digest in advertised.items()},
            filling=tuple(sources),
            tickets=self._tickets.first(MAX_BEAT_TICKETS),
            protocol=PROTOCOL,
            scheme=registration.scheme,
            instance=registration.instance,
            sources=sources,
        )
        beat = limit_size(whole)
        left_out = len(whole.active_meetings) - len(beat.active_meetings)
        if left_out and not self._left_out:
            _log.error("a heartbeat cannot hold all meetings; the oldest are left out", left_out=left_out)
        self._left_out = left_out
        return beat

    def _load(self) -> Load:
        """Return the load; the rate is the mean since the last call."""
        downloads = self._downloads
        now, sent = trio.current_time(), downloads.bytes_sent + downloads.bytes_sent_to_peers
        rate = (sent - self._measured_bytes) / max(now - self._measured_at, 1e-3)
        self._measured_at, self._measured_bytes = now, sent
        # Queued downloads count, since a new client would wait behind them.
        busy = downloads.active + downloads.queued
        return Load(busy, downloads.limit, round(rate), draining=not self._lifecycle.ready)
