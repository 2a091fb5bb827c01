"""The few things of ASGI and HTTP the shim needs: a request, an answer, and how one is sent. No framework.

A redirect is what a master answers most, in bursts; so headers are looked at only when a route asks for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from .errors import BodyTooLarge, BodyTooSlow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .routes import Match

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

MAX_BODY_BYTES = 1024 * 1024
"""A heartbeat of a thousand meetings is a quarter of this, and our nodes keep to `protocol.MAX_BEAT_BYTES`."""
BODY_SECONDS = 15.0
"""A node's body arrives in milliseconds; whoever trickles one holds a connection for no longer than this."""

CORS: tuple[Header, ...] = (
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Content-Length, Content-Range, Content-Disposition, ETag, Accept-Ranges, Retry-After",
    ),
)
"""On every answer, errors and redirects included: a tablet's browser reads what it is redirected to only if
the redirect allows it too."""
_JSON: Header = (b"content-type", b"application/json")
_FIELD_NAMES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ")


@dataclass(slots=True)
class Request:
    """One HTTP request on its way to an answer. `match` is the route it takes.

    `whole` says that the shim is the whole master for it, and not wrapped around another that has its own status.
    """

    scope: Scope
    receive: Receive
    send: Send
    match: Match
    whole: bool = True
    answered: bool = False

    @property
    def method(self) -> str:
        """The method, as sent."""
        method: str = self.scope["method"]
        return method

    @property
    def client(self) -> str | None:
        """The client's IP address, as the server knows it; None on a Unix socket."""
        client = self.scope.get("client")
        return None if client is None else client[0]

    def header(self, name: bytes) -> str | None:
        """Return a header's value, several joined by commas, or None. `name` in lower case."""
        values = [value for key, value in self.scope["headers"] if key == name]
        return b", ".join(values).decode("latin-1") if values else None

    async def body(self) -> bytes:
        """Read the body whole. Raises `BodyTooLarge`, or `BodyTooSlow` (also when its sender left)."""
        length = self.header(b"content-length")
        if length is not None and length.isdecimal() and (len(length) > 9 or int(length) > MAX_BODY_BYTES):
            raise BodyTooLarge(MAX_BODY_BYTES)
        parts = bytearray()
        with anyio.move_on_after(BODY_SECONDS):
            while True:
                message = await self.receive()
                if message["type"] != "http.request":
                    raise BodyTooSlow
                parts += message.get("body", b"")
                if len(parts) > MAX_BODY_BYTES:
                    raise BodyTooLarge(MAX_BODY_BYTES)
                if not message.get("more_body", False):
                    return bytes(parts)
        raise BodyTooSlow

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send the status and the headers, with those that every answer has."""
        self.answered = True
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *CORS]})

    async def send_answer(self, answer: Answer) -> None:
        """Send a whole answer; its body is left out for HEAD, and its length told all the same."""
        body = answer.body
        headers = answer.headers
        if answer.status not in {204, 304}:
            headers = (*headers, (b"content-length", b"%d" % len(body)))
        await self.start(answer.status, headers)
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})


@dataclass(slots=True)
class Answer:
    """An answer whose body is in memory. Its Content-Length is added when it is sent."""

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""


def json_answer(value: object, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    """Return `value` as JSON."""
    return Answer(status, (_JSON, *headers), msgspec.json.encode(value))


def preflight_answer(allowed: str, requested_headers: str | None) -> Answer:
    """Return the answer to OPTIONS. The header names a browser asks for are all allowed, if they are names.

    They are repeated rather than answered by `*`, which the web views of older tablets do not know.
    """
    headers: tuple[Header, ...] = (
        (b"allow", f"{allowed}, OPTIONS".encode()),
        (b"access-control-allow-methods", f"{allowed}, OPTIONS".encode()),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Access-Control-Request-Headers"),
    )
    if requested_headers:
        names = requested_headers.encode("latin-1")
        if len(names) <= 1024 and _FIELD_NAMES.issuperset(names):
            headers = (*headers, (b"access-control-allow-headers", names))
    return Answer(204, headers)
