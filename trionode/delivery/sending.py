"""From a package's body to ASGI messages: spans of a file where the server has zero-copy, else windows of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..errors import FillFailed

if TYPE_CHECKING:
    from .body import PackageBody

ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension by which a server sends a file's bytes without their passing through this process."""

SPAN_BYTES = 4 << 20
"""What one such message names. Nothing of it is in this process's memory; between two, the source is looked at."""

FINAL_SECONDS = 5.0
"""What handing over the last message may take, while the client's disconnection must not interrupt it."""


async def end_shielded(send: Any, message: Any) -> None:
    """Send a message, the last of an answer without being interrupted.

    Once that is out, Hypercorn tells the other half of the request that the client is gone. Where that cancels this
    half, it does so in the middle of making the connection idle: it would never be closed (measured).
    """
    if message["type"] != "http.response.body" or message.get("more_body", False):
        await send(message)
        return
    with trio.move_on_after(FINAL_SECONDS, shield=True):
        await send(message)


async def send_package(send: Any, package: PackageBody, *, zero_copy: bool) -> bool:
    """Send a body, all but the message that ends it; tell whether all of it went out."""
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
