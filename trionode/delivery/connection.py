"""How Quart ends an answer: so that its connection is closed when it is idle."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from quart_trio.asgi import TrioASGIHTTPConnection

from .sending import end_shielded

if TYPE_CHECKING:
    import trio
    from quart.wrappers import Request


class QuartConnection(TrioASGIHTTPConnection):
    """One HTTP request that Quart answers."""

    async def handle_request(self, nursery: trio.Nursery, request: Request, send: Any) -> None:  # type: ignore[override]
        """Handle the request; see `end_shielded`."""
        await super().handle_request(nursery, request, functools.partial(end_shielded, send))
