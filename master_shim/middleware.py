"""The shim around a master that exists, taking over what concerns nodes and downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .routes import Group, find

if TYPE_CHECKING:
    from .app import MasterShim
    from .asgi import ASGIApp, Receive, Scope, Send


class MasterShimMiddleware:
    """Answers the routes of nodes and downloads from `shim`; all else, status included, is the app's."""

    def __init__(self, app: ASGIApp, *, shim: MasterShim) -> None:
        self._app = app
        self._shim = shim

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one scope to whom it belongs: lifespan and websocket always to the app."""
        if scope["type"] == "http":
            match = find(scope["path"], scope.get("root_path", ""))
            if match is not None and match.route.group is not Group.STATUS:
                await self._shim.answer(match, scope, receive, send, whole=False)
                return
        await self._app(scope, receive, send)
