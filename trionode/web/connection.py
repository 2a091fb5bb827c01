"""Quart's HTTP connection, changed so that an idle connection is closed after the answer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from quart_trio.asgi import TrioASGIHTTPConnection

from ..delivery.send import send_shielding_end

if TYPE_CHECKING:
    import trio
    from quart.wrappers import Request


class QuartConnection(TrioASGIHTTPConnection):
    """One HTTP request that Quart answers."""

    async def handle_request(self, nursery: trio.Nursery, request: Request, send: Any) -> None:  # type: ignore[override]
        """Handle the request; see `send_shielding_end`."""
        await super().handle_request(nursery, request, functools.partial(send_shielding_end, send))
