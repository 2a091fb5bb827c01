"""What node and shim share: wire types, names, and how a request is read and answered. Pure: no I/O, no clock.

The wire types and names are exported here. `answer`, `chain`, `conditions`, `cors`, `forwarded`,
`ranges` and `target` are modules of it.
"""

from __future__ import annotations

from .messages import (
    HEARTBEAT_SECONDS,
    MAX_HEARTBEAT_BYTES,
    MAX_HEARTBEAT_ITEMS,
    NO_TOKEN,
    NODE_TIMEOUT_SECONDS,
    PEER_FIELD,
    PROTOCOL,
    UNREADABLE,
    FillProgress,
    Heartbeat,
    HeartbeatAnswer,
    ListedNode,
    Load,
    MeetingName,
    NodeHealth,
    NodeInfo,
    NodeStatus,
    Registration,
    TokenMeeting,
    TokenStatus,
    Unregistration,
    VersionNode,
)
from .names import (
    MAX_MEETING_ID_BYTES,
    MAX_TITLE_CHARS,
    SCHEMES,
    attachment,
    is_address,
    is_meeting_id,
    meeting_id_of,
    one_line,
    own_address,
    package_url,
    why_no_meeting_id,
)

__all__ = [
    "HEARTBEAT_SECONDS", "MAX_HEARTBEAT_BYTES", "MAX_HEARTBEAT_ITEMS", "MAX_MEETING_ID_BYTES", "MAX_TITLE_CHARS",
    "NODE_TIMEOUT_SECONDS", "NO_TOKEN", "PEER_FIELD", "PROTOCOL", "SCHEMES", "UNREADABLE", "FillProgress", "Heartbeat",
    "HeartbeatAnswer", "ListedNode", "Load", "MeetingName", "NodeHealth", "NodeInfo", "NodeStatus", "Registration",
    "TokenMeeting", "TokenStatus", "Unregistration", "VersionNode", "attachment", "is_address", "is_meeting_id",
    "meeting_id_of", "one_line", "own_address", "package_url", "why_no_meeting_id",
]  # fmt: skip
