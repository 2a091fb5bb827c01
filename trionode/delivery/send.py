"""Send a package's body in ASGI messages: spans of a file if the server has zero-copy, else windows of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..errors import FillFailed

if TYPE_CHECKING:
    from .body import PackageBody

ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension by which a server sends a file without copying it through this process."""

SPAN_BYTES = 4 << 20
"""Size of one zero-copy message. It takes no memory of this process; before each, the source is checked."""

FINAL_SECONDS = 5.0
"""Time limit of the last message of an answer, which a disconnection of the client must not interrupt."""


async def send_shielding_end(send: Any, message: Any) -> None:
    """Send a message; the last one of an answer is not interrupted.

    After it, Hypercorn reports a disconnection to the task that receives. If that cancels this task while it makes the
    connection idle, an idle connection is never closed (measured).
    """
    if message["type"] != "http.response.body" or message.get("more_body", False):
        await send(message)
        return
    with trio.move_on_after(FINAL_SECONDS, shield=True):
        await send(message)


async def send_body(send: Any, body: PackageBody, *, zero_copy: bool) -> bool:
    """Send a body without the message that ends it. Return whether all of it was sent."""
    with body.sending() as failed:
        try:
            while (piece := await body.next(SPAN_BYTES if zero_copy else body.window_bytes())) is not None:
                await _send_piece(send, body, piece, zero_copy=zero_copy)
                if body.behind:  # the server has closed the connection
                    break
        except (FillFailed, OSError) as error:
            # OSError: the disk failed, or the file was truncated while it was sent.
            body.fail(str(error))
    if failed is not None and failed.cancelled_caught:
        body.fail("the fill it followed has failed")
    return body.complete


async def _send_piece(send: Any, body: PackageBody, piece: bytes | range, *, zero_copy: bool) -> None:
    if isinstance(piece, range) and zero_copy:
        await send({"type": ZERO_COPY, "file": body, "offset": piece.start, "count": len(piece), "more_body": True})
        return
    data = piece if isinstance(piece, bytes) else await body.read(piece)
    await send({"type": "http.response.body", "body": data, "more_body": True})
    body.count_sent(len(data))
