"""HTTP/2 whose connections are idle while no request is active, under a Hypercorn worker on Trio or asyncio.

Hypercorn 0.18 begins an idle time only after an answer. A client that sent the preface in clear text and nothing more,
or that reset its only stream, kept its connection, and a descriptor, for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.events
from hypercorn.events import Updated
from hypercorn.protocol.h2 import H2Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class IdlingH2Protocol(H2Protocol):
    """Hypercorn's HTTP/2 that is also idle before the first request, and when the client has reset the last stream."""

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Begin the connection; `headers` are those of a request that asked for HTTP/2."""
        await super().initiate(headers, settings)
        await self._report_idle()

    async def _handle_events(self, events: Iterable[h2.events.Event]) -> None:
        events = list(events)
        await super()._handle_events(events)
        if any(isinstance(event, h2.events.StreamReset) for event in events):
            await self._report_idle()

    async def _report_idle(self) -> None:
        if self.idle:
            await self.send(Updated(idle=True))
