"""The node's ASGI application, and its routes that Quart answers."""

from __future__ import annotations

import functools
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from master_shim.protocol import PROTOCOL, cors, is_meeting_id
from master_shim.protocol.target import Fields
from store import Digest, StoreError

from .. import errors
from ..answers import answer_to
from . import metrics
from .body_limit import BodyLimit
from .connection import QuartConnection
from .control import CONTROL
from .packages import PackageRoutes
from .status import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from ..node import Control, Node

MAX_REQUEST_BYTES = 64 << 10
"""No route of a node takes a body, and Quart would keep one in memory."""

_log = structlog.get_logger("trionode.app")


class NodeApp(QuartTrio):
    """The application of one node. Its lifespan starts and stops the node.

    `make_control` returns the server that serves an application on the control socket of a storage folder.
    """

    asgi_http_class = QuartConnection

    def __init__(self, node: Node, make_control: Callable[[Path, Any], Control]) -> None:
        super().__init__("trionode", static_folder=None)
        self.node = node
        self._control = make_control(node.live_settings.current.storage_path, self)
        self.start_error: Exception | None = None
        """Why the node did not start. Hypercorn passes on only the text."""
        self.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
        packages = PackageRoutes(node, self.asgi_app)
        self.asgi_app = BodyLimit(packages, MAX_REQUEST_BYTES, [*cors.HEADERS])  # type: ignore[method-assign]
        # Hostile paths get a plain 404, not a redirect to a similar path.
        self.url_map.merge_slashes = False
        self.url_map.strict_slashes = True
        self.before_serving(self._start)
        self.after_serving(node.stop)
        self.after_request(_add_cors)
        self.register_error_handler(Exception, _answer_error)
        self.register_error_handler(HTTPException, _answer_http_error)
        for path, methods, handler in _ROUTES:
            name = f"{handler.__name__} {path}"
            self.add_url_rule(path, name, functools.partial(handler, node), methods=list(methods))

    async def _start(self) -> None:
        try:
            await self.nursery.start(self.node.run, self._control)
        except Exception as error:
            self.start_error = error
            raise

    def log_exception(self, exception_info: Any) -> None:
        """Log why the node did not start if that is a bug. The server prints the text of other errors."""
        if not isinstance(exception_info[1], (errors.NodeError, StoreError, OSError)):
            _log.error("not started", exc_info=exception_info)


async def health(node: Node) -> Response:
    """Return the node's health, in the deployed node's format."""
    settings, failed = node.live_settings.current, node.lifecycle.failure is not None
    answer = {
        "status": "failed" if failed else "healthy",
        "node_id": node.node_id,
        "timestamp": time.time(),
        "main_server": settings.main_server,
        "storage_path": os.fsencode(settings.storage_path).decode("utf-8", "replace"),
        "sync_interval": settings.sync_interval,
        "protocol": PROTOCOL,
        "peers": settings.peers,
    }
    return _json(answer, 503 if failed else 200)


async def ready(node: Node) -> Response:
    """Return 200 if clients may be sent here, 503 from a node that starts, drains or has failed."""
    node.lifecycle.require_ready()
    services = node.services
    synced = sorted(services.meetings.advertised())
    return _json({"ready": True, "connected": services.heartbeat.connected, "synced": synced})


async def status(node: Node) -> Response:
    """Return the node's status."""
    return _json(await status_of(node))


async def metrics_answer(node: Node) -> Response:
    """Return the node's metrics in the Prometheus exposition format."""
    usage = await trio.to_thread.run_sync(node.services.store.usage)
    body, media_type = metrics.exposition(node, usage, request.headers.get("Accept", ""))
    response = Response(body, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept"
    return response


async def fill(node: Node, meeting_id: str) -> Response:
    """Return how much of a package is here, for other nodes: of a version, or of what is under a master's token."""
    if not is_meeting_id(meeting_id):
        raise errors.MeetingUnknown(meeting_id)
    version = Digest(request.args["v"]) if "v" in request.args else None
    progress = await node.services.delivery.progress(meeting_id, version, request.args.get("token", ""))
    return _json(msgspec.structs.asdict(progress))


async def index(node: Node) -> Response:
    """Identify the service, for a browser that opens the address."""
    return _json({"service": "trionode", "node_id": node.node_id, "status": "/api/status", "health": "/health"})


async def refuse(_node: Node) -> Response:
    """Refuse: on the deployed node anybody in the network can change its settings with these routes."""
    raise errors.KeyRequired


async def drain(node: Node) -> Response:
    """Begin to drain. `ends` in the answer: whether the process then ends by itself. Control socket only."""
    _require_control()
    return _json({"ends": await node.drain_and_end()})


async def reload(node: Node) -> Response:
    """Read the settings again; return which have changed and which need a restart. Control socket only."""
    _require_control()
    reloaded = node.reload()
    return _json({"changed": reloaded.changed, "needs_restart": reloaded.needs_restart})


async def sync(node: Node) -> Response:
    """Poll the master now and check every meeting; return why it could not be polled. Control socket only."""
    _require_control()
    poller = node.services.poller
    with suppress(errors.OriginUnreachable, errors.OriginError):
        await poller.poll(full=True)
    return _json({"master_error": poller.error})


def _require_control() -> None:
    if CONTROL not in (request.scope.get("extensions") or {}):
        raise errors.KeyRequired


_ROUTES: tuple[tuple[str, tuple[str, ...], Callable[..., Awaitable[Response]]], ...] = (
    ("/health", ("GET",), health),
    ("/ready", ("GET",), ready),
    ("/api/status", ("GET",), status),
    ("/metrics", ("GET",), metrics_answer),
    ("/api/v1/meetings/<meeting_id>/fill", ("GET",), fill),
    ("/", ("GET",), index),
    ("/api/config", ("GET", "POST"), refuse),
    ("/api/service/start", ("POST",), refuse),
    ("/api/service/stop", ("POST",), refuse),
    ("/api/service/sync", ("POST",), sync),
    ("/api/service/drain", ("POST",), drain),
    ("/api/service/reload", ("POST",), reload),
)


def _json(answer: Mapping[str, object], status_code: int = 200) -> Response:
    response = jsonify(answer)
    response.status_code = status_code
    # Answers about the node are valid for the moment only, and a cache may keep a 404 without it (RFC 9111, 4.2.2).
    response.headers["Cache-Control"] = "no-store"
    return response


async def _add_cors(response: Response) -> Response:
    headers = [*cors.HEADERS]
    if request.method == "OPTIONS" and response.status_code == 200:  # made by Quart for any route
        response.status_code = 204
        for name in ("Content-Length", "Content-Type"):  # a 204 must not have the first (RFC 9110, 8.6)
            response.headers.pop(name, None)
        headers += cors.options_fields(response.headers["Allow"], Fields(request.scope["headers"]))
    response.headers.update({name.decode(): value.decode() for name, value in headers})
    return response


async def _answer_error(error: Exception) -> Response:
    """Turn an error into `{"detail": ...}`, by the table in `answers`."""
    status_code, detail, fields = answer_to(error, request.path)
    response = _json({"detail": detail}, status_code)
    response.headers.update(fields)
    return response


async def _answer_http_error(error: HTTPException) -> Response:
    """Turn Quart's own refusals (no such route, no such method) into the same form, with their headers."""
    response = _json({"detail": error.description or error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response
