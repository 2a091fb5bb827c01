"""The table of routes, and finding the route of a path. Pure. No regular expressions: every redirect passes here."""

from __future__ import annotations

import enum
from typing import NamedTuple

from .protocol import meeting_id_of


class Group(enum.Enum):
    """Which routes belong together. Wrapped around a master, the shim leaves STATUS to it."""

    NODES = "nodes"
    DOWNLOADS = "downloads"
    STATUS = "status"


class Route(enum.Enum):
    """Every route of the shim: its path, methods and group."""

    REGISTER = ("/api/v1/nodes/register", "POST", Group.NODES)
    HEARTBEAT = ("/api/v1/nodes/heartbeat", "POST", Group.NODES)
    UNREGISTER = ("/api/v1/nodes/unregister", "POST", Group.NODES)
    LIST = ("/api/v1/nodes/list", "GET, HEAD", Group.NODES)
    AVAILABLE = ("/api/v1/nodes/available", "GET, HEAD", Group.NODES)
    NODES_STATUS = ("/api/v1/nodes/status", "GET, HEAD", Group.NODES)
    NODES_METRICS = ("/api/v1/nodes/metrics", "GET, HEAD", Group.NODES)
    DOWNLOAD = ("/api/v1/meetings/{id}/download-package", "GET, HEAD", Group.DOWNLOADS)
    DIRECT = ("/api/v1/meetings/{id}/download-package-direct", "GET, HEAD", Group.DOWNLOADS)
    NODES_INFO = ("/api/v1/meetings/{id}/download-nodes-info", "GET, HEAD", Group.DOWNLOADS)
    MANIFEST = ("/api/v1/meetings/{id}/manifest", "GET, HEAD", Group.DOWNLOADS)
    PACKAGE = ("/api/v1/packages/{digest}", "GET, HEAD", Group.DOWNLOADS)
    PACKAGE_NODES = ("/api/v1/packages/{digest}/nodes", "GET, HEAD", Group.DOWNLOADS)
    DATA = ("/api/v1/meetings/{id}/data", "GET, HEAD", Group.STATUS)
    STATUS_NODE = ("/api/v1/meetings/status/node", "GET, HEAD", Group.STATUS)
    STATUS_TOKEN = ("/api/v1/meetings/status/token", "GET, HEAD", Group.STATUS)
    ROOT = ("/", "GET, HEAD", Group.STATUS)
    HEALTH = ("/health", "GET, HEAD", Group.STATUS)
    METRICS = ("/metrics", "GET, HEAD", Group.STATUS)

    def __init__(self, path: str, methods: str, group: Group) -> None:
        self.path = path
        self.methods = frozenset(methods.split(", "))
        self.allowed = f"{methods}, OPTIONS"
        self.group = group


class Match(NamedTuple):
    """A route, and the meeting id or digest in the path, if any."""

    route: Route
    argument: str = ""


_MEETINGS = "/api/v1/meetings/"
_PACKAGES = "/api/v1/packages/"
_FIXED = {route.path: route for route in Route if "{" not in route.path}
_OF_MEETING = {
    route.path.removeprefix(_MEETINGS + "{id}/"): route for route in Route if route.path.startswith(_MEETINGS + "{id}/")
}


def find(path: str) -> Match | None:
    """Return the route of a path (as returned by `protocol.target.path_of`), or None."""
    if path.startswith(_MEETINGS):
        meeting_id, _, action = path[len(_MEETINGS) :].rpartition("/")
        route = _OF_MEETING.get(action)
        if route is not None and "/" not in meeting_id:
            return Match(route, meeting_id_of(meeting_id))
    elif path.startswith(_PACKAGES):
        digest, slash, action = path[len(_PACKAGES) :].partition("/")
        if not slash:
            return Match(Route.PACKAGE, digest)
        return Match(Route.PACKAGE_NODES, digest) if action == "nodes" else None
    fixed = _FIXED.get(path)
    return None if fixed is None else Match(fixed)
