"""The node's routes, and the one table that turns errors into answers."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from master_shim.names import attachment
from master_shim.protocol import is_meeting_id
from store import Digest, InvalidDigest, NeverFits, NoSpace, StoreError

from . import errors, metrics
from .config import Settings, load_settings
from .delivery.body import PackageBody
from .delivery.connection import EXIT_STACK, PackageConnection, PackageResponse
from .delivery.digests import is_wanted
from .delivery.download import Asked, Download
from .delivery.ranges import UNKNOWN, Answer, plan_answer
from .delivery.source import acquire
from .node import Node
from .server.bodies import BoundedBodies
from .status import status_of
from .sync.active import ActiveFill

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import ExitStack

    from .delivery.checked import CheckedLease

MAX_REQUEST_BYTES = 64 << 10
"""No route of a node takes a body; Quart would keep any in memory."""

RETRY_SECONDS = 3
"""What `Retry-After` says: by then a slot is free, the master was asked again, or another node is better."""

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Repr-Digest, Retry-After"
    ),
}

ANSWERS: dict[type[Exception], tuple[int, str | None]] = {
    errors.InvalidRequest: (400, None),
    InvalidDigest: (400, None),
    errors.KeyRequired: (403, None),
    errors.MeetingUnknown: (404, "Meeting package not found"),
    errors.VersionGone: (404, None),
    errors.OriginError: (502, None),
    errors.AtCapacity: (503, None),
    errors.FillFailed: (503, None),
    errors.NodeStopped: (503, None),
    errors.OriginUnreachable: (503, None),
    NeverFits: (507, None),
    NoSpace: (503, None),
    errors.NodeError: (500, "Internal server error"),
    StoreError: (500, "Internal server error"),
}
"""Status and detail (None: the error's own words) for every error; the nearest base class decides."""

_log = structlog.get_logger("trionode.app")


class NodeApp(QuartTrio):
    """The Quart application of one node."""

    asgi_http_class = PackageConnection

    def __init__(self, node: Node) -> None:
        super().__init__("trionode", static_folder=None)
        self.node = node
        self.start_error: Exception | None = None
        """Why the node did not start, for whoever runs the server: Hypercorn passes only the words on."""

    def log_exception(self, exception_info: Any) -> None:
        """Log what escaped a handler or the start. Errors of ours and of the system say all; others come whole."""
        error = exception_info[1]
        if isinstance(error, (errors.NodeError, StoreError, OSError)):
            _log.error("not started", why=str(error))
        else:
            _log.error("not started", exc_info=exception_info)


def create_app(settings: Settings | None = None) -> NodeApp:
    """Make the application of a node, with its life tied to the ASGI lifespan.

    Without `settings` they are read from the environment and its TOML file. Raises `SettingError`.
    """
    app = NodeApp(Node(settings or load_settings()))
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    cors = [(name.lower().encode(), value.encode()) for name, value in CORS.items()]
    app.asgi_app = BoundedBodies(app.asgi_app, MAX_REQUEST_BYTES, cors)  # type: ignore[method-assign]
    # Hostile paths get a plain 404 and not a redirect to what they might have meant.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.before_serving(functools.partial(_start, app))
    app.after_serving(app.node.stop)
    app.after_request(_add_cors)
    for kind in (errors.NodeError, StoreError):
        app.register_error_handler(kind, _answer_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_fault)
    _add_routes(app, app.node)
    return app


async def _start(app: NodeApp) -> None:
    try:
        await app.nursery.start(app.node.run)
    except Exception as error:
        app.start_error = error
        raise


def _add_routes(app: NodeApp, node: Node) -> None:
    def route(path: str, handler: Callable[..., Awaitable[Any]], methods: tuple[str, ...] = ("GET",)) -> None:
        app.add_url_rule(path, f"{handler.__name__} {path}", functools.partial(handler, node), methods=list(methods))

    for path in ("/api/v1/meetings/<meeting_id>/download-package", "/api/meetings/<meeting_id>/download"):
        route(path, download)
    route("/health", health)
    route("/ready", ready)
    route("/api/status", status)
    route("/metrics", metrics_answer)
    route("/", index)
    route("/api/config", configure, ("GET", "POST"))
    for path in ("/api/service/start", "/api/service/stop"):
        route(path, configure, ("POST",))


async def download(node: Node, meeting_id: str) -> Response:
    """Answer with a meeting's package; `v` (a digest) makes it exact, `t` is the ticket of a redirect."""
    if not is_meeting_id(meeting_id):
        raise errors.MeetingUnknown(meeting_id)
    node.require_serving()
    arrived = trio.current_time()
    version = Digest(request.args["v"]) if "v" in request.args else None
    if ticket := request.args.get("t"):
        node.pulse.saw_ticket(ticket)
    # The lease and the place among the downloads belong to the connection: it gives them back, however it ends.
    stack = cast("ExitStack", request.scope[EXIT_STACK])  # type: ignore[literal-required]
    source = await acquire(node.meetings, meeting_id, version)
    if isinstance(source, ActiveFill) and source.size is None and request.http_version < "1.1":
        # The end of such a body is the end of the connection, which looks the same when it is cut: wait for a size.
        await source.over()
        source = await acquire(node.meetings, meeting_id, version)
    stack.enter_context(source.followed() if isinstance(source, ActiveFill) else source)
    answer = _plan(source)
    if answer.status in {412, 416}:
        return _refuse(answer)
    body = None
    if answer.status in {200, 206} and request.method == "GET":
        client = request.remote_addr or ""
        asked = Asked(meeting_id, source.digest, client, request.headers.get("Range"), arrived)
        body = await _begin(node, stack, source, answer, asked)
    response = PackageResponse(answer.status, answer.headers, body)
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if version else "no-cache"
    if not isinstance(source, ActiveFill) and is_wanted(request.headers.get("Want-Repr-Digest")):
        digest = await node.repr_digests.of(source)
        if digest is not None:
            response.headers["Repr-Digest"] = digest
    if answer.status != 304:
        response.headers["Content-Disposition"] = attachment(f"meeting_{meeting_id}.zip").decode("ascii")
    return response


async def _begin(
    node: Node, stack: ExitStack, source: CheckedLease | ActiveFill, answer: Answer, asked: Asked
) -> PackageBody:
    """Wait for a place among the downloads, and return what is sent then."""
    download = Download(node.downloads, asked)
    stack.callback(download.close)
    await download.admitted(node.settings.queue_seconds)
    if isinstance(source, ActiveFill) and source.error is not None:
        # It failed while this waited: that can still be said, and not only be shown by a cut.
        raise errors.FillFailed(str(source.error))
    download.body = PackageBody(source, answer.pieces, node.downloads, asked.client)
    return download.body


def _plan(source: CheckedLease | ActiveFill) -> Answer:
    if source.size is None or source.digest is None:
        # A legacy master's package on its way: neither its size nor its digest is known, so it is sent whole.
        return UNKNOWN
    return plan_answer(request.method, request.headers, source.size, source.digest)


REFUSALS = {
    412: "The package is not the one that was asked for",
    416: "The package has no such bytes",
}


def _refuse(answer: Answer) -> Response:
    response = _json({"detail": REFUSALS[answer.status]}, answer.status)
    response.headers.update(header for header in answer.headers if header[0] != "Content-Length")
    return response


async def health(node: Node) -> Response:
    """Say that the process is alive, in the deployed node's words."""
    settings = node.settings
    answer = {
        "status": "healthy" if node.failure is None else "failed",
        "node_id": node.node_id,
        "timestamp": time.time(),
        "main_server": settings.main_server,
        "storage_path": str(settings.storage_path),
        "sync_interval": settings.sync_interval,
    }
    return _json(answer, 200 if node.failure is None else 503)


async def ready(node: Node) -> Response:
    """Say whether clients should be sent here: 200, or 503 for a node that is starting, draining or has failed."""
    node.require_ready()
    return _json({"ready": True, "connected": node.pulse.connected, "synced": sorted(node.meetings.promised())})


async def status(node: Node) -> Response:
    """Say what the node holds and does."""
    node.require_serving()
    return _json(await status_of(node))


async def metrics_answer(node: Node) -> Response:
    """Say in Prometheus' words what the node has counted."""
    node.require_serving()
    usage = await trio.to_thread.run_sync(node.store.usage)
    body, media_type = metrics.write(node, node.team.facts().counts, usage, request.headers.get("Accept", ""))
    response = Response(body, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept"
    return response


async def index(node: Node) -> Response:
    """Say what this is to whoever opens the address in a browser."""
    return _json({"service": "trionode", "node_id": node.node_id, "status": "/api/status", "health": "/health"})


async def configure(node: Node) -> Response:
    """Refuse: on the deployed node anybody in the network can repoint it with these routes."""
    raise errors.KeyRequired


def _json(answer: Mapping[str, object], status_code: int = 200) -> Response:
    response = jsonify(answer)
    response.status_code = status_code
    # What a node says of itself holds for now; and a cache may keep a 404 that says nothing else (RFC 9111, 4.2.2).
    response.headers["Cache-Control"] = "no-store"
    return response


async def _add_cors(response: Response) -> Response:
    response.headers.update(CORS)
    return response


async def _answer_error(error: Exception) -> Response:
    """Turn an error of ours into `{"detail": ...}`, by the table."""
    status_code, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    if status_code == 500:
        _log.error("a request failed", path=request.path, why=str(error), kind=type(error).__name__)
    response = _json({"detail": detail or str(error)}, status_code)
    if status_code == 503:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


async def _answer_http_error(error: HTTPException) -> Response:
    """Turn Quart's own refusals (no such route, no such method) into the same shape, with their headers."""
    response = _json({"detail": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


async def _answer_fault(error: Exception) -> Response:
    """Answer a fault of the program: the log gets everything, the client nothing."""
    _log.exception("a request met a fault", path=request.path, exc_info=error)
    return _json({"detail": "Internal server error"}, 500)
