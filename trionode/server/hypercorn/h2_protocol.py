"""HTTP/2 for clients that misbehave, under a Hypercorn worker on Trio or asyncio.

Hypercorn 0.18 begins an idle time only after an answer: a client that sent the preface in clear text and nothing more,
or that reset its only stream, kept its connection, and a descriptor, for ever. Other frames of a client crash its
connection with a traceback: CONNECT without a path, a request that is not ASCII, a body behind its answer, and
priorities of a thousand streams, which also end all other requests of that connection. And after a thousand requests it
ended the connection with the downloads that were still running on it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame
from priority.priority import PriorityError

from .refusal import error_answer
from .stream_buffer import BoundedStreamBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import hypercorn.events
    import hypercorn.protocol.events


class IdlingH2Protocol(H2Protocol):
    """Hypercorn's HTTP/2 that is also idle before the first request, and when the client has reset the last stream."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # No route is a websocket, and an extended CONNECT would ask for one.
        self.connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 0
        self.connection.local_settings.acknowledge()
        self._going_away = False

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Begin the connection; `headers` are those of a request that asked for HTTP/2."""
        await super().initiate(headers, settings)
        await self._report_idle()

    async def handle(self, event: hypercorn.events.Event) -> None:
        """Handle received bytes, or the end of the connection, with which all sending ends."""
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def stream_send(self, event: hypercorn.protocol.events.Event) -> None:
        """Send a part of an answer. One that is not completed is reset, so that the client can tell."""
        if isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            if isinstance(buffer, BoundedStreamBuffer) and not buffer.ended:
                with suppress(h2.exceptions.ProtocolError):  # the client has reset it, or ended the connection
                    self.connection.reset_stream(event.stream_id, ErrorCodes.INTERNAL_ERROR)
                await self._flush()
                await self._window_updated(event.stream_id)
        await super().stream_send(event)

    async def _handle_events(self, events: Iterable[h2.events.Event]) -> None:
        events = list(events)
        try:
            for event in events:
                if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                    # The answer was sent before the end of the request. Other streams need the window.
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.RequestReceived):
                    await self._take_request(event)
                else:
                    await super()._handle_events([event])
        except (h2.exceptions.ProtocolError, PriorityError):
            # A later event of the same bytes has ended the stream or the connection, or there are too many streams.
            await self.send(Closed())
            return
        await self._flush()
        if any(isinstance(event, (h2.events.RequestReceived, h2.events.StreamReset)) for event in events):
            await self._report_idle()

    async def _take_request(self, request: h2.events.RequestReceived) -> None:
        """Begin a request. The last one that a connection may have is told to the client, and completed as all others.

        h2 has no way to say so (RFC 9113, 6.8): after its own GOAWAY it sends nothing more. Requests that come
        nevertheless are refused, so that a client may repeat them elsewhere; after as many again the connection ends.
        """
        if self._going_away:
            with suppress(h2.exceptions.StreamClosedError):  # the client has reset it
                self.connection.reset_stream(request.stream_id, ErrorCodes.REFUSED_STREAM)
            self.keep_alive_requests += 1
        else:
            await super()._handle_events([request])
        if self.keep_alive_requests < self.config.keep_alive_max_requests:
            return
        if self._going_away:
            raise h2.exceptions.TooManyStreamsError
        self._going_away, self.keep_alive_requests = True, 0
        await self._flush()
        await self.send(RawData(GoAwayFrame(0, last_stream_id=request.stream_id).serialize()))

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Ignore priorities, as RFC 9113 recommends (5.3.2): the tree of them has no limits of size that are safe."""

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        """Pass a request to the application, if it can be one of HTTP/1.1 as well. The rest is checked by h2."""
        fields = dict(request.headers)
        method = fields[b":method"]
        if method == b"CONNECT" or not (method + fields[b":path"]).isascii():
            await self._refuse(request.stream_id)
        else:
            await super()._create_stream(request)

    async def _refuse(self, stream_id: int) -> None:
        fields, body = error_answer(400)
        headers = [(b":status", b"400"), *self.config.response_headers("h2"), *fields]
        self.connection.send_headers(stream_id, headers)
        self.connection.send_data(stream_id, body, end_stream=True)
        self.keep_alive_requests += 1

    async def _report_idle(self) -> None:
        if self.idle:
            await self.send(Updated(idle=True))
