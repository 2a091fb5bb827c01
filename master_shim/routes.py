"""Which route a path is. Pure: one table, and no regular expression, since every redirect passes here."""

from __future__ import annotations

import enum
from typing import NamedTuple

API = "/api/v1/"
_MEETINGS = API + "meetings/"
_PACKAGES = API + "packages/"


class Group(enum.Enum):
    """Who answers a route when the shim is wrapped around a master: the shim, or the master's own."""

    NODES = "nodes"
    DOWNLOADS = "downloads"
    STATUS = "status"


class Route(enum.Enum):
    """Every route of the shim: its methods, and the group it belongs to."""

    REGISTER = ("register", "POST", Group.NODES)
    HEARTBEAT = ("heartbeat", "POST", Group.NODES)
    UNREGISTER = ("unregister", "POST", Group.NODES)
    LIST = ("list", "GET, HEAD", Group.NODES)
    AVAILABLE = ("available", "GET, HEAD", Group.NODES)
    DOWNLOAD = ("download-package", "GET, HEAD", Group.DOWNLOADS)
    DIRECT = ("download-package-direct", "GET, HEAD", Group.DOWNLOADS)
    NODES_INFO = ("download-nodes-info", "GET, HEAD", Group.DOWNLOADS)
    MANIFEST = ("manifest", "GET, HEAD", Group.DOWNLOADS)
    PACKAGE = ("package", "GET, HEAD", Group.DOWNLOADS)
    PACKAGE_NODES = ("package-nodes", "GET, HEAD", Group.DOWNLOADS)
    DATA = ("data", "GET, HEAD", Group.STATUS)
    STATUS_NODE = ("status-node", "GET, HEAD", Group.STATUS)
    STATUS_TOKEN = ("status-token", "GET, HEAD", Group.STATUS)
    ROOT = ("root", "GET, HEAD", Group.STATUS)
    HEALTH = ("health", "GET, HEAD", Group.STATUS)

    def __init__(self, label: str, allowed: str, group: Group) -> None:
        self.label = label
        self.allowed = allowed
        self.methods = frozenset(allowed.split(", "))
        self.group = group


class Match(NamedTuple):
    """A route, with the meeting id or digest from the path (or nothing). `prefix` is the mount point."""

    route: Route
    argument: str
    prefix: str


_FIXED = {
    "/": Route.ROOT,
    "/health": Route.HEALTH,
    API + "nodes/register": Route.REGISTER,
    API + "nodes/heartbeat": Route.HEARTBEAT,
    API + "nodes/unregister": Route.UNREGISTER,
    API + "nodes/list": Route.LIST,
    API + "nodes/available": Route.AVAILABLE,
    API + "meetings/status/node": Route.STATUS_NODE,
    API + "meetings/status/token": Route.STATUS_TOKEN,
}
_OF_MEETING = {
    "download-package": Route.DOWNLOAD,
    "download-package-direct": Route.DIRECT,
    "download-nodes-info": Route.NODES_INFO,
    "manifest": Route.MANIFEST,
    "data": Route.DATA,
}


def _find(path: str) -> tuple[Route, str] | None:
    if path.startswith(_MEETINGS):
        meeting_id, _, action = path[len(_MEETINGS) :].rpartition("/")
        route = _OF_MEETING.get(action)
        if route is not None and "/" not in meeting_id:
            return route, meeting_id
    elif path.startswith(_PACKAGES):
        digest, slash, action = path[len(_PACKAGES) :].partition("/")
        if not slash:
            return Route.PACKAGE, digest
        return (Route.PACKAGE_NODES, digest) if action == "nodes" else None
    fixed = _FIXED.get(path)
    return None if fixed is None else (fixed, "")


def find(path: str, root_path: str = "") -> Match | None:
    """Return the route that `path` (decoded, as ASGI has it) is, or None.

    Mounting differs: Starlette hands a mounted app the whole path with the mount point in `root_path`, other
    frameworks strip it, and behind a proxy `root_path` may never have been in the path. So both are tried.
    """
    prefix = root_path.rstrip("/")
    if prefix and path.startswith(prefix):
        rest = path[len(prefix) :]
        found = _find(rest or "/") if not rest or rest[0] == "/" else None
        if found is not None:
            return Match(*found, prefix)
    found = _find(path)
    return None if found is None else Match(*found, prefix)
