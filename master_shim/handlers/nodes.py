"""The routes that nodes call: register, heartbeat, unregister; and the lists of nodes."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ..asgi import Answer, Request, json_answer
from ..errors import MessageInvalid
from ..node import State
from ..protocol import HEARTBEAT_SECONDS, PROTOCOL, UNREADABLE, Heartbeat, Registration, Unregistration

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..activity import Activity
    from ..balancer import Balancer
    from ..node import RegisteredNode
    from ..packages.in_progress import InProgress
    from ..registry import Registry

_MISSING = re.compile(r"missing required field `([^`]+)`")
_T = TypeVar("_T")


class NodeHandlers:
    """Handlers of the routes that nodes call."""

    def __init__(
        self,
        registry: Registry,
        balancer: Balancer,
        in_progress: InProgress,
        activity: Activity,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._balancer = balancer
        self._in_progress = in_progress
        self._activity = activity
        self._clock = clock

    async def register(self, request: Request) -> Answer:
        """Add a node. It is offered after its first heartbeat, which reports what it holds."""
        message = decode(await request.body(), Registration)
        self._registry.register(message, self._clock())
        return _success(f"Node {message.node_id} registered")

    async def heartbeat(self, request: Request) -> Answer:
        """Apply a heartbeat. The answer has the token if the shim is the master; a wrapped master has its own."""
        message = decode(await request.body(), Heartbeat)
        now = self._clock()
        node = self._registry.heartbeat(message, now)
        self._balancer.confirm(node, message.tickets, now)
        token = await self._in_progress.token() if request.standalone else None
        # Not a `HeartbeatAnswer`, which omits defaults: a deployed node requires `status`.
        value = {"status": "success", "timestamp": time.time(), "next_seconds": HEARTBEAT_SECONDS, "protocol": PROTOCOL}
        if token is not None:
            value["token"] = token
        if node.conflict:
            value["conflict"] = node.conflict
            self._activity.conflict(node.conflict, now)
        return json_answer(value)

    async def unregister(self, request: Request) -> Answer:
        """Remove a node."""
        message = decode(await request.body(), Unregistration)
        self._registry.unregister(message.node_id, self._clock())
        return _success(f"Node {message.node_id} unregistered")

    async def list(self, request: Request) -> Answer:
        """Answer `nodes/list`."""
        now, wall_now = self._clock(), time.time()
        return json_answer([_describe(node, now, wall_now) for node in self._registry.nodes(now)])

    async def available(self, request: Request) -> Answer:
        """Answer `nodes/available`: its readers put `http://` before each address, so only the nodes with HTTP."""
        nodes = self._registry.nodes(self._clock())
        addresses = [node.address for node in nodes if node.reachable and node.scheme == "http"]
        return json_answer({"count": len(addresses), "nodes": addresses})


def decode(body: bytes, kind: type[_T]) -> _T:
    """Parse a message. Raises `MessageInvalid`, which names the field if one is missing."""
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


def _describe(node: RegisteredNode, now: float, wall_now: float) -> dict[str, object]:
    """Return one entry of `nodes/list`: `last_seen` in Unix seconds, `uptime` in seconds."""
    entry: dict[str, object] = {
        "node_id": node.node_id,
        "address": node.address,
        "scheme": node.scheme,
        "status": "draining" if node.state is State.DRAINING else node.status,
        "last_seen": wall_now - (now - node.last_seen),
        "uptime": now - node.first_seen,
        "active_meetings": [{"id": meeting.id, "title": meeting.title} for meeting in node.active],
    }
    if node.active:
        entry["active_meeting"] = ", ".join(meeting.title for meeting in node.active)
    return entry
