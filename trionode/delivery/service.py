"""Answers requests for packages: source, headers, body."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from master_shim.protocol import FillProgress, attachment
from master_shim.protocol.answer import PackageAnswer, plan_answer
from master_shim.protocol.chain import legacy_key

from ..errors import FillFailed, PeersOff
from ..fetch.live_fill import LiveFill
from .body import PackageBody
from .download import Download, DownloadInfo
from .http import HEAD_SECONDS, PackageResponse
from .repr_digest import is_requested

if TYPE_CHECKING:
    from store import Digest

    from .admission import Downloads
    from .http import PackageRequest
    from .peers import PeerRequests
    from .repr_digest import ReprDigests
    from .resolve import Resolver
    from .tickets import Tickets
    from .verified_lease import VerifiedLease

    Source = VerifiedLease | LiveFill

MEDIA_TYPE = "application/zip"

UNKNOWN_SIZE = PackageAnswer(200, ((b"content-type", MEDIA_TYPE.encode()),), ())
"""The answer for a package whose size and digest are not known yet: always the whole package."""


class Delivery:
    """Answers a node's requests for packages."""

    def __init__(
        self,
        resolver: Resolver,
        downloads: Downloads,
        repr_digests: ReprDigests,
        tickets: Tickets,
        peers: PeerRequests,
    ) -> None:
        self.resolver = resolver
        self.peers = peers
        self._downloads = downloads
        self._repr_digests = repr_digests
        self._tickets = tickets

    @property
    def may_queue(self) -> bool:
        """Whether a download may have to wait for a permit."""
        return self._downloads.limit > 0

    async def answer(self, stack: ExitStack, request: PackageRequest, source: Source | None) -> PackageResponse:
        """Return the answer to a GET or HEAD. `stack` closes what it holds open.

        In the query, `v` is the digest of an exact version and `t` the ticket of a redirect. A `source` that is known
        already is closed by the caller. Raises as `Resolver.resolve`, and `AtCapacity`.
        """
        version = request.version
        if request.asker and (request.token or version is not None):
            return await self._answer_peer(stack, request, source)
        if ticket := request.query.get("t"):
            self._tickets.add(ticket)
        if source is None:
            source = await self._resolve(stack, request)
        plan = _plan(request, source)
        if plan.status >= 400:
            return PackageResponse(plan.status, [*plan.headers], plan.small_body or b"")
        body: bytes | PackageBody = b""
        if plan.status in {200, 206} and request.method == "GET":
            body = await self._begin(stack, request, source, plan)
        headers = await self._headers(request, source, plan, exact=version is not None)
        return PackageResponse(plan.status, headers, body)

    async def _answer_peer(self, stack: ExitStack, request: PackageRequest, source: Source | None) -> PackageResponse:
        """Answer another node: with a range of a version as it arrives, or under a token with the rest of a package."""
        token = request.token
        if token:
            source = await self._find_under(stack, request)
        held = source is not None and not isinstance(source, LiveFill)
        key = legacy_key(request.meeting, token) if token else str(request.version)
        stack.enter_context(self.peers.admitted(request.asker, key, held=held, urgent=request.urgent))
        if source is None:
            if token:
                source = await self.resolver.resolve_under(request.meeting, token)
            else:
                source = await self.resolver.resolve(request.meeting, request.version, peer=True)
            stack.enter_context(source.followed() if isinstance(source, LiveFill) else source)
        plan = _plan_under(source, request.begin) if token else _plan(request, source)
        if plan.status not in {200, 206} or request.method != "GET":
            return PackageResponse(plan.status, [*plan.headers], plan.small_body or b"")
        pieces = None if plan is UNKNOWN_SIZE else plan.pieces
        body = PackageBody(source, pieces, self._downloads, request.client, peer=True, begin=request.begin)
        return PackageResponse(plan.status, [*plan.headers, (b"cache-control", b"no-store")], body)

    async def _find_under(self, stack: ExitStack, request: PackageRequest) -> Source | None:
        source = await self.resolver.find_under(request.meeting, request.token)
        if source is not None:
            stack.enter_context(source.followed() if isinstance(source, LiveFill) else source)
        return source

    async def progress(self, meeting_id: str, version: Digest | None, token: str) -> FillProgress:
        """Return how much of a package is here: of `version`, or of what a legacy master has under `token`."""
        if not self.peers.enabled:
            raise PeersOff
        with ExitStack() as stack:
            source: Source | None
            if version is None:
                source = await self.resolver.find_under(meeting_id, token)
            else:
                source = self.resolver.find(meeting_id, version)
            if isinstance(source, LiveFill):
                return FillProgress(source.filled, source.size, source.digest, False, source.source, source.slow)
            if source is None:
                return FillProgress()
            stack.enter_context(source)
            return FillProgress(source.size, source.size, source.digest, held=True)

    async def _resolve(self, stack: ExitStack, request: PackageRequest) -> Source:
        resolve = partial(self.resolver.resolve, request.meeting, request.version, arrived=request.at)
        source = await resolve()
        while isinstance(source, LiveFill) and source.size is None and request.http_version < "1.1":
            # HTTP/1.0 ends a body of unknown size with the connection, which looks the same when it is cut off: wait
            # until the size is known.
            with trio.CancelScope(deadline=request.at + HEAD_SECONDS) as late:
                await source.wait_finished()
            if late.cancelled_caught:
                raise FillFailed("the package is still being fetched, and HTTP/1.0 needs its size")
            source = await resolve()
        stack.enter_context(source.followed() if isinstance(source, LiveFill) else source)
        return source

    async def _begin(
        self, stack: ExitStack, request: PackageRequest, source: Source, plan: PackageAnswer
    ) -> PackageBody:
        """Wait for a permit, and return the body."""
        info = DownloadInfo(request.meeting, source.digest, request.client, request.fields.get("range"), request.at)
        download = Download(self._downloads, info)
        stack.callback(download.close)
        await download.wait_admitted()
        if isinstance(source, LiveFill) and source.error is not None:
            # It failed in the meantime: an error answer is still possible, instead of one that is cut off.
            raise FillFailed(str(source.error))
        pieces = None if plan is UNKNOWN_SIZE else plan.pieces
        return download.send(PackageBody(source, pieces, self._downloads, request.client))

    async def _headers(
        self, request: PackageRequest, source: Source, plan: PackageAnswer, *, exact: bool
    ) -> list[tuple[bytes, bytes]]:
        headers = list(plan.headers)
        headers.append((b"cache-control", b"public, max-age=31536000, immutable" if exact else b"no-cache"))
        if not isinstance(source, LiveFill) and is_requested(request.fields.get("want-repr-digest")):
            digest = await self._repr_digests.of(source)
            if digest is not None:
                headers.append((b"repr-digest", digest.encode()))
        if plan.status != 304:
            headers.append((b"content-disposition", attachment(f"meeting_{request.meeting}.zip")))
        return headers


def _plan_under(source: Source, begin: int) -> PackageAnswer:
    """Return the answer to another node that asks for what follows the byte `begin`."""
    if isinstance(source, LiveFill):
        return UNKNOWN_SIZE
    piece = range(min(begin, source.size), source.size)
    headers = (*UNKNOWN_SIZE.headers, (b"content-length", b"%d" % len(piece)))
    return PackageAnswer(200, headers, (piece,) if piece else ())


def _plan(request: PackageRequest, source: Source) -> PackageAnswer:
    if source.size is None or source.digest is None:
        return UNKNOWN_SIZE
    # Without Last-Modified, so dates in the request are ignored (RFC 9110, 13.1.3 and 13.1.4): nodes have no common
    # clock, and each switches to a version at another time. A client with the package of one node could get a 304 from
    # another for an old version. The ETag is exact.
    return plan_answer(request.method, request.fields, source.size, f'"{source.digest}"', MEDIA_TYPE)
