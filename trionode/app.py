"""The node's application, and the routes of it that Quart answers."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import structlog
import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from store import StoreError

from . import errors, metrics
from .answers import CORS, CORS_FIELDS, answer_to
from .config import Settings, load_settings
from .delivery.connection import QuartConnection
from .delivery.routes import PackageRoutes
from .node import Node
from .server.bodies import BoundedBodies
from .status import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

MAX_REQUEST_BYTES = 64 << 10
"""No route of a node takes a body; Quart would keep any in memory."""

_log = structlog.get_logger("trionode.app")


class NodeApp(QuartTrio):
    """The Quart application of one node."""

    asgi_http_class = QuartConnection

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
    packages = PackageRoutes(app.node, app.asgi_app)
    app.asgi_app = BoundedBodies(packages, MAX_REQUEST_BYTES, CORS_FIELDS)  # type: ignore[method-assign]
    # Hostile paths get a plain 404 and not a redirect to what they might have meant.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.before_serving(functools.partial(_start, app))
    app.after_serving(app.node.stop)
    app.after_request(_add_cors)
    app.register_error_handler(Exception, _answer_error)
    app.register_error_handler(HTTPException, _answer_http_error)
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

    route("/health", health)
    route("/ready", ready)
    route("/api/status", status)
    route("/metrics", metrics_answer)
    route("/", index)
    route("/api/config", configure, ("GET", "POST"))
    for path in ("/api/service/start", "/api/service/stop"):
        route(path, configure, ("POST",))


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
    """Turn an error into `{"detail": ...}`, by the table."""
    status_code, detail, fields = answer_to(error, request.path)
    response = _json({"detail": detail}, status_code)
    response.headers.update(fields)
    return response


async def _answer_http_error(error: HTTPException) -> Response:
    """Turn Quart's own refusals (no such route, no such method) into the same shape, with their headers."""
    response = _json({"detail": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response
