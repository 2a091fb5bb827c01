"""HTTP/1.1 for clients whose bytes are unusual or invalid, under a Hypercorn worker on Trio or asyncio.

h11 0.16 reports bytes behind the last request of a connection as an error, and Hypercorn 0.18 then answers 400 in place
of the answer to that request. RFC 9112 says to ignore them (9.6), and an empty line before a request line (2.2).
"""

from __future__ import annotations

import http
from typing import TYPE_CHECKING, Any

import h11
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

from .refusal import error_answer, warn_of_scheme

if TYPE_CHECKING:
    import hypercorn.events
    import hypercorn.protocol.events
    from h11 import Event

REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}
"""Reason phrases. Hypercorn sends none, as RFC 9112 allows, but h2load counts an answer without one as failed."""

TLS_HELLO = b"\x16\x03"
"""What a client of https sends first."""

EMPTY_ERROR = [(b"content-length", b"0"), (b"connection", b"close")]
"""The header fields of Hypercorn's own errors, which have no body."""


class LenientConnection(h11.Connection):
    """A server's connection that ignores bytes behind the last request, and empty lines before a request line."""

    ended = False
    """Whether the connection is being closed: nothing is read any more."""

    @property
    def _ignores_rest(self) -> bool:
        return self.ended or self.their_state is h11.MUST_CLOSE

    def receive_data(self, data: bytes) -> None:
        """Take received bytes; drop them behind the last request."""
        if not self._ignores_rest:
            super().receive_data(data)

    def next_event(self) -> Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Return the next event of the client."""
        if self._ignores_rest:
            return h11.NEED_DATA
        if self.their_state is h11.IDLE:
            received = bytes(self._receive_buffer)
            self._receive_buffer.maybe_extract_at_most(len(received) - len(received.lstrip(b"\r\n")))
        event = super().next_event()
        if isinstance(event, h11.Request) and {b"content-length", b"transfer-encoding"} <= {
            n for n, _ in event.headers
        }:
            # A proxy in front may have taken the other one for the body's end, and what follows for a part of the body.
            self._cstate.process_keep_alive_disabled()
        return event

    def send_with_data_passthrough(self, event: Event) -> list[bytes] | None:
        """Return the bytes of an event, with the reason phrase of a status."""
        parts = super().send_with_data_passthrough(event)
        if parts and isinstance(event, (h11.Response, h11.InformationalResponse)) and not event.reason:
            parts[0] = b"HTTP/1.1 %d %s\r\n" % (event.status_code, REASONS.get(event.status_code, b""))
        return parts


class LenientH11Protocol(H11Protocol):
    """Hypercorn's HTTP/1.1 on a `LenientConnection`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        limit = self.config.h11_max_incomplete_size
        self.connection = LenientConnection(h11.SERVER, max_incomplete_event_size=limit)

        self._reading_ended = False
        self._refused = False

    async def _check_protocol(self, event: h11.Request) -> None:
        """Change to HTTP/2 after its preface, but not by an upgrade, which RFC 9113 has removed (3.1).

        HTTP/1.1 has the faster way for packages, and an upgrade with invalid settings crashed the connection.
        """
        if event.method == b"PRI" and not event.headers:
            await super()._check_protocol(event)

    async def _create_stream(self, request: h11.Request) -> None:
        """Pass a request to the application, without a wish for a websocket (RFC 9110, 7.8): none has one.

        Hypercorn keeps a connection whose handshake it has refused for ever (measured).
        """
        if any(name == b"upgrade" for name, _ in request.headers):
            rest = [(name, value) for name, value in request.headers if name != b"upgrade"]
            request = h11.Request(
                method=request.method, target=request.target, headers=rest, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def handle(self, event: hypercorn.events.Event) -> None:
        """Handle received bytes (none: the client has closed its sending side), or the end of the connection.

        Hypercorn reports both ends alike, and the application would drop a request whose client waits for the answer.
        If the client has left, sending fails. Hypercorn does not read while a second request waits for the answer to
        the first, and would wait for ever if the connection ended meanwhile (measured).
        """
        if isinstance(event, RawData):
            self._reading_ended = not event.data
            if event.data.startswith(TLS_HELLO) and self.connection.their_state is h11.IDLE:
                warn_of_scheme("https", "http")
        elif isinstance(event, Closed):
            if self._reading_ended and self._answering:
                self._reading_ended = False
                return
            if isinstance(self.connection, LenientConnection):
                self.connection.ended = True
                await self.can_read.set()
        await super().handle(event)

    @property
    def _answering(self) -> bool:
        """Whether a request was received to its end and is not yet answered to its end."""
        return self.stream is not None and self.connection.their_state in {h11.MUST_CLOSE, h11.CLOSED}

    async def stream_send(self, event: hypercorn.protocol.events.Event) -> None:
        """Send a part of an answer. An error of Hypercorn itself is completed, and ends the connection."""
        if self._refused:
            return
        if not isinstance(event, Response) or event.headers != EMPTY_ERROR:
            await super().stream_send(event)
            return
        await self._send_error_response(event.status_code)
        self._refused, self.stream = True, None
        await self.send(Closed())  # Hypercorn leaves it open after a refused upgrade

    async def _send_error_response(self, status_code: int) -> None:
        """Answer with an error in the form of all others: JSON that any page may read."""
        fields, body = error_answer(status_code)
        headers = [*self.config.response_headers("h11"), *fields, (b"connection", b"close")]
        head_only = isinstance(self.stream, HTTPStream) and self.stream.scope["method"] == "HEAD"
        answer = (
            h11.Response(status_code=status_code, headers=headers),
            h11.Data(data=b"" if head_only else body),
            h11.EndOfMessage(),
        )
        # At once, since the application may be about to answer as well.
        await self.send(RawData(b"".join(self.connection.send(event) for event in answer)))
