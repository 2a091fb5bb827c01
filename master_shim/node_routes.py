"""The routes nodes call: register, heartbeat, unregister, and the lists of nodes."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .asgi import Answer, Request, json_answer
from .errors import MessageInvalid
from .protocol import (
    HEARTBEAT_SECONDS,
    PROTOCOL,
    UNREADABLE,
    Heartbeat,
    Registration,
    Unregistration,
)
from .registry import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .balancer import Balancer
    from .registry import Node, Registry

_MISSING = re.compile(r"missing required field `([^`]+)`")
_T = TypeVar("_T")


class NodeRoutes:
    """Handlers of the routes nodes call. `token` gives what a heartbeat's answer says, or None."""

    def __init__(
        self,
        registry: Registry,
        balancer: Balancer,
        clock: Callable[[], float],
        token: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._registry = registry
        self._balancer = balancer
        self._clock = clock
        self._token = token

    async def register(self, request: Request) -> Answer:
        """Take a node in; it is offered after its first heartbeat, when it is known what it holds."""
        message = decode(await request.body(), Registration)
        self._registry.register(message, self._clock())
        return _success(f"Node {message.node_id} registered")

    async def heartbeat(self, request: Request) -> Answer:
        """Take a heartbeat in. A legacy node reads `status` and ignores the rest of the answer."""
        message = decode(await request.body(), Heartbeat)
        now = self._clock()
        node = self._registry.beat(message, now)
        self._balancer.seen(node, message.tickets, now)
        # The token of a master that is only wrapped is not known here; ours would be news to the node at every
        # beat.
        token = await self._token() if request.whole else None
        # Written out, since the type leaves out what has its default, and a deployed node wants its `status`.
        value = {
            "status": "success",
            "timestamp": time.time(),
            "next_seconds": HEARTBEAT_SECONDS,
            "protocol": PROTOCOL,
        }
        return json_answer(value if token is None else {**value, "token": token})

    async def unregister(self, request: Request) -> Answer:
        """Forget a node."""
        message = decode(await request.body(), Unregistration)
        self._registry.unregister(message.node_id, self._clock())
        return _success(f"Node {message.node_id} unregistered")

    async def list(self, request: Request) -> Answer:
        """Describe every node that is alive, as the deployed master does."""
        now = self._clock()
        return json_answer([_describe(node, now, time.time()) for node in self._registry.nodes(now)])

    async def available(self, request: Request) -> Answer:
        """Give the addresses of the nodes that are alive and not about to leave."""
        nodes = [node.address for node in self._registry.nodes(self._clock()) if node.reachable]
        return json_answer({"count": len(nodes), "nodes": nodes})


def decode(body: bytes, kind: type[_T]) -> _T:
    """Parse a message. Raises `MessageInvalid`, with the field when one is missing."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        missing = _MISSING.search(str(error))
        if missing is not None:
            raise MessageInvalid("Field required", missing.group(1), missing=True) from error
        raise MessageInvalid(str(error)) from error
    except UNREADABLE as error:
        raise MessageInvalid(f"The body is not JSON: {error}") from error


def _success(message: str) -> Answer:
    return json_answer({"status": "success", "message": message})


def _describe(node: Node, now: float, wall_now: float) -> dict[str, object]:
    """Return one entry of `nodes/list`; `last_seen` in Unix seconds, `uptime` in seconds."""
    entry: dict[str, object] = {
        "node_id": node.node_id,
        "address": node.address,
        "status": "draining" if node.state is State.DRAINING else node.status,
        "last_seen": wall_now - (now - node.last_seen),
        "uptime": now - node.first_seen,
        "active_meetings": [{"id": meeting.id, "title": meeting.title} for meeting in node.active],
    }
    if node.active:
        entry["active_meeting"] = ", ".join(meeting.title for meeting in node.active)
    return entry
