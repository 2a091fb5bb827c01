"""Quart's HTTP connection, changed so that an idle connection is closed after the answer, and for unusual targets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from quart_trio.asgi import TrioASGIHTTPConnection

from master_shim.protocol.target import path_of

from ..delivery.send import send_shielding_end

if TYPE_CHECKING:
    import trio
    from quart.wrappers import Request


class QuartConnection(TrioASGIHTTPConnection):
    """One HTTP request that Quart answers."""

    def _create_request_from_scope(self, send: Any) -> Request:
        """Build the request. Quart crashes on some targets that are no path: here they match no route."""
        path = self.scope["path"]
        if not path.startswith("/"):
            path = path_of({"path": path})
            self.scope = {**self.scope, "path": path if path.startswith("/") else "/*"}
        return super()._create_request_from_scope(send)

    async def handle_request(self, nursery: trio.Nursery, request: Request, send: Any) -> None:  # type: ignore[override]
        """Handle the request; see `send_shielding_end`."""
        await super().handle_request(nursery, request, functools.partial(send_shielding_end, send))
