"""What the shim knows about the frameworks that it is a guest in. It imports none of them."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

from .asgi import Answer, json_answer

if TYPE_CHECKING:
    from .asgi import ASGIApp, Scope

_EXCEPTIONS = {
    "starlette.exceptions": ("status_code", "detail"),  # FastAPI's is derived from it
    "werkzeug.exceptions": ("code", "description"),  # Quart and Flask
}
"""Modules with an `HTTPException`, and its attributes for the status and the text."""


def handles(scope: Scope, error: Exception) -> bool:
    """Tell whether the application above has a handler for `error`: Starlette and FastAPI, if the shim is mounted.

    Middleware is called outside these handlers, so there they are not in the scope.
    """
    by_class, _ = scope.get("starlette.exception_handlers") or ({}, {})
    return any(kind in by_class for kind in type(error).__mro__)


def answer_of(error: Any) -> Answer | None:
    """Return the answer that an `HTTPException` of a framework stands for; None for other errors."""
    for name, (status, text) in _EXCEPTIONS.items():
        kind = getattr(sys.modules.get(name), "HTTPException", None)
        if kind is not None and isinstance(error, kind) and isinstance(getattr(error, status), int):
            fields = error.get_headers() if hasattr(error, "get_headers") else (error.headers or {}).items()
            headers = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in fields]
            kept = [header for header in headers if header[0] not in {b"content-type", b"content-length"}]
            return json_answer({"detail": getattr(error, text)}, getattr(error, status), *kept)
    return None


def rest_of_host(shim: ASGIApp, scope: Scope) -> ASGIApp | None:
    """Return the routes of the application in which `shim` is mounted at `/`, without the shim; None elsewhere.

    Starlette and FastAPI redirect to a path with or without a slash at its end, and answer 405, only if no route has
    the path. A mount at `/` has every path, so paths without a route in the shim are passed back.
    """
    router: Any = getattr(scope.get("app"), "router", None)
    routes = getattr(router, "routes", ())
    if not any(getattr(route, "app", None) is shim and route.path == "" for route in routes):
        return None
    rest = copy.copy(router)
    rest.routes = [route for route in routes if getattr(route, "app", None) is not shim]
    app: ASGIApp = rest.app  # not the router itself: its middleware has seen the request
    return app
