"""The parts of ASGI and HTTP that the shim needs: a request, an answer, and sending it. Independent of frameworks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from .errors import BodyTooLarge, BodyTooSlow
from .protocol import cors
from .protocol.target import Fields, host_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .protocol.forwarded import Asked, TrustedProxies
    from .protocol.target import Header

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 1024 * 1024
"""A heartbeat with a thousand meetings takes a quarter of this. Our nodes send at most MAX_HEARTBEAT_BYTES."""
BODY_SECONDS = 15.0
"""Time limit for receiving a body, which takes milliseconds: a slow sender holds a connection no longer than this."""

JSON: Header = (b"content-type", b"application/json")
NO_CACHE: Header = (b"cache-control", b"no-cache")
NO_STORE: Header = (b"cache-control", b"no-store")


@dataclass
class Request:
    """An HTTP request.

    `argument` is the meeting id or digest in its path. `standalone` is false if the shim is wrapped around a master,
    whose own status routes answer then.
    """

    scope: Scope
    receive: Receive
    send: Send
    proxies: TrustedProxies
    argument: str = ""
    standalone: bool = True
    answered: bool = False

    @property
    def method(self) -> str:
        """The method."""
        method: str = self.scope["method"]
        return method

    @cached_property
    def asked(self) -> Asked:
        """Who asked, and for which scheme and host: what trusted proxies say, else what the server saw."""
        client = self.scope.get("client")
        peer = None if client is None else client[0]
        scheme = self.scope.get("scheme", "http")
        return self.proxies.asked(peer, scheme, host_of(self.scope, self.fields), self.fields)

    @cached_property
    def fields(self) -> Fields:
        """The header fields, decoded when first used."""
        return Fields(self.scope["headers"])

    async def body(self) -> bytes:
        """Return the body. Raises `BodyTooLarge`, or `BodyTooSlow`, also if the client disconnects."""
        length = self.fields.get("content-length", "")
        if length.isdecimal() and (len(length) > 9 or int(length) > MAX_BODY_BYTES):
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
        """Send the status and headers, with CORS added."""
        self.answered = True
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *cors.HEADERS]})

    async def send_answer(self, answer: Answer) -> None:
        """Send an answer with its Content-Length. For HEAD the body is omitted."""
        body = answer.body
        headers = answer.headers
        if answer.status not in {204, 304}:
            headers = (*headers, (b"content-length", b"%d" % len(body)))
        await self.start(answer.status, headers)
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its body in memory. Content-Length and CORS are added when it is sent."""

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""


def json_answer(value: object, status: int = 200, *headers: Header) -> Answer:
    """Return `value` as JSON."""
    return Answer(status, (JSON, *headers), msgspec.json.encode(value))
