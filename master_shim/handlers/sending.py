"""Sending a package: read in worker threads, in windows that limit the memory of all downloads together."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from ..errors import PackageReplaced, PackageUnreadable
from ..packages.file import PackageFile
from ..protocol.answer import plan_answer

if TYPE_CHECKING:
    from ..asgi import Request
    from ..packages.file import PackageVersion
    from ..protocol.target import Header

_log = logging.getLogger("master_shim.sending")

WINDOW_BYTES = 1024 * 1024
"""Read and sent at once: below 256 KiB the switch to a worker thread costs more than the read."""
READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Memory of all downloads together: with more than 16 of them the windows are smaller."""
MIN_WINDOW_BYTES = 32 * 1024
"""Smallest window, whatever the number of downloads."""
SEND_SECONDS = 120.0
"""Time limit for one window: a slower client is cut off."""


class PackageSender:
    """Sends packages, and counts the downloads that are in progress and the bytes of packages sent."""

    def __init__(self) -> None:
        self.active = 0
        self.bytes_sent = 0

    async def send(self, request: Request, version: PackageVersion, headers: tuple[Header, ...]) -> None:
        """Answer `request` with `version`, or the ranges of it that are requested. `headers` are added to a success.

        Raises `PackageReplaced` or `PackageUnreadable` before anything is sent. If the package cannot be read later,
        the answer is cut off, which its Content-Length shows to the client.
        """
        if request.method == "HEAD" and not version.is_there:  # GET opens the file
            raise PackageReplaced(version.path)
        now = time.time()
        modified = version.modified if version.modified <= now else None  # unknown: the clock was set back
        answer = plan_answer(
            request.method, request.fields, version.size, version.etag, "application/zip", modified=modified, now=now
        )
        headers = answer.headers if answer.status >= 400 else (*answer.headers, *headers)
        if (body := answer.small_body) is not None:
            await request.start(answer.status, headers)
            await request.send({"type": "http.response.body", "body": body})
            return
        try:
            file = await anyio.to_thread.run_sync(PackageFile, version)
        except PackageUnreadable as error:
            _log.error("package %s cannot be read: %s", error.subject, error.reason)
            raise
        self.active += 1
        try:
            await request.start(answer.status, headers)
            await self._send_body(request, file, answer.pieces)
        finally:
            self.active -= 1
            file.close()

    async def _send_body(self, request: Request, file: PackageFile, pieces: tuple[bytes | range, ...]) -> None:
        complete = False
        async with anyio.create_task_group() as group:
            # Servers discard what is sent to a client that disconnected; only `receive` reports it.
            group.start_soon(_cancel_on_disconnect, request, group.cancel_scope)
            for piece in pieces:
                if not await self._send_piece(request, file, piece):
                    break
            else:
                complete = True
            group.cancel_scope.cancel()
        if complete:
            # Outside the group: after the last message Hypercorn reports a disconnect, and a cancellation then would
            # interrupt it before it closes the connection (on Trio, measured).
            with anyio.move_on_after(SEND_SECONDS):
                await request.send({"type": "http.response.body", "body": b""})

    async def _send_piece(self, request: Request, file: PackageFile, piece: bytes | range) -> bool:
        """Send a piece of the body. Return false if the file cannot be read or the client took too long."""
        if isinstance(piece, bytes):
            return await _send_window(request, piece)
        offset = piece.start
        while offset < piece.stop:
            size = min(self.window_bytes(), piece.stop - offset)
            try:
                data = await anyio.to_thread.run_sync(file.read, offset, size)
            except (PackageReplaced, PackageUnreadable, OSError) as error:
                _log.warning("an answer was cut off after %d bytes of the file: %s", offset, error)
                return False
            offset += size
            if not await _send_window(request, data):
                return False
            self.bytes_sent += size
        return True

    def window_bytes(self) -> int:
        """Return the window size: the read-ahead divided by the downloads in progress."""
        share = READ_AHEAD_BYTES // max(self.active, 1)
        return max(MIN_WINDOW_BYTES, min(WINDOW_BYTES, share))


async def _send_window(request: Request, data: bytes) -> bool:
    """Send a part of the body. Return false if the client disconnected or took too long."""
    with anyio.move_on_after(SEND_SECONDS) as limit:
        try:
            await request.send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            return False  # the client disconnected (ASGI 2.4)
    if limit.cancelled_caught:
        _log.info("a client took no bytes for %.0f s and was cut off", SEND_SECONDS)
    return not limit.cancelled_caught


async def _cancel_on_disconnect(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # the body of a GET is discarded
    scope.cancel()
