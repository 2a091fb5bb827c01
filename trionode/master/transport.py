"""HTTP requests to masters and to other nodes: the only module of the node that uses httpx.

Every call raises `OriginUnreachable` (no answer) or `OriginError` (an answer that cannot be used), never an
httpx error. Cancelling a request of httpx 0.28 can leak its connection's slot in the pool (measured: 4 of 5 lost
after 60 rounds), so an exhausted pool is replaced by a new one.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import msgspec
import structlog
import trio

from ..errors import OriginError, OriginUnreachable
from ..token_bucket import Bucket
from .responses import expect_status, read_body, refuse_coding
from .tls import reason_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from ..settings import Settings

STALL_SECONDS = 30.0
"""Time limit without a byte of a package body. A master builds the zip before its first byte."""

MAX_ANSWER_BYTES = 8 << 20
"""Size limit of a small answer; a thousand meetings with long titles are a tenth of it."""

CONNECTIONS = 32

CLOSE_SECONDS = 2.0
"""Time limit for closing connections that are not used any more."""

_log = structlog.get_logger("trionode.master")


class FetchPace:
    """The rate limit of everything that is fetched, `sync_bytes_per_second`."""

    def __init__(self) -> None:
        self._bucket: Bucket | None = None

    def configure(self, settings: Settings) -> None:
        """Apply the limit of the settings."""
        rate = settings.sync_bytes_per_second
        if rate != (self._bucket.rate if self._bucket else 0):
            self._bucket = Bucket(rate) if rate else None

    async def spend(self, count: int) -> None:
        """Wait until `count` received bytes are within the limit. The sender then waits, too."""
        if self._bucket is not None:
            await trio.sleep(self._bucket.reserve(count, trio.current_time()))


class Transport:
    """Requests below a base URL, or to any URL if that is "". Closed by `aclose`.

    `call_seconds` limits a small call, and every connection attempt.
    """

    def __init__(self, base_url: str, tls: ssl.SSLContext, pace: FetchPace, call_seconds: float) -> None:
        self._base_url = base_url
        self._tls = tls
        self._pace = pace
        self._call_seconds = call_seconds
        self._client = self._new_client()
        self._in_use: Counter[httpx.AsyncClient] = Counter()
        """Requests in progress, by client. A client that was replaced is closed after its last one."""

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base_url,
            timeout=httpx.Timeout(self._call_seconds, read=STALL_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            # A node, its master and other nodes share a LAN: a proxy from the environment does not apply to them.
            trust_env=False,
            verify=self._tls,
            # The only coding that `read_body` accepts.
            headers={"Accept-Encoding": "gzip"},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        for client in {self._client, *self._in_use}:
            await client.aclose()

    async def renew(self) -> None:
        """Use new connections from now on. The old ones are closed when no answer is arriving over any of them."""
        old, self._client = self._client, self._new_client()
        await self._close_if_replaced(old)

    async def _close_if_replaced(self, client: httpx.AsyncClient) -> None:
        if not self._in_use[client]:
            del self._in_use[client]
            if client is not self._client:
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await client.aclose()

    async def call(self, method: str, url: str, body: msgspec.Struct | None = None) -> bytes:
        """Return the body of a small answer with status 200."""
        with trio.move_on_after(self._call_seconds):
            content = None if body is None else msgspec.json.encode(body)
            async with self.stream(method, url, {}, content) as response:
                await expect_status(response, 200)
                return await read_body(response, MAX_ANSWER_BYTES)
        raise OriginUnreachable(f"no answer to {method} {url} in {self._call_seconds:g} s")

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, and yield the answer whose body is read in the block."""
        client = self._client
        if content is not None:
            headers["Content-Type"] = "application/json"
        self._in_use[client] += 1
        try:
            async with client.stream(method, url, headers=headers, content=content) as response:
                yield response
        except httpx.PoolTimeout as error:
            if client is self._client:
                _log.warning("the connection pool is exhausted and is replaced")
                self._client = self._new_client()
            raise OriginUnreachable("no connection was free") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise OriginUnreachable(reason_of(error)) from error
        except httpx.HTTPError as error:
            raise OriginError(str(error)) from error
        finally:
            self._in_use[client] -= 1
            await self._close_if_replaced(client)

    @asynccontextmanager
    async def range_body(
        self, url: str, headers: dict[str, str], start: int, stop: int, count: Callable[[int], None]
    ) -> AsyncIterator[Body]:
        """Open the bytes `[start, stop)` of what is at `url`. Reading the body gives exactly these, or raises."""
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with self.stream("GET", url, headers) as response:
            if not (response.status_code == 200 and start == 0):
                await expect_status(response, 206)
                found = response.headers.get("Content-Range", "")
                if not found.startswith(f"bytes {start}-{stop - 1}/"):
                    raise OriginError(f"asked for bytes {start}-{stop - 1}, got {found or None}")
            yield Body(response, count, self._pace, stop - start)

    @asynccontextmanager
    async def whole_body(self, url: str, headers: dict[str, str], count: Callable[[int], None]) -> AsyncIterator[Body]:
        """Open all of what is at `url`."""
        async with self.stream("GET", url, headers | {"Accept-Encoding": "identity"}) as response:
            await expect_status(response, 200)
            yield Body(response, count, self._pace)


class Body:
    """The bytes of a package, or of a range of it, as they arrive. `size` in bytes; None if the sender omits it.

    With `exactly`, iterating raises `OriginError` for more bytes, and `OriginUnreachable` for fewer. Raises
    `OriginError` if the body has a content coding: none was accepted, and its bytes are not those of the package.
    """

    def __init__(
        self, response: httpx.Response, count: Callable[[int], None], pace: FetchPace, exactly: int | None = None
    ) -> None:
        refuse_coding(response, {"identity"})
        self._response = response
        self._count = count
        self._pace = pace
        self._exactly = exactly
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isascii() and length.isdigit() else None
        self.etag: str = response.headers.get("ETag", "").strip('"')

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for data in self._response.aiter_raw():
            self._count(len(data))
            received += len(data)
            if self._exactly is not None and received > self._exactly:
                raise OriginError("more bytes than were requested")
            await self._pace.spend(len(data))
            yield data
        if self._exactly is not None and received < self._exactly:
            raise OriginUnreachable(f"{received} of {self._exactly} bytes arrived")
