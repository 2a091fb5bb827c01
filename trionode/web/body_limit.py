"""A size limit for request bodies, as ASGI middleware. No route of a node takes a body.

Quart keeps the whole body in memory until the handler is done (measured: 180 MB before it ran). Here a request whose
Content-Length is too large is answered 413 before the application sees it. Without a length the request is answered
413 as soon as more than the limit has arrived, or an answer that has begun is sent to its end. In both cases the server
closes the connection, since the rest of the body is still to come.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Application = Callable[[Any, Any, Any], Awaitable[None]]

DETAIL = b'{"detail":"The request body is too large"}'

DISCARD_SECONDS = 10.0
"""How long the rest of a refused body is read and discarded."""

_log = structlog.get_logger("trionode.server")


class BodyLimit:
    """Passes on requests whose bodies have at most `limit` bytes."""

    def __init__(self, app: Application, limit: int, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self._app = app
        self._limit = limit
        self._headers = [
            *(headers or []),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(DETAIL)).encode()),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fields = dict(scope["headers"])
        length = fields.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limit:
            await self._refuse(scope, receive, send)
        elif length or b"transfer-encoding" in fields or scope["http_version"] not in {"1.0", "1.1"}:
            await self._watch(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watch(self, scope: Any, receive: Any, send: Any) -> None:
        received, complete, answered, refused = 0, False, False, False

        async def counting() -> Any:
            nonlocal received, complete, refused
            if refused:
                return {"type": "http.disconnect"}
            message = await receive()
            complete = not message.get("more_body", False)
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit and answered:
                    await _discard(receive)
                    complete = True
                    return {"type": "http.disconnect"}
                if received > self._limit:
                    # The application drops the request, as if the client had left.
                    refused = True
                    return {"type": "http.disconnect"}
            return message

        async def recording(message: Any) -> None:
            nonlocal answered
            if not refused:
                answered = True
                await send(message)

        await self._app(scope, counting, recording)
        if refused:
            await self._refuse(scope, receive, send)
        elif not complete:
            # A route answers as soon as it can, while the body, which it ignores, is still arriving.
            _discard_in_background(receive)

    async def _refuse(self, scope: Any, receive: Any, send: Any) -> None:
        _discard_in_background(receive)
        closing = [(b"connection", b"close")] if scope["http_version"] in {"1.0", "1.1"} else []
        await send({"type": "http.response.start", "status": 413, "headers": [*self._headers, *closing]})
        await send({"type": "http.response.body", "body": DETAIL, "more_body": False})


def _discard_in_background(receive: Any) -> None:
    """Read and discard the rest of a body, until the connection has ended.

    Hypercorn puts the body, and then the end of the connection, into a short queue: unless both are read, the
    connection waits for ever. A system task, since it outlives the request's task; limited by `DISCARD_SECONDS`.
    """
    trio.lowlevel.spawn_system_task(functools.partial(_discard, receive))


async def _discard(receive: Any) -> None:
    with trio.move_on_after(DISCARD_SECONDS):
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        except Exception as error:  # noqa: BLE001 - a system task must not bring the process down
            _log.debug("the rest of a request body was not read", why=repr(error))
