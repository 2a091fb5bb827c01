"""A package's bytes onto the wire: read in worker threads by windows, never whole in memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from .conditional import plan_answer
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
        plan = plan_answer(
            version.size,
            version.etag,
            # A range is defined for GET alone (RFC 9110, 14.2).
            range_header=None if is_head else request.header(b"range"),
            if_range=request.header(b"if-range"),
            if_none_match=request.header(b"if-none-match"),
            if_match=request.header(b"if-match"),
        )
        headers = ((b"etag", version.etag.encode()), (b"accept-ranges", b"bytes"), *headers)
        if plan.status not in {200, 206}:
            await self._send_nothing(request, plan.status, version, headers)
            return
        headers = (*headers, (b"content-type", b"application/zip"), (b"content-length", b"%d" % plan.count))
        if plan.status == 206:
            last = plan.start + plan.count - 1
            headers = (*headers, (b"content-range", b"bytes %d-%d/%d" % (plan.start, last, version.size)))
        if is_head or plan.count == 0:
            await request.start(plan.status, headers)
            await request.send({"type": "http.response.body", "body": b""})
            return
        file = await anyio.to_thread.run_sync(PackageFile, version)
        self.active += 1
        try:
            await request.start(plan.status, headers)
            await self._send_body(request, file, plan.start, plan.count)
        finally:
            self.active -= 1
            file.close()

    async def _send_nothing(self, request: Request, status: int, version: Version, headers: tuple[Header, ...]) -> None:
        if status != 304:
            headers = (*headers, (b"content-length", b"0"))
        if status == 416:
            headers = (*headers, (b"content-range", b"bytes */%d" % version.size))
        await request.start(status, headers)
        await request.send({"type": "http.response.body", "body": b""})

    async def _send_body(self, request: Request, file: PackageFile, start: int, count: int) -> None:
        async with anyio.create_task_group() as group:
            # Servers drop what is sent to a client that left without a word: only `receive` tells.
            group.start_soon(_cancel_on_disconnect, request, group.cancel_scope)
            await self._send_windows(request, file, start, start + count)
            group.cancel_scope.cancel()

    async def _send_windows(self, request: Request, file: PackageFile, offset: int, end: int) -> None:
        while offset < end:
            size = min(self.window_bytes(), end - offset)
            try:
                data = await anyio.to_thread.run_sync(file.read, offset, size)
            except (PackageReplaced, PackageUnreadable, OSError) as error:
                _log.warning("an answer was cut off after %d bytes of the file: %s", offset, error)
                return
            offset += size
            with anyio.move_on_after(SEND_SECONDS) as limit:
                try:
                    await request.send({"type": "http.response.body", "body": data, "more_body": offset < end})
                except OSError:
                    return  # a server's way to say that the client has left (ASGI 2.4)
            if limit.cancelled_caught:
                _log.info("a client took no bytes for %.0f s and was cut off", SEND_SECONDS)
                return

    def window_bytes(self) -> int:
        """Return how much is read at once while `active` downloads share the read-ahead."""
        share = READ_AHEAD_BYTES // max(self.active, 1)
        return max(MIN_WINDOW_BYTES, min(WINDOW_BYTES, share))


async def _cancel_on_disconnect(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # a GET's body, if it has one, is of no interest
    scope.cancel()
