"""The HTTP client for the master: the only module of the node that uses httpx.

Every call raises `OriginUnreachable` (no answer) or `OriginError` (an answer that cannot be used), never an
httpx error. Cancelling a request of httpx 0.28 can leak its connection's slot in the pool (measured: 4 of 5 lost
after 60 rounds), so an exhausted pool is replaced by a new one.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import msgspec
import structlog
import trio

from master_shim import protocol
from store import InvalidManifest, Manifest

from ..errors import MeetingUnknown, OriginError, OriginUnreachable, VersionGone
from .responses import (
    API,
    MeetingList,
    decode,
    expect_status,
    meetings_of_node_status,
    meetings_of_token_status,
    read_body,
)
from .tls import reason_of, tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from store import Digest

CALL_SECONDS = 5.0
"""Time limit of a small call, as in the deployed tablets."""

STALL_SECONDS = 30.0
"""Time limit without a byte of a package body. A master builds the zip before its first byte."""

MAX_MANIFEST_BYTES = 64 << 20
"""Far above any real manifest: 100,000 documents make about 20 MB."""

MAX_ANSWER_BYTES = 8 << 20
"""Size limit of any other small answer; a thousand meetings with long titles are a tenth of it."""

CONNECTIONS = 32

_log = structlog.get_logger("trionode.master")


class Master:
    """A client for one master, at a base URL such as `http://192.168.1.10:8000`. Closed by `aclose`.

    Certificates in `ca_file` are trusted, too. Raises `SettingError` if that file cannot be used.
    """

    def __init__(self, base_url: str, ca_file: Path | None = None) -> None:
        self.base_url = base_url
        self.protocol = 0
        """The protocol version in the last heartbeat's answer; 0 before it, and always for a legacy master."""
        self.bytes_fetched = 0
        """Bytes of packages and manifests received since the start, as sent over the wire."""
        self._has_node_status = True
        self._tls = tls_context(ca_file)
        self._client = self._new_client()
        self._retired: list[httpx.AsyncClient] = []

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.base_url,
            timeout=httpx.Timeout(CALL_SECONDS, read=STALL_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            # A node and its master share a LAN: a proxy from the environment does not apply to them.
            trust_env=False,
            verify=self._tls,
            # The only coding that `read_body` accepts.
            headers={"Accept-Encoding": "gzip"},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._retired):
            await client.aclose()

    def _count_fetched(self, count: int) -> None:
        self.bytes_fetched += count

    async def register(self, registration: protocol.Registration) -> None:
        """Register this node."""
        await self._call("POST", f"{API}/nodes/register", registration)

    async def heartbeat(self, beat: protocol.Heartbeat) -> protocol.HeartbeatAnswer:
        """Send a heartbeat, and remember the protocol version of the answer."""
        body = await self._call("POST", f"{API}/nodes/heartbeat", beat)
        answer = decode(body, protocol.HeartbeatAnswer)
        self.protocol = min(answer.protocol, protocol.PROTOCOL)
        return answer

    async def unregister(self, node_id: str) -> None:
        """Unregister this node. Does nothing if it is not registered."""
        try:
            await self._call("POST", f"{API}/nodes/unregister", protocol.Unregistration(node_id))
        except OriginError as error:
            if error.status != 404:
                raise

    async def poll(self) -> MeetingList:
        """Return the meetings in progress, from `status/node`, or `status/token` at masters without it."""
        if self._has_node_status:
            try:
                return meetings_of_node_status(await self._call("GET", f"{API}/meetings/status/node"))
            except OriginError as error:
                if error.status not in {404, 405}:
                    raise
                self._has_node_status = False
        try:
            return meetings_of_token_status(await self._call("GET", f"{API}/meetings/status/token"))
        except OriginError:
            # The master may have been replaced by one that has the other call.
            self._has_node_status = True
            raise

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        """Return the manifest of a meeting's current version, or None if that is still `known`.

        Raises `MeetingUnknown`, or `OriginError` with status 404 from a legacy master, which has no such route.
        """
        headers = {"If-None-Match": f'"{known}"'} if known else {}
        async with self._stream("GET", f"{API}/meetings/{quote(meeting_id, safe='')}/manifest", headers) as response:
            if response.status_code == 304 and known is not None:
                return None
            if response.status_code == 404 and self.protocol:
                raise MeetingUnknown(meeting_id)
            await expect_status(response, 200)
            body = await read_body(response, MAX_MANIFEST_BYTES)
            self._count_fetched(response.num_bytes_downloaded)
        try:
            return await trio.to_thread.run_sync(Manifest.from_json, body)
        except InvalidManifest as error:
            raise OriginError(str(error)) from error

    async def fetch_range(self, digest: Digest, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)` of a version. Errors as `package_range`."""
        async with self.package_range(digest, start, stop) as body:
            return b"".join([data async for data in body])

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[OriginBody]:
        """Open the bytes `[start, stop)` of a version. Reading the body gives exactly these, or raises.

        Raises `VersionGone` if the master has another version, `OriginError`, `OriginUnreachable`.
        """
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with self._stream("GET", f"{API}/packages/{digest}", headers) as response:
            if response.status_code == 404:
                raise VersionGone(digest)
            whole = response.status_code == 200 and start == 0
            if not whole:
                await expect_status(response, 206)
                if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-{stop - 1}/"):
                    raise OriginError(
                        f"asked for bytes {start}-{stop - 1}, got {response.headers.get('Content-Range')}"
                    )
            yield OriginBody(response, self._count_fetched, stop - start)

    @asynccontextmanager
    async def package(self, meeting_id: str) -> AsyncIterator[OriginBody]:
        """Open a legacy master's package. Its length is known only if the master sends it."""
        path = f"{API}/meetings/{quote(meeting_id, safe='')}/download-package-direct"
        async with self._stream("GET", path, {"Accept-Encoding": "identity"}) as response:
            if response.status_code == 404:
                raise MeetingUnknown(meeting_id)
            await expect_status(response, 200)
            yield OriginBody(response, self._count_fetched)

    async def _call(self, method: str, path: str, body: msgspec.Struct | None = None) -> bytes:
        with trio.move_on_after(CALL_SECONDS):
            async with self._stream(method, path, {}, None if body is None else msgspec.json.encode(body)) as response:
                await expect_status(response, 200)
                return await read_body(response, MAX_ANSWER_BYTES)
        raise OriginUnreachable(f"no answer to {method} {path} in {CALL_SECONDS:g} s")

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        client = self._client
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with client.stream(method, path, headers=headers, content=content) as response:
                yield response
        except httpx.PoolTimeout as error:
            if client is self._client:
                _log.warning("the connection pool is exhausted and is replaced")
                # Not closed yet: bodies may still be arriving through it.
                self._retired.append(client)
                self._client = self._new_client()
            raise OriginUnreachable("no connection was free") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise OriginUnreachable(reason_of(error)) from error
        except httpx.HTTPError as error:
            raise OriginError(str(error)) from error


class OriginBody:
    """The bytes of a package, or of a range of it, as they arrive. `size` in bytes; None if the master omits it.

    With `exactly`, iterating raises `OriginError` for more bytes, and `OriginUnreachable` for fewer.
    """

    def __init__(self, response: httpx.Response, count: Callable[[int], None], exactly: int | None = None) -> None:
        self._response = response
        self._count = count
        self._exactly = exactly
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isascii() and length.isdigit() else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for data in self._response.aiter_raw():
            self._count(len(data))
            received += len(data)
            if self._exactly is not None and received > self._exactly:
                raise OriginError("more bytes than were requested")
            yield data
        if self._exactly is not None and received < self._exactly:
            raise OriginUnreachable(f"{received} of {self._exactly} bytes arrived")
