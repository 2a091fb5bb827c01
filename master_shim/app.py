"""`MasterShim`: the shim as one ASGI application, to mount in a master or to wrap one with.

It uses ASGI and anyio only, so it runs in any framework, under asyncio and Trio. It needs no lifespan and no background
task, since frameworks do not pass the lifespan to mounted applications.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import PurePath
from typing import TYPE_CHECKING

import anyio

from . import errors, hosts
from .activity import Activity
from .asgi import Answer, Request, json_answer
from .balancer import Balancer
from .handlers.downloads import DownloadHandlers
from .handlers.nodes import NodeHandlers
from .handlers.report import ReportHandlers
from .handlers.sending import PackageSender
from .handlers.status import StatusHandlers
from .packages.in_progress import InProgress
from .packages.source import ListedPackages, finder_of
from .packages.versions import PackageVersions
from .protocol.cors import options_fields
from .protocol.forwarded import LOOPBACK, TrustedProxies
from .protocol.target import path_of
from .registry import Registry
from .routes import Route, find
from .workers import WorkerCheck

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .asgi import Receive, Scope, Send
    from .packages.in_progress import Snapshot
    from .packages.source import PackageFinder, PlainFinder
    from .protocol.target import Header
    from .routes import Match

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
    errors.FolderUnreadable: 503,
    errors.FolderInDoubt: 503,
}
"""The HTTP status of each error. Any other exception is a fault of the program: 500."""

RETRY_SECONDS = 2
"""The Retry-After of a 503: within this time a package is read, or a node's heartbeat is due."""

CHECK_SECONDS = 1.0
"""Interval in which silent nodes are noticed while no request comes, in a server that runs the lifespan."""


class MasterShim:
    """The ASGI application. `packages` is a `DirectoryPackages` or any function `meeting_id -> path or None`.

    A plain function is called in a worker thread. An `HTTPException` raised by the function is the answer.

    A function cannot list the meetings in progress, so the status routes are left to the master. `trusted_proxies` are
    the addresses and networks of proxies whose X-Forwarded-* and Forwarded fields are believed, by default those on
    this machine. Raises `TypeError`, or `ProxiesInvalid`.
    """

    def __init__(
        self,
        packages: PackageFinder | PlainFinder | ListedPackages,
        *,
        trusted_proxies: str | Iterable[str] = LOOPBACK,
        versions: PackageVersions | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        finder = finder_of(packages)
        self._proxies = TrustedProxies(trusted_proxies)
        self._workers = WorkerCheck()
        self._activity = Activity()
        self.registry = Registry(self._activity.node_changed)
        self._clock = clock
        self._versions = versions = versions or PackageVersions()
        self._in_progress = InProgress(packages if isinstance(packages, ListedPackages) else None, versions)
        # Not cryptographic: tickets are only names, and ties are not secret.
        balancer = Balancer(rng or random.Random())  # noqa: S311
        self._sender = PackageSender()
        self._downloads = downloads = DownloadHandlers(
            finder, versions, self._in_progress, self.registry, balancer, self._sender, self._activity, clock
        )
        nodes = NodeHandlers(self.registry, balancer, self._in_progress, self._activity, clock)
        status = StatusHandlers(self._in_progress, self.registry, clock)
        report = ReportHandlers(self._in_progress, versions, self.registry, self._sender, self._activity, clock)
        self._handlers: dict[Route, Callable[[Request], Awaitable[Answer | None]]] = {
            Route.REGISTER: nodes.register,
            Route.HEARTBEAT: nodes.heartbeat,
            Route.UNREGISTER: nodes.unregister,
            Route.LIST: nodes.list,
            Route.AVAILABLE: nodes.available,
            Route.NODES_STATUS: report.status,
            Route.NODES_METRICS: report.metrics,
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
            Route.METRICS: report.metrics,
        }

    @property
    def active_downloads(self) -> int:
        """Number of packages that are being sent from here."""
        return self._sender.active

    async def snapshot(self) -> Snapshot:
        """Return the meetings in progress, with the token. Raises `RouteMissing` if they cannot be listed."""
        return await self._in_progress.snapshot()

    async def nodes_missing(self, meeting_id: str) -> list[str]:
        """Return the ids of the live nodes that do not hold the meeting's current package yet.

        A master's start gate waits until this is empty. Raises as `DownloadHandlers.version`.
        """
        digest = (await self._downloads.version(meeting_id)).digest
        nodes = self.registry.nodes(self._clock())
        return [node.node_id for node in nodes if not node.holds(meeting_id, digest)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope. A lifespan is acknowledged; websockets are closed."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
            return
        match = find(path_of(scope)) if scope["type"] == "http" else None
        rest = hosts.rest_of_host(self, scope) if match is None else None
        if rest is not None:
            await rest(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self.answer(match, scope, receive, send)

    async def answer(
        self, match: Match | None, scope: Scope, receive: Receive, send: Send, *, standalone: bool = True
    ) -> None:
        """Answer a request whose route was found (None: there is none). `standalone`: see `Request`."""
        self.check_nodes()
        self._workers.check(scope.get("server"), self._clock())
        argument = match.argument if match is not None else ""
        request = Request(scope, receive, send, self._proxies, argument, standalone)
        try:
            answer = await self._handle(match, request)
            if answer is not None:
                await request.send_answer(answer)
        except errors.ShimError as error:
            await request.send_answer(_answer_of(error))
        except Exception as error:
            if request.answered:
                if not isinstance(error, OSError):  # an OSError then means that the client disconnected (ASGI 2.4)
                    raise  # too late for another answer: the server cuts the connection and logs it
            elif hosts.handles(scope, error):
                raise
            else:
                await _answer_fault(request, error)

    def check_nodes(self) -> None:
        """Notice nodes that became silent, or fetch what others have from the master.

        Called at every request: a mounted shim has no task of its own.
        """
        now = self._clock()
        self.registry.expire(now)
        self._activity.check_pulls(self.registry.nodes, self._file_of, now)

    def _file_of(self, digest: str) -> str | None:
        version = self._versions.find(digest)
        return None if version is None else PurePath(version.path).name

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """Acknowledge a lifespan, and check the nodes during it also while no request comes."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._check_nodes_forever)
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            group.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _check_nodes_forever(self) -> None:
        while True:
            await anyio.sleep(CHECK_SECONDS)
            self.check_nodes()

    async def _handle(self, match: Match | None, request: Request) -> Answer | None:
        if match is None:
            raise errors.RouteMissing
        route = match.route
        if request.method in route.methods:
            return await self._handlers[route](request)
        if request.method == "OPTIONS":
            return Answer(204, options_fields(route.allowed, request.fields))
        raise errors.MethodRefused(route.allowed)


async def _answer_fault(request: Request, error: Exception) -> None:
    answer = hosts.answer_of(error)
    if answer is None:
        _log.error("%s %r failed", request.method, request.scope["path"][:200], exc_info=error)
        answer = json_answer({"detail": "Internal server error"}, 500)
    await request.send_answer(answer)


def _answer_of(error: errors.ShimError) -> Answer:
    detail: object = str(error)
    headers: tuple[Header, ...] = ()
    status = STATUS_OF[type(error)]
    if isinstance(error, errors.MethodRefused):
        headers = ((b"allow", error.subject.encode()),)
    elif isinstance(error, errors.MessageInvalid):
        # In FastAPI's form, which deployed nodes may read.
        kind = "missing" if error.missing else "value_error"
        detail = [{"type": kind, "loc": ["body", error.subject] if error.subject else ["body"], "msg": str(error)}]
    elif status == 503:
        headers = ((b"retry-after", b"%d" % RETRY_SECONDS),)
    return json_answer({"detail": detail}, status, *headers)
