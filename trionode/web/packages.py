"""The routes of packages, as ASGI middleware in front of all other routes.

Quart takes longer to call a handler than a package of 1 MB takes to send (see benchmarks/README.md), so requests for
packages do not pass through it.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio

from master_shim.protocol import cors, is_meeting_id
from store import InvalidDigest

from ..answers import answer_to
from ..delivery.body import PackageBody
from ..delivery.http import METHODS, PackageRequest, PackageResponse
from ..delivery.send import send_body, send_shielding_end
from ..errors import MeetingUnknown, MethodRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..delivery.verified_lease import VerifiedLease
    from ..node import Node

    Application = Callable[[Any, Any, Any], Awaitable[None]]


class PackageRoutes:
    """Answers requests for packages, and passes everything else on to `rest`."""

    def __init__(self, node: Node, rest: Application) -> None:
        self._node = node
        self._rest = rest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        request = PackageRequest.from_scope(scope)
        if request is None:
            await self._rest(scope, receive, send)
            return
        # The stack releases the lease and the permit, however the request ends.
        with ExitStack() as stack:
            source = self._resolve_now(request)
            if source is not None:
                stack.enter_context(source)
                if request.zero_copy and not request.has_body and not self._node.services.delivery.may_queue:
                    # Waits only in sending, which detects a disconnection. Not if it may queue, and not with a request
                    # body, which has to be read: the server puts the end of the request behind it in a short queue,
                    # and would wait for ever.
                    await self._respond(stack, request, source, send)
                    return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
                await self._respond(stack, request, source, functools.partial(send_shielding_end, send))
                nursery.cancel_scope.cancel()

    def _resolve_now(self, request: PackageRequest) -> VerifiedLease | None:
        """Return the source of the answer if it is known without waiting."""
        if not self._node.lifecycle.serving or request.method not in {"GET", "HEAD"}:
            return None
        if not is_meeting_id(request.meeting) or request.token:
            return None
        try:
            version = request.version
        except InvalidDigest:
            return None
        return self._node.services.delivery.resolver.resolve_now(request.meeting, version)

    async def _respond(
        self, stack: ExitStack, request: PackageRequest, source: VerifiedLease | None, send: Any
    ) -> None:
        try:
            response = await self._answer(stack, request, source)
        except Exception as error:  # noqa: BLE001 - the table of answers decides
            response = PackageResponse.error(*answer_to(error, request.path))
        headers = [*response.headers, *cors.HEADERS]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = response.body
        if isinstance(body, PackageBody):
            if not await send_body(send, body, zero_copy=request.zero_copy):
                # Without the last message the server cuts the connection: the client sees a failure, not a short file.
                return
            body = b""
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, stack: ExitStack, request: PackageRequest, source: VerifiedLease | None) -> PackageResponse:
        if request.method not in METHODS:
            raise MethodRefused(METHODS)
        if request.method == "OPTIONS":
            return PackageResponse(204, [*cors.options_fields(", ".join(METHODS), request.fields)])
        if not is_meeting_id(request.meeting):
            raise MeetingUnknown(request.meeting)
        return await self._node.services.delivery.answer(stack, request, source)


async def _cancel_on_disconnect(receive: Any, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the client disconnects. A request body is discarded."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
