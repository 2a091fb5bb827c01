"""The shim as ASGI middleware around an existing master."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .protocol.target import path_of
from .routes import Group, find

if TYPE_CHECKING:
    from .app import MasterShim
    from .asgi import ASGIApp, Receive, Scope, Send


class MasterShimMiddleware:
    """Answers the routes of nodes and downloads by `shim`, and everything else, status included, by `app`."""

    def __init__(self, app: ASGIApp, *, shim: MasterShim) -> None:
        self._app = app
        self._shim = shim

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a scope to the shim or the app; lifespan and websocket always to the app."""
        if scope["type"] == "http":
            match = find(path_of(scope))
            if match is not None and match.route.group is not Group.STATUS:
                await self._shim.answer(match, scope, receive, send, standalone=False)
                return
            self._shim.check_nodes()
        await self._app(scope, receive, send)
