"""The JSON messages between nodes, masters and tablets, as types. Pure.

These are the deployed system's messages plus optional fields, which legacy masters and nodes ignore. Unknown fields are
ignored in both directions, so either side may be newer than the other.
"""

from __future__ import annotations

from typing import Final

import msgspec

PROTOCOL = 1
"""Version of the optional fields. Each side sends its own version; both use the lower one."""

NODE_TIMEOUT_SECONDS = 30.0
"""The deployed master drops a node this long after its last heartbeat."""

HEARTBEAT_SECONDS = 5.0
"""Interval of a node's heartbeats unless an answer's `next_seconds` sets another. Deployed nodes: 10."""

PEER_FIELD = "Trionode-Peer"
"""The header field of a request of one node to another: the id of the one that asks, and `;urgent` behind it if only
the master is left to ask. An id has letters, digits, `.`, `_`, `:` and `-` only."""

NO_TOKEN = "none"  # noqa: S105 - the token while no meeting is in progress

MAX_HEARTBEAT_ITEMS = 10_000
"""Most meetings, packages or fills in one heartbeat: ten times what one master ever had in progress at once."""

MAX_HEARTBEAT_BYTES = 960 * 1024
"""Largest heartbeat a node sends. The shim accepts 1 MiB, and so does nginx in front of a master by default."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for invalid JSON. Invalid UTF-8 in a string and too deep nesting are not among its own errors."""


class MeetingName(msgspec.Struct, frozen=True):
    """A meeting as heartbeats and `status/node` name it."""

    id: str
    title: str = ""


class Load(msgspec.Struct, frozen=True):
    """A node's load. `bytes_per_second` is the current send rate; `max_downloads` 0 means no limit."""

    active_downloads: int = 0
    max_downloads: int = 0
    bytes_per_second: float = 0.0
    draining: bool = False


class Registration(msgspec.Struct, frozen=True):
    """Body of `POST nodes/register`. `scheme` and `instance` are optional additions, as in `Heartbeat`."""

    node_id: str
    address: str
    status: str = "online"
    scheme: str = "http"
    instance: str = ""


class Heartbeat(msgspec.Struct, frozen=True):
    """Body of `POST nodes/heartbeat`. The fields after `synced_meetings` are optional additions.

    Every field is always sent: a deployed master may require `status`, and take a missing list for "unchanged".

    `packages` maps meeting ids to the digests this node serves; `filling` lists the digests being filled; `tickets`
    are those seen since the last answered heartbeat. `protocol` 0 marks a legacy node. `scheme` is "http" or "https":
    how clients reach `address`, which is always `host:port`, since legacy masters put `http://` before it. `instance`
    is made anew at each start, so that a master can tell a restarted node from another one with the same id. `sources`
    has for each digest in `filling` where it is fetched: the id of a node, or "" for the master.
    """

    node_id: str
    address: str
    status: str = "online"
    active_meetings: tuple[MeetingName, ...] = ()
    synced_meetings: tuple[str, ...] = ()
    load: Load | None = None
    packages: dict[str, str] = {}
    filling: tuple[str, ...] = ()
    tickets: tuple[str, ...] = ()
    protocol: int = 0
    scheme: str = "http"
    instance: str = ""
    sources: dict[str, str] = {}


class HeartbeatAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a heartbeat. A legacy master sends `status` and `timestamp` only.

    `conflict` says in words that another node uses the id or the address of this one.
    """

    status: str = "success"
    timestamp: float = 0.0
    token: str | None = None
    next_seconds: float | None = None
    protocol: int = 0
    conflict: str = ""


class Unregistration(msgspec.Struct, frozen=True):
    """Body of `POST nodes/unregister`."""

    node_id: str


class NodeStatus(msgspec.Struct, frozen=True):
    """Answer of `GET meetings/status/node`. Some deployed masters send the single `active_meeting` instead."""

    id: str
    active_meetings: tuple[MeetingName, ...] | None = None
    active_meeting: MeetingName | None = None
    timestamp: float = 0.0


class TokenMeeting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A meeting in `status/token`. Older masters list every meeting with its `status`."""

    id: str
    title: str = ""
    time: str = ""
    status: str | None = None


class TokenStatus(msgspec.Struct, frozen=True):
    """Answer of `GET meetings/status/token`."""

    id: str
    meetings: tuple[TokenMeeting, ...] = ()


class NodeInfo(msgspec.Struct, frozen=True):
    """One entry of `GET meetings/{id}/download-nodes-info`: `ip` is host:port."""

    ip: str
    download_url: str


class VersionNode(msgspec.Struct, frozen=True):
    """One entry of `GET packages/{digest}/nodes`: a node of ours, whether it has the version or not.

    `held`: it has the whole version. `filling`: it is fetching it.
    """

    node_id: str
    address: str
    held: bool = False
    filling: bool = False
    scheme: str = "http"


class ListedNode(msgspec.Struct, frozen=True):
    """One entry of `GET nodes/list`, as far as a node reads it. Deployed masters send no `scheme`."""

    node_id: str
    address: str
    status: str = "online"
    scheme: str = "http"


class NodeHealth(msgspec.Struct, frozen=True):
    """The answer of a node's `/health`, as far as another node reads it. A deployed node has protocol 0."""

    node_id: str = ""
    protocol: int = 0
    peers: str = "off"


class FillProgress(msgspec.Struct, frozen=True):
    """Answer of a node to another one, `GET meetings/{id}/fill`: how far its fill is.

    `filled` are the bytes of the package that it has; `size` is null while unknown. `digest` is null until known; with
    `held` the whole version is stored. `source` is the id of the node it fetches from, "" for the master. `slow`: it
    receives less than half of what its source does, so a node that fetches from it should ask the one before it.
    """

    filled: int = 0
    size: int | None = None
    digest: str | None = None
    held: bool = False
    source: str = ""
    slow: bool = False
