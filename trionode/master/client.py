"""The client for the master. Every call raises `OriginUnreachable` (no answer) or `OriginError` (an unusable one)."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from master_shim import protocol
from store import InvalidManifest, Manifest

from ..errors import MeetingUnknown, OriginError, VersionGone
from .responses import (
    API,
    MeetingList,
    decode,
    expect_status,
    meetings_of_node_status,
    meetings_of_token_status,
    read_body,
)
from .tls import tls_context
from .transport import Body, FetchPace, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from store import Digest

CALL_SECONDS = 5.0
"""Time limit of a small call, as in the deployed tablets."""

MAX_MANIFEST_BYTES = 64 << 20
"""Far above any real manifest: 100,000 documents make about 20 MB."""


class Master:
    """A client for one master, at a base URL such as `http://192.168.1.10:8000`. Closed by `aclose`.

    Certificates in `ca_file` are trusted, too. Raises `SettingError` if that file cannot be used.
    """

    def __init__(self, base_url: str, ca_file: Path | None = None, pace: FetchPace | None = None) -> None:
        self.base_url = base_url
        self.protocol = 0
        """The protocol version in the last heartbeat's answer; 0 before it, and always for a legacy master."""
        self.bytes_fetched = 0
        """Bytes of packages and manifests received since the start, as sent over the wire."""
        self._has_node_status = True
        self._transport = Transport(base_url, tls_context(ca_file), pace or FetchPace(), CALL_SECONDS)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def renew(self) -> None:
        """Use new connections from now on; what is arriving over old ones arrives."""
        await self._transport.renew()

    def _count_fetched(self, count: int) -> None:
        self.bytes_fetched += count

    async def register(self, registration: protocol.Registration) -> None:
        """Register this node."""
        await self._transport.call("POST", f"{API}/nodes/register", registration)

    async def heartbeat(self, beat: protocol.Heartbeat) -> protocol.HeartbeatAnswer:
        """Send a heartbeat, and remember the protocol version of the answer."""
        body = await self._transport.call("POST", f"{API}/nodes/heartbeat", beat)
        answer = decode(body, protocol.HeartbeatAnswer)
        self.protocol = min(answer.protocol, protocol.PROTOCOL)
        return answer

    async def unregister(self, node_id: str) -> None:
        """Unregister this node. Does nothing if it is not registered."""
        try:
            await self._transport.call("POST", f"{API}/nodes/unregister", protocol.Unregistration(node_id))
        except OriginError as error:
            if error.status != 404:
                raise

    async def poll(self) -> MeetingList:
        """Return the meetings in progress, from `status/node`, or `status/token` at masters without it."""
        if self._has_node_status:
            try:
                return meetings_of_node_status(await self._transport.call("GET", f"{API}/meetings/status/node"))
            except OriginError as error:
                if error.status not in {404, 405}:
                    raise
                self._has_node_status = False
        try:
            return meetings_of_token_status(await self._transport.call("GET", f"{API}/meetings/status/token"))
        except OriginError:
            # The master may have been replaced by one that has the other call.
            self._has_node_status = True
            raise

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        """Return the manifest of a meeting's current version, or None if that is still `known`.

        Raises `MeetingUnknown`, or `OriginError` with status 404 from a legacy master, which has no such route.
        """
        headers = {"If-None-Match": f'"{known}"'} if known else {}
        path = f"{API}/meetings/{quote(meeting_id, safe='')}/manifest"
        async with self._transport.stream("GET", path, headers) as response:
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
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[Body]:
        """Open the bytes `[start, stop)` of a version. Reading the body gives exactly these, or raises.

        Raises `VersionGone` if the master has another version, `OriginError`, `OriginUnreachable`.
        """
        path = f"{API}/packages/{digest}"
        try:
            async with self._transport.range_body(path, {}, start, stop, self._count_fetched) as body:
                yield body
        except OriginError as error:
            if error.status == 404:
                raise VersionGone(digest) from error
            raise

    @asynccontextmanager
    async def package(self, meeting_id: str) -> AsyncIterator[Body]:
        """Open a legacy master's package. Its length is known only if the master sends it."""
        path = f"{API}/meetings/{quote(meeting_id, safe='')}/download-package-direct"
        try:
            async with self._transport.whole_body(path, {}, self._count_fetched) as body:
                yield body
        except OriginError as error:
            if error.status == 404:
                raise MeetingUnknown(meeting_id) from error
            raise

    async def version_nodes(self, digest: Digest, node_id: str) -> list[protocol.VersionNode]:
        """Return the nodes that have a version or may get it, without `node_id`. From a shim only."""
        path = f"{API}/packages/{digest}/nodes?node={quote(node_id, safe='')}"
        return decode(await self._transport.call("GET", path), list[protocol.VersionNode])

    async def nodes(self) -> list[protocol.ListedNode]:
        """Return the nodes that are registered, from any master."""
        return decode(await self._transport.call("GET", f"{API}/nodes/list"), list[protocol.ListedNode])
