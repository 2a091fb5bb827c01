"""The routes that packages are downloaded by: clients are redirected to a node, or served from here."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from store import Digest, InvalidDigest

from ..asgi import JSON, NO_CACHE, NO_STORE, Answer, Request, json_answer
from ..balancer import unfit_reason
from ..errors import (
    FolderInDoubt,
    MeetingMissing,
    PackageChanging,
    PackageMissing,
    PackageReplaced,
    RouteMissing,
    VersionMissing,
)
from ..packages.versions import ATTEMPTS
from ..protocol import NodeInfo, VersionNode, attachment, is_meeting_id, own_address, package_url
from ..protocol.conditions import accepts_gzip, not_modified

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..activity import Activity
    from ..balancer import Balancer
    from ..node import RegisteredNode
    from ..packages.file import PackageVersion
    from ..packages.in_progress import InProgress
    from ..packages.source import PackageFinder
    from ..packages.versions import PackageVersions
    from ..protocol.target import Header
    from ..registry import Registry
    from .sending import PackageSender

_IMMUTABLE: Header = (b"cache-control", b"public, max-age=31536000, immutable")
_VARY: Header = (b"vary", b"Accept-Encoding")


class DownloadHandlers:
    """Handlers of the download routes. Those that send a package themselves return None."""

    def __init__(
        self,
        packages: PackageFinder,
        versions: PackageVersions,
        in_progress: InProgress,
        registry: Registry,
        balancer: Balancer,
        sender: PackageSender,
        activity: Activity,
        clock: Callable[[], float],
    ) -> None:
        self._packages = packages
        self._versions = versions
        self._in_progress = in_progress
        self._registry = registry
        self._balancer = balancer
        self._sender = sender
        self._activity = activity
        self._clock = clock

    async def version(self, meeting_id: str) -> PackageVersion:
        """Return the current version of a meeting's package.

        Raises `MeetingMissing`, `PackageUnreadable`, `PackageChanging`, `FolderUnreadable`, `FolderInDoubt`.
        """
        if not is_meeting_id(meeting_id):
            raise MeetingMissing(meeting_id)
        try:
            path = await self._packages(meeting_id)
            if path is None:
                raise MeetingMissing(meeting_id)
            return await self._versions.current(path)
        except PackageMissing as error:
            self._versions.forget(error.subject)
            raise MeetingMissing(meeting_id) from error
        except FolderInDoubt as error:
            before = self._versions.last(error.subject)
            if before is None:
                raise
            return before  # nodes have it, and the sender answers 503

    async def download(self, request: Request) -> Answer | None:
        """Redirect the client to a node that holds the current version, or send the package if none is available."""
        meeting_id = request.argument
        version = await self.version(meeting_id)
        now = self._clock()
        holders = self._registry.holders(meeting_id, version.digest, now)
        if holders and request.method == "HEAD":  # no client will arrive at the node
            node = self._balancer.preview(holders, now)
            if node is not None:
                return _redirect(node, meeting_id, version.digest)
        elif holders:
            choice = self._balancer.choose(
                holders, client=request.asked.client, meeting_id=meeting_id, digest=version.digest, now=now
            )
            if choice is not None:
                self._activity.redirected += 1
                return _redirect(choice.node, meeting_id, version.digest, choice.ticket)
        if request.method != "HEAD":
            self._activity.sent_here += 1
            self._report_unfit(meeting_id, version, now)
        await self._send_meeting(request, version)
        return None

    def _report_unfit(self, meeting_id: str, version: PackageVersion, now: float) -> None:
        def why() -> str:
            return unfit_reason(self._registry.nodes(now), meeting_id, version.digest)

        self._activity.no_node_fit(meeting_id, why, now)

    async def direct(self, request: Request) -> None:
        """Send the package."""
        await self._send_meeting(request, await self.version(request.argument))

    async def _send_meeting(self, request: Request, version: PackageVersion) -> None:
        meeting_id = request.argument
        headers = ((b"content-disposition", attachment(f"meeting_{meeting_id}_pdfs.zip")), NO_CACHE)
        for _ in range(ATTEMPTS):
            try:
                await self._sender.send(request, version, headers)
            except PackageReplaced:
                version = await self.version(meeting_id)  # replaced before it was opened
            else:
                return
        raise PackageChanging(version.path)

    async def nodes_info(self, request: Request) -> Answer:
        """List the two or three nodes from which a tablet chooses one, or this master if none is available."""
        meeting_id = request.argument
        version = await self.version(meeting_id)
        now = self._clock()
        holders = self._registry.holders(meeting_id, version.digest, now)
        nodes = self._balancer.offer(holders, now, assign=request.method != "HEAD")
        if request.method == "HEAD":
            pass
        elif nodes:
            self._activity.offered += 1
        else:
            self._report_unfit(meeting_id, version, now)
        entries = [NodeInfo(node.address, package_url(node.url, meeting_id)) for node in nodes]
        return json_answer(entries or _own_info(request), 200, NO_STORE)

    async def manifest(self, request: Request) -> Answer:
        """Send the manifest of a meeting's current version."""
        for _ in range(ATTEMPTS):
            version = await self.version(request.argument)
            etag = version.etag
            if not_modified(request.fields.get("if-none-match"), etag):
                return Answer(304, ((b"etag", etag.encode()), NO_CACHE, _VARY))
            try:
                body = await self._versions.manifest(version)
            except PackageReplaced:
                continue
            headers: tuple[Header, ...] = (JSON, _VARY, NO_CACHE)
            if body.compressed and accepts_gzip(request.fields.get("accept-encoding", "")):
                # A weak ETag, since these bytes differ from the plain form's (RFC 9110, 8.8.1).
                headers = (*headers, (b"etag", f"W/{etag}".encode()), (b"content-encoding", b"gzip"))
                return Answer(200, headers, body.compressed)
            return Answer(200, (*headers, (b"etag", etag.encode())), body.plain)
        raise PackageChanging(version.path)

    async def package(self, request: Request) -> None:
        """Send a version by its digest. Raises `VersionMissing` if no file has that version now."""
        digest = _digest(request.argument)
        version = self._versions.find(digest) or await self._find_in_progress(digest)
        headers = ((b"content-disposition", f'attachment; filename="{digest}.zip"'.encode()), _IMMUTABLE)
        try:
            await self._sender.send(request, version, headers)
        except PackageReplaced as error:
            raise VersionMissing(digest) from error

    async def _find_in_progress(self, digest: Digest) -> PackageVersion:
        """Read the packages in progress, since none was requested yet after a restart. Raises `VersionMissing`."""
        try:
            await self._in_progress.snapshot()
        except RouteMissing as error:
            raise VersionMissing(digest) from error
        version = self._versions.find(digest)
        if version is None:
            raise VersionMissing(digest)
        return version

    async def package_nodes(self, request: Request) -> Answer:
        """List the nodes of ours, with what they have of a version; to a node (`node`), those useful to it."""
        digest = _digest(request.argument)
        query = parse_qs(request.scope["query_string"].decode("latin-1"))
        nodes = self._registry.peers(digest, query.get("node", [""])[0], self._clock())
        return json_answer([_version_node(node, digest) for node in nodes], 200, NO_STORE)


def _version_node(node: RegisteredNode, digest: str) -> VersionNode:
    held = node.has(digest)
    filling = not held and digest in node.filling
    return VersionNode(node.node_id, node.address, held=held, filling=filling, scheme=node.scheme)


def _own_info(request: Request) -> list[NodeInfo]:
    _, scheme, host = request.asked
    address = own_address(scheme, host, request.scope.get("server"))
    if address is None:
        return []
    prefix = quote(request.scope.get("root_path", "").rstrip("/"))
    return [NodeInfo(address, package_url(f"{scheme}://{address}{prefix}", request.argument))]


def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise VersionMissing(text) from error


def _redirect(node: RegisteredNode, meeting_id: str, digest: str, ticket: str = "") -> Answer:
    location = f"{node.url}{_path_and_query(meeting_id, digest)}"
    if ticket:
        location = f"{location}&t={ticket}"
    return Answer(302, ((b"location", location.encode("ascii")), NO_STORE))


@lru_cache(maxsize=1024)
def _path_and_query(meeting_id: str, digest: str) -> str:
    """Return what follows the address in a redirect. Cached: it is the same for every client of a version."""
    return f"{package_url('', meeting_id)}?v={digest}"
