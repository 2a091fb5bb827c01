"""A package's bytes onto the wire: read in worker threads by windows, never whole in memory."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from .conditional import Conditions, compose, plan_answer
from .dates import format_date
from .errors import PackageReplaced, PackageUnreadable
from .versions import PackageFile

if TYPE_CHECKING:
    from .asgi import Header, Request
    from .versions import Version

_log = logging.getLogger("master_shim.sending")

WINDOW_BYTES = 1024 * 1024
"""Read and handed on at once: below 256 KiB the hop to a thread costs more than the read."""
READ_AHEAD_BYTES = 16 * 1024 * 1024
"""What all downloads together may hold in memory: with more than 16 of them the windows get smaller."""
MIN_WINDOW_BYTES = 32 * 1024
SEND_SECONDS = 120.0
"""A reader that does not take one window in this time is asleep or gone; its connection is cut."""


class PackageSender:
    """Sends packages, and knows how many it is sending."""

    def __init__(self) -> None:
        self.active = 0

    async def send(self, request: Request, version: Version, headers: tuple[Header, ...]) -> None:
        """Answer `request` with `version`, or the part of it that its headers ask for.

        Raises `PackageReplaced` or `PackageUnreadable` before anything is sent. Once bytes are on the way, an
        answer that cannot be finished is cut off: its Content-Length tells the client.
        """
        is_head = request.method == "HEAD"
        now = time.time()
        modified = version.modified if version.modified <= now else None  # a clock was set back: nothing is known
        asked = Conditions(
            # A range is defined for GET alone (RFC 9110, 14.2).
            range=None if is_head else request.header(b"range"),
            if_range=request.header(b"if-range"),
            if_match=request.header(b"if-match"),
            if_none_match=request.header(b"if-none-match"),
            if_modified_since=request.header(b"if-modified-since"),
            if_unmodified_since=request.header(b"if-unmodified-since"),
        )
        plan = plan_answer(version.size, version.etag, asked, modified=modified, now=now)
        said, pieces = compose(plan, version.size, version.etag, "application/zip")
        headers = (*((name.lower().encode(), value.encode()) for name, value in said), *headers)
        if modified is not None:
            headers = (*headers, (b"last-modified", format_date(modified).encode()))
        if is_head or not plan.ranges:
            await request.start(plan.status, headers)
            await request.send({"type": "http.response.body", "body": b""})
            return
        file = await anyio.to_thread.run_sync(PackageFile, version)
        self.active += 1
        try:
            await request.start(plan.status, headers)
            await self._send_body(request, file, pieces)
        finally:
            self.active -= 1
            file.close()

    async def _send_body(self, request: Request, file: PackageFile, pieces: tuple[bytes | range, ...]) -> None:
        async with anyio.create_task_group() as group:
            # Servers drop what is sent to a client that left without a word: only `receive` tells.
            group.start_soon(_cancel_on_disconnect, request, group.cancel_scope)
            for number, piece in enumerate(pieces, 1):
                if not await self._send_piece(request, file, piece, last=number == len(pieces)):
                    break
            group.cancel_scope.cancel()

    async def _send_piece(self, request: Request, file: PackageFile, piece: bytes | range, *, last: bool) -> bool:
        """Send framing, or a range of the file by windows; tell whether that was done and the client is there."""
        if isinstance(piece, bytes):
            return await _send_window(request, piece, more=not last)
        offset = piece.start
        while offset < piece.stop:
            size = min(self.window_bytes(), piece.stop - offset)
            try:
                data = await anyio.to_thread.run_sync(file.read, offset, size)
            except (PackageReplaced, PackageUnreadable, OSError) as error:
                _log.warning("an answer was cut off after %d bytes of the file: %s", offset, error)
                return False
            offset += size
            if not await _send_window(request, data, more=not last or offset < piece.stop):
                return False
        return True

    def window_bytes(self) -> int:
        """Return how much is read at once while `active` downloads share the read-ahead."""
        share = READ_AHEAD_BYTES // max(self.active, 1)
        return max(MIN_WINDOW_BYTES, min(WINDOW_BYTES, share))


async def _send_window(request: Request, data: bytes, *, more: bool) -> bool:
    """Send some of a body; tell whether the client took it."""
    with anyio.move_on_after(SEND_SECONDS) as limit:
        try:
            await request.send({"type": "http.response.body", "body": data, "more_body": more})
        except OSError:
            return False  # a server's way to say that the client has left (ASGI 2.4)
    if limit.cancelled_caught:
        _log.info("a client took no bytes for %.0f s and was cut off", SEND_SECONDS)
    return not limit.cancelled_caught


async def _cancel_on_disconnect(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # a GET's body, if it has one, is of no interest
    scope.cancel()
