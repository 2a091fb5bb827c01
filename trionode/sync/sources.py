"""The master, as the node talks to it: the one module that knows httpx.

Every call raises `OriginUnreachable` (no answer) or `OriginError` (an answer that cannot be used), never an
httpx error. Cancelling a request of httpx 0.28 can leak its connection's place in the pool (measured: 4 of 5 gone
after 60 rounds), so a pool that has no place left is thrown away and made anew.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import structlog
import trio

from master_shim import protocol
from store import InvalidManifest, Manifest

from ..errors import MeetingUnknown, OriginError, OriginUnreachable, VersionGone
from .plan import Look

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from store import Digest

CALL_SECONDS = 5.0
"""A small call that takes longer has failed: the deployed tablets allow the master as much."""

STALL_SECONDS = 30.0
"""A package body that brings nothing for so long is given up. A master builds the zip before its first byte."""

MAX_MANIFEST_BYTES = 64 << 20
"""No real manifest comes near: 100,000 documents make about 20 MB."""

MAX_ANSWER_BYTES = 8 << 20
"""Of any other small call: a thousand meetings with long titles make a tenth."""

MAX_DETAIL_BYTES = 64 << 10
MAX_DETAIL_CHARS = 200
"""What is read of an error's answer, and shown of the reason it gives."""

CONNECTIONS = 16
API = "/api/v1"

_log = structlog.get_logger("trionode.master")
T = TypeVar("T")


class Master:
    """One master, at a base URL such as `http://192.168.1.10:8000`. Closed by `aclose`."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.protocol = 0
        """What the last heartbeat's answer said; 0 until then, and always for a legacy master."""
        self.bytes_fetched = 0
        """Bytes of packages and manifests received since the start, as they came over the wire."""
        self._has_node_status = True
        self._client = self._new_client()
        self._retired: list[httpx.AsyncClient] = []

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.base_url,
            timeout=httpx.Timeout(CALL_SECONDS, read=STALL_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=4),
            # A node and its master share a LAN; a proxy from the environment would only come between them.
            trust_env=False,
            # The one coding that is read, see `_read`.
            headers={"Accept-Encoding": "gzip"},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._retired):
            await client.aclose()

    async def register(self, registration: protocol.Registration) -> None:
        """Tell the master that this node is there."""
        await self._call("POST", f"{API}/nodes/register", registration)

    async def heartbeat(self, beat: protocol.Heartbeat) -> protocol.HeartbeatAnswer:
        """Beat, and remember which protocol the master speaks."""
        body = await self._call("POST", f"{API}/nodes/heartbeat", beat)
        answer = _decode(body, protocol.HeartbeatAnswer)
        self.protocol = min(answer.protocol, protocol.PROTOCOL)
        return answer

    async def unregister(self, node_id: str) -> None:
        """Tell the master that this node leaves. One the master has forgotten already is no error."""
        try:
            await self._call("POST", f"{API}/nodes/unregister", protocol.Unregistration(node_id))
        except OriginError as error:
            if error.status != 404:
                raise

    async def look(self) -> Look:
        """Ask which meetings are in progress: `status/node`, or on masters without it `status/token`."""
        if self._has_node_status:
            try:
                return _look_of_node_status(await self._call("GET", f"{API}/meetings/status/node"))
            except OriginError as error:
                if error.status not in {404, 405}:
                    raise
                self._has_node_status = False
        try:
            return _look_of_token_status(await self._call("GET", f"{API}/meetings/status/token"))
        except OriginError:
            # The master may have been replaced by one that has the other call.
            self._has_node_status = True
            raise

    async def manifest(self, meeting_id: str, known: Digest | None) -> Manifest | None:
        """Return the manifest of a meeting's current version, or None when it still is `known`.

        Raises `MeetingUnknown`, or `OriginError` with status 404 from a legacy master, which has no such route.
        """
        headers = {"If-None-Match": f'"{known}"'} if known else {}
        async with self._stream("GET", f"{API}/meetings/{quote(meeting_id, safe='')}/manifest", headers) as response:
            if response.status_code == 304 and known is not None:
                return None
            if response.status_code == 404 and self.protocol:
                raise MeetingUnknown(meeting_id)
            await _expect(response, 200)
            body = await _read(response, MAX_MANIFEST_BYTES)
            self.bytes_fetched += response.num_bytes_downloaded
        try:
            return await trio.to_thread.run_sync(Manifest.from_json, body)
        except InvalidManifest as error:
            raise OriginError(str(error)) from error

    async def fetch_range(self, digest: Digest, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)` of a version. Errors as `package_range`."""
        async with self.package_range(digest, start, stop) as body:
            return b"".join([data async for data in body])

    @asynccontextmanager
    async def package_range(self, digest: Digest, start: int, stop: int) -> AsyncIterator[PackageBody]:
        """Open the bytes `[start, stop)` of a version: exactly as many come, or an error.

        Raises `VersionGone` once the master has another, `OriginError`, `OriginUnreachable`.
        """
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        async with self._stream("GET", f"{API}/packages/{digest}", headers) as response:
            if response.status_code == 404:
                raise VersionGone(digest)
            whole = response.status_code == 200 and start == 0
            if not whole:
                await _expect(response, 206)
                if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-{stop - 1}/"):
                    raise OriginError(
                        f"asked for bytes {start}-{stop - 1}, got {response.headers.get('Content-Range')}"
                    )
            yield PackageBody(self, response, stop - start)

    @asynccontextmanager
    async def package(self, meeting_id: str) -> AsyncIterator[PackageBody]:
        """Open a legacy master's package, whose length is known only if the master says so."""
        path = f"{API}/meetings/{quote(meeting_id, safe='')}/download-package-direct"
        async with self._stream("GET", path, {"Accept-Encoding": "identity"}) as response:
            if response.status_code == 404:
                raise MeetingUnknown(meeting_id)
            await _expect(response, 200)
            yield PackageBody(self, response)

    async def _call(self, method: str, path: str, body: msgspec.Struct | None = None) -> bytes:
        with trio.move_on_after(CALL_SECONDS):
            async with self._stream(method, path, {}, None if body is None else msgspec.json.encode(body)) as response:
                await _expect(response, 200)
                return await _read(response, MAX_ANSWER_BYTES)
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
                _log.warning("the connection pool is used up and is made anew")
                # Not closed yet: bodies may still be arriving through it.
                self._retired.append(client)
                self._client = self._new_client()
            raise OriginUnreachable("no connection was free") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise OriginUnreachable(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from error
        except httpx.HTTPError as error:
            raise OriginError(str(error)) from error


class PackageBody:
    """A package's bytes, or some of them, as they arrive. `size` in bytes, or None where the master does not say.

    With `exactly`, iterating raises `OriginError` for more than so many bytes, and `OriginUnreachable` for fewer.
    """

    def __init__(self, master: Master, response: httpx.Response, exactly: int | None = None) -> None:
        self._master = master
        self._response = response
        self._exactly = exactly
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isascii() and length.isdigit() else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for data in self._response.aiter_raw():
            self._master.bytes_fetched += len(data)
            received += len(data)
            if self._exactly is not None and received > self._exactly:
                raise OriginError("more bytes than were asked for")
            yield data
        if self._exactly is not None and received < self._exactly:
            raise OriginUnreachable(f"{received} bytes of {self._exactly} arrived")


async def _expect(response: httpx.Response, status: int) -> None:
    """Raise `OriginError` for any other status, with the reason the master gives, if it gives one."""
    if response.status_code != status:
        what = f"{response.request.method} {response.request.url.path} was answered {response.status_code}"
        detail = await _detail(response)
        raise OriginError(f"{what}: {detail}" if detail else what, response.status_code)


async def _detail(response: httpx.Response) -> str:
    """Return the `detail` of an error's JSON as one short line, or "" when there is none.

    Read to its end, if it is short, so that the connection can be used again.
    """
    try:
        body = await _read(response, MAX_DETAIL_BYTES)
        detail = msgspec.json.decode(body, type=_Error).detail
    except (OriginError, *protocol.UNREADABLE):
        return ""
    return protocol.one_line(detail, MAX_DETAIL_CHARS) if isinstance(detail, str) else ""


class _Error(msgspec.Struct):
    detail: object = None


async def _read(response: httpx.Response, most: int) -> bytes:
    """Return a body of at most `most` bytes, decompressed. Raises `OriginError` as soon as it is longer.

    One layer of gzip at most: what comes in one read of the network then cannot grow beyond some 64 MB before it is
    looked at, while each further layer would make a thousand times as much of it.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in {"identity", "gzip"}:
        raise OriginError(f"the answer is compressed as nobody asked for: {coding[:80]}")
    body = bytearray()
    async for data in response.aiter_bytes():
        body += data
        if len(body) > most:
            raise OriginError(f"the answer is larger than any real one: more than {most} bytes")
    return bytes(body)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except protocol.UNREADABLE as error:
        raise OriginError(f"not the JSON it should be: {error}") from error


def _look_of_node_status(body: bytes) -> Look:
    status = _decode(body, protocol.NodeStatus)
    meetings = status.active_meetings
    if meetings is None:
        # Some deployed masters send a single meeting, and null or nothing when there is none.
        meetings = (status.active_meeting,) if status.active_meeting is not None else ()
    return Look(status.id, _titles((meeting.id, meeting.title) for meeting in meetings))


IN_PROGRESS = "进行中"


def _look_of_token_status(body: bytes) -> Look:
    status = _decode(body, protocol.TokenStatus)
    # Older masters list every meeting with its status, newer ones only those in progress, without one.
    running = (meeting for meeting in status.meetings if meeting.status in {None, IN_PROGRESS})
    return Look(status.id, _titles((meeting.id, meeting.title) for meeting in running))


def _titles(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    titles: dict[str, str] = {}
    for meeting_id, title in pairs:
        if protocol.is_meeting_id(meeting_id):
            titles[meeting_id] = protocol.one_line(title)
        else:
            _log.warning("the master names a meeting by what can be no id; it is left out", meeting_id=meeting_id[:80])
    return titles
