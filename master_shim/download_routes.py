"""The routes that packages are fetched by: to a node where one is fit, from here where none is."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from store import Digest
from store.errors import InvalidDigest

from .asgi import Answer, Request, json_answer
from .conditional import accepts_gzip, not_modified
from .errors import (
    MeetingMissing,
    PackageChanging,
    PackageMissing,
    PackageReplaced,
    RouteMissing,
    VersionMissing,
)
from .names import attachment, own_address, package_url, valid_meeting_id
from .protocol import NodeInfo, VersionNode
from .versions import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .asgi import Header
    from .balancer import Balancer
    from .packages import PackageFinder
    from .registry import Node, Registry
    from .sending import PackageSender
    from .versions import PackageVersions, Version

_NO_STORE = (b"cache-control", b"no-store")
_NO_CACHE = (b"cache-control", b"no-cache")
_IMMUTABLE = (b"cache-control", b"public, max-age=31536000, immutable")


class DownloadRoutes:
    """Handlers of the download routes; those that send a file themselves return None.

    `look_again` brings the known versions up to date with what is in progress, where that can be listed.
    """

    def __init__(
        self,
        packages: PackageFinder,
        versions: PackageVersions,
        registry: Registry,
        balancer: Balancer,
        sender: PackageSender,
        clock: Callable[[], float],
        look_again: Callable[[], Awaitable[object]],
    ) -> None:
        self._packages = packages
        self._versions = versions
        self._registry = registry
        self._balancer = balancer
        self._sender = sender
        self._clock = clock
        self._look_again = look_again

    async def version(self, meeting_id: str) -> Version:
        """Return the version a meeting has now.

        Raises `MeetingMissing`, and what `PackageVersions.current` raises for a file that is there.
        """
        if not valid_meeting_id(meeting_id):
            raise MeetingMissing(meeting_id)
        path = await self._packages(meeting_id)
        if path is None:
            raise MeetingMissing(meeting_id)
        try:
            return await self._versions.current(path)
        except PackageMissing as error:
            raise MeetingMissing(meeting_id) from error

    async def download(self, request: Request) -> Answer | None:
        """Send the client to a node that holds the current version, or the package when none is fit."""
        meeting_id = request.match.argument
        version = await self.version(meeting_id)
        now = self._clock()
        holders = self._registry.holders(meeting_id, version.digest, now)
        if holders:
            if request.method == "HEAD":  # only looks: no client will arrive at the node
                node = self._balancer.look(holders, now)
                if node is not None:
                    return _redirect(node, meeting_id, version.digest)
            else:
                choice = self._balancer.choose(
                    holders, client=request.client, meeting_id=meeting_id, digest=version.digest, now=now
                )
                if choice is not None:
                    return _redirect(choice.node, meeting_id, version.digest, choice.ticket)
        await self._send_meeting(request, version)
        return None

    async def direct(self, request: Request) -> None:
        """Send the package itself."""
        await self._send_meeting(request, await self.version(request.match.argument))

    async def _send_meeting(self, request: Request, version: Version) -> None:
        meeting_id = request.match.argument
        headers = ((b"content-disposition", attachment(f"meeting_{meeting_id}_pdfs.zip")), _NO_CACHE)
        for _ in range(ATTEMPTS):
            try:
                await self._sender.send(request, version, headers)
            except PackageReplaced:
                version = await self.version(meeting_id)  # replaced between the look and the open
            else:
                return
        raise PackageChanging(version.path)

    async def nodes_info(self, request: Request) -> Answer:
        """List the two or three nodes a tablet should choose from; the master only when none is fit."""
        meeting_id = request.match.argument
        version = await self.version(meeting_id)
        now = self._clock()
        holders = self._registry.holders(meeting_id, version.digest, now)
        nodes = self._balancer.offer(holders, now, count=request.method != "HEAD")
        entries = [
            NodeInfo(node.address, package_url(f"http://{node.address}", meeting_id)) for node in nodes
        ] or self._self_info(request, meeting_id)
        return json_answer(entries, headers=(_NO_STORE,))

    def _self_info(self, request: Request, meeting_id: str) -> list[NodeInfo]:
        scheme = request.scope.get("scheme", "http")
        address = own_address(scheme, request.header(b"host") or "", request.scope.get("server"))
        if address is None:
            return []
        prefix = quote(request.match.prefix)
        return [NodeInfo(address, package_url(f"{scheme}://{address}{prefix}", meeting_id))]

    async def manifest(self, request: Request) -> Answer:
        """Send the manifest of a meeting's current version."""
        for _ in range(ATTEMPTS):
            version = await self.version(request.match.argument)
            etag = version.etag
            if not_modified(request.header(b"if-none-match"), etag):
                return Answer(304, ((b"etag", etag.encode()), _NO_CACHE, (b"vary", b"Accept-Encoding")))
            try:
                body = await self._versions.manifest(version)
            except PackageReplaced:
                continue
            headers: tuple[Header, ...] = (
                (b"content-type", b"application/json"),
                (b"vary", b"Accept-Encoding"),
                _NO_CACHE,
            )
            zipped = len(body.compressed) < len(body.plain) and accepts_gzip(request.header(b"accept-encoding") or "")
            if zipped:
                # Other bytes than the plain form, so the tag is weak (RFC 9110, 8.8.1); it names the same
                # version.
                headers = (*headers, (b"etag", f"W/{etag}".encode()), (b"content-encoding", b"gzip"))
                return Answer(200, headers, body.compressed)
            return Answer(200, (*headers, (b"etag", etag.encode())), body.plain)
        raise PackageChanging(version.path)

    async def package(self, request: Request) -> None:
        """Send a version by its digest. Raises `VersionMissing` once the file behind it is another."""
        digest = _digest(request.match.argument)
        version = self._versions.find(digest)
        if version is None:
            # After a restart nothing was asked for yet: a version that is in progress must be found all the
            # same.
            try:
                await self._look_again()
            except RouteMissing as error:
                raise VersionMissing(digest) from error
            version = self._versions.find(digest)
        if version is None:
            raise VersionMissing(digest)
        headers = ((b"content-disposition", f'attachment; filename="{digest}.zip"'.encode()), _IMMUTABLE)
        try:
            await self._sender.send(request, version, headers)
        except PackageReplaced as error:
            raise VersionMissing(digest) from error

    async def package_nodes(self, request: Request) -> Answer:
        """List the nodes that hold or fill a version."""
        sources = self._registry.sources(_digest(request.match.argument), self._clock())
        entries = [VersionNode(node.node_id, node.address, filling) for node, filling in sources]
        return json_answer(entries, headers=(_NO_STORE,))


def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise VersionMissing(text) from error


def _redirect(node: Node, meeting_id: str, digest: str, ticket: str = "") -> Answer:
    location = f"http://{node.address}{_tail(meeting_id, digest)}"
    if ticket:
        location = f"{location}&t={ticket}"
    return Answer(302, ((b"location", location.encode("ascii")), _NO_STORE))


@lru_cache(maxsize=1024)
def _tail(meeting_id: str, digest: str) -> str:
    """Return what follows the address in a redirect: the same for every client of a version."""
    return f"{package_url('', meeting_id)}?v={digest}"
