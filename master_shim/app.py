"""`MasterShim`: what a master gains, as one ASGI app to mount or to wrap a master with.

Pure ASGI on anyio: it runs under asyncio and Trio, in any framework, and needs neither a lifespan nor a
background task, since a framework that mounts it gives it neither.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from . import errors
from .asgi import Answer, Request, json_answer, preflight_answer
from .balancer import Balancer
from .download_routes import DownloadRoutes
from .node_routes import NodeRoutes
from .packages import ListedPackages
from .registry import Registry
from .routes import Match, Route, find
from .sending import PackageSender
from .status_routes import StatusRoutes
from .versions import PackageVersions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .asgi import Receive, Scope, Send
    from .packages import PackageFinder
    from .status_routes import Snapshot

_log = logging.getLogger("master_shim")

STATUS_OF: dict[type[errors.ShimError], int] = {
    errors.RouteMissing: 404,
    errors.MethodRefused: 405,
    errors.MeetingMissing: 404,
    errors.VersionMissing: 404,
    errors.PackageMissing: 404,
    errors.NodeMissing: 404,
    errors.FieldEmpty: 400,
    errors.MessageInvalid: 422,
    errors.BodyTooLarge: 413,
    errors.BodyTooSlow: 408,
    errors.RegistryFull: 503,
    errors.PackageChanging: 503,
    errors.PackageReplaced: 503,
    errors.PackageUnreadable: 500,
    errors.FolderUnreadable: 500,
}
"""The one place where an error becomes an HTTP status; any other error is ours, and answered 500."""

RETRY_SECONDS = 2
"""What a 503 tells a client to wait: a package is read, and a node's heartbeat due, within this."""


class MasterShim:
    """The ASGI app. `packages` is a `DirectoryPackages`, or any async callable `meeting_id -> path or None`.

    A callable cannot list what is in progress, so the status routes are then left to the master.
    """

    def __init__(
        self,
        packages: PackageFinder | ListedPackages,
        *,
        versions: PackageVersions | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(packages):
            raise TypeError(f"packages must be a DirectoryPackages or an async callable, not {packages!r}")
        self.registry = Registry()
        self._clock = clock
        # Not cryptographic: tickets are names, and ties want no secret.
        balancer = Balancer(rng or random.Random())  # noqa: S311
        versions = versions or PackageVersions()
        self._sender = PackageSender()
        listed = packages if isinstance(packages, ListedPackages) else None
        status = StatusRoutes(listed, versions, self.registry, clock)
        nodes = NodeRoutes(self.registry, balancer, clock, status.token)
        downloads = DownloadRoutes(packages, versions, self.registry, balancer, self._sender, clock, status.snapshot)
        self._status, self._downloads = status, downloads
        self._handlers: dict[Route, Callable[[Request], Awaitable[Answer | None]]] = {
            Route.REGISTER: nodes.register,
            Route.HEARTBEAT: nodes.heartbeat,
            Route.UNREGISTER: nodes.unregister,
            Route.LIST: nodes.list,
            Route.AVAILABLE: nodes.available,
            Route.DOWNLOAD: downloads.download,
            Route.DIRECT: downloads.direct,
            Route.NODES_INFO: downloads.nodes_info,
            Route.MANIFEST: downloads.manifest,
            Route.PACKAGE: downloads.package,
            Route.PACKAGE_NODES: downloads.package_nodes,
            Route.DATA: status.data,
            Route.STATUS_NODE: status.status_node,
            Route.STATUS_TOKEN: status.status_token,
            Route.ROOT: status.root,
            Route.HEALTH: status.health,
        }

    @property
    def active_downloads(self) -> int:
        """Packages being sent from here at this moment."""
        return self._sender.active

    async def snapshot(self) -> Snapshot:
        """Return what is in progress, with the token. Raises `RouteMissing` when that cannot be listed."""
        return await self._status.snapshot()

    async def nodes_missing(self, meeting_id: str) -> list[str]:
        """Return the ids of the live nodes that do not hold the meeting's current package yet.

        What a master's start gate waits for: an empty list opens it. Raises `MeetingMissing` and what reading
        the package raises.
        """
        digest = (await self._downloads.version(meeting_id)).digest
        nodes = self.registry.nodes(self._clock())
        return [node.node_id for node in nodes if not node.holds(meeting_id, digest)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a lifespan, if the server offers one, is taken note of and left again."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        match = find(scope["path"], scope.get("root_path", ""))
        await self.answer(match, scope, receive, send)

    async def answer(
        self, match: Match | None, scope: Scope, receive: Receive, send: Send, *, whole: bool = True
    ) -> None:
        """Answer a request whose route was found already (None: there is none). `whole`: see `Request`."""
        request = Request(scope, receive, send, match or _NOWHERE, whole)
        try:
            answer = await self._handle(match, request)
            if answer is not None:
                await request.send_answer(answer)
        except errors.ShimError as error:
            await request.send_answer(_answer_of(error))
        except OSError as error:
            if not request.answered:
                await self._fail(request, error)
            # Else a server's way to say that the client has left (ASGI 2.4).
        except Exception as error:
            if request.answered:
                raise  # too late for an answer: the server cuts the connection, and says why
            await self._fail(request, error)

    async def _fail(self, request: Request, error: Exception) -> None:
        _log.error("%s %r failed", request.method, request.scope["path"][:200], exc_info=error)
        await request.send_answer(json_answer({"detail": "Internal server error"}, 500))

    async def _handle(self, match: Match | None, request: Request) -> Answer | None:
        if match is None:
            raise errors.RouteMissing
        method = request.method
        if method not in match.route.methods:
            if method == "OPTIONS":
                return preflight_answer(match.route.allowed, request.header(b"access-control-request-headers"))
            raise errors.MethodRefused(match.route.allowed)
        return await self._handlers[match.route](request)


_NOWHERE = Match(Route.ROOT, "", "")


def _answer_of(error: errors.ShimError) -> Answer:
    detail: object = str(error)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    status = STATUS_OF[type(error)]
    if isinstance(error, errors.MethodRefused):
        headers = ((b"allow", f"{error.allowed}, OPTIONS".encode()),)
    elif isinstance(error, errors.MessageInvalid):
        # The form FastAPI gives it, which the deployed nodes may look into.
        kind = "missing" if error.missing else "value_error"
        detail = [{"type": kind, "loc": ["body", error.field] if error.field else ["body"], "msg": str(error)}]
    elif isinstance(error, errors.PackageUnreadable):
        if not error.said:
            _log.error("package %s cannot be read: %s", error.path, error.reason)
    elif isinstance(error, errors.FolderUnreadable):
        _log.error("the packages folder %s cannot be read: %s", error.folder, error.reason)
    elif status == 503:
        headers = ((b"retry-after", b"%d" % RETRY_SECONDS),)
    return json_answer({"detail": detail}, status, headers)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
