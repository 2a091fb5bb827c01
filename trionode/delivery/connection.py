"""How Quart hands a response to the server, for packages: without its 60 s limit, never read whole, surely released."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioResponse

from ..errors import FillFailed

if TYPE_CHECKING:
    from quart.wrappers import Request

    from master_shim.conditional import Headers

    from .body import PackageBody

EXIT_STACK = "trionode.exit_stack"
"""Key of the ASGI scope under which a request finds what is closed when its connection is done with it."""

FINAL_SECONDS = 5.0
"""What handing over the empty last message may take, while the client's disconnection must not interrupt it."""

ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension by which a server sends a file's bytes without their passing through this process."""

SPAN_BYTES = 4 << 20
"""What one such message names. Nothing of it is in this process's memory; between two, the source is looked at."""


class PackageResponse(TrioResponse):
    """A response whose body is made of pieces of a package (or none, for HEAD, 304 and others)."""

    def __init__(self, status: int, headers: Headers, body: PackageBody | None) -> None:
        super().__init__(b"", status=status)
        self.headers.clear()
        self.headers.extend(headers)
        self.package = body
        # Quart cuts a response off, in silence, after 60 s otherwise. A slow client is not a broken one.
        self.timeout = None


class PackageConnection(TrioASGIHTTPConnection):
    """One HTTP request. What its handler opened is closed when this call ends, however it ends."""

    async def handle_request(self, nursery: trio.Nursery, request: Request, send: Any) -> None:  # type: ignore[override]
        """Handle the request with an exit stack in its scope."""

        async def send_shielding_the_last(message: Any) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            # Once the last message is out, Hypercorn tells the other half of the request that the client is gone,
            # which cancels this half in the middle of making the connection idle: it would never be closed (measured).
            with trio.move_on_after(FINAL_SECONDS, shield=True):
                await send(message)

        with ExitStack() as stack:
            request.scope[EXIT_STACK] = stack  # type: ignore[literal-required]
            await super().handle_request(nursery, request, send_shielding_the_last)

    async def _send_response(self, send: Any, response: Any) -> None:
        if not isinstance(response, PackageResponse):
            await super()._send_response(send, response)
            return
        headers = encode_headers(response.headers)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if response.package is not None and not await self._send_package(send, response.package):
            # Returning without the last message makes the server cut the connection: the client sees a failure and
            # never a short file.
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_package(self, send: Any, package: PackageBody) -> bool:
        """Send the body; tell whether all of it went out."""
        zero_copy = ZERO_COPY in (self.scope.get("extensions") or {})
        with package.sending() as cut:
            try:
                while (piece := await package.next(_largest(package, zero_copy=zero_copy))) is not None:
                    await _send_piece(send, package, piece, zero_copy=zero_copy)
                    if package.behind:  # the client takes no more, and the server has closed the connection
                        break
            except (FillFailed, OSError) as error:
                # OSError: the disk failed, or the file was cut while it was sent.
                package.failure = str(error)
        if cut is not None and cut.cancelled_caught:
            package.failure = "the fill it followed has failed"
        return package.whole


def _largest(package: PackageBody, *, zero_copy: bool) -> int:
    return SPAN_BYTES if zero_copy else package.downloads.window_bytes()


async def _send_piece(send: Any, package: PackageBody, piece: bytes | range, *, zero_copy: bool) -> None:
    if isinstance(piece, range) and zero_copy:
        span = {"file": package, "offset": piece.start, "count": len(piece)}
        await send({"type": ZERO_COPY, **span, "more_body": True})
        return
    data = piece if isinstance(piece, bytes) else await package.read(piece)
    await send({"type": "http.response.body", "body": data, "more_body": True})
    package.moved(len(data))
