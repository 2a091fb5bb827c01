"""A proxy that limits the rate of an origin's answers and counts their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

BLOCK_BYTES = 16 << 10
"""Bytes that one connection sends in a turn."""

BURST_SECONDS = 0.02
"""Burst after idle time: the resolution of timers."""


class LimitedOrigin:
    """A proxy on its own port, in a thread. A context manager that ends it."""

    def __init__(self, port: int, bytes_per_second: float) -> None:
        self._upstream = port
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="limited origin", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.sent = 0
        """Bytes of answers, headers included."""
        self.asked_at = 0.0
        """Time of the last request, by `time.monotonic`."""

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Cut all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            try:
                # When one side closes, close the other.
                down = asyncio.create_task(self._send_back(behind_reader, writer))
                up = asyncio.create_task(self._pass_on(reader, behind_writer))
                try:
                    await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    down.cancel()
                    up.cancel()
                    await asyncio.gather(down, up, return_exceptions=True)
            finally:
                behind_writer.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(BLOCK_BYTES):
            self.asked_at = time.monotonic()
            writer.write(data)
            await writer.drain()

    async def _send_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(BLOCK_BYTES):
            now = time.monotonic()
            self._free_at = max(now - BURST_SECONDS, self._free_at) + len(data) / self._rate
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)
            self.sent += len(data)
            writer.write(data)
            await writer.drain()
