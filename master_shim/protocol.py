"""What master and node say to each other, as types. Pure: shared by both sides, imports no module that does I/O.

The deployed system's messages, with the optional additions that a legacy master or node ignores. Unknown fields
are ignored in both directions, so either side may be newer than the other.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import msgspec

PROTOCOL = 1
"""Version of the additions; both sides send theirs, and work with the lower."""

NODE_TIMEOUT_SECONDS = 30.0
"""The deployed master drops a node this long after its last heartbeat."""

HEARTBEAT_SECONDS = 5.0
"""How often a node beats unless an answer's `next_seconds` says otherwise. Deployed nodes: 10."""

NO_TOKEN = "none"  # noqa: S105 - the wire's word for "no meeting is in progress"

MAX_MEETING_ID = 128
"""Characters in a meeting id. The deployed system's are short; a longer one is hostile or a mistake."""

MAX_BEAT_MEETINGS = 10_000
"""Meetings, packages or fills that one heartbeat may name: ten times what one master ever had in progress at once."""

MAX_BEAT_BYTES = 960 * 1024
"""What a node sends in one heartbeat. The shim takes a MiB; a deployed master takes anything, but a proxy in front of
it may not, and nginx takes a MiB if it is told nothing else."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON that cannot be read: bad UTF-8 inside a text, and nesting without end, are not among its
own errors."""

_ID_PUNCTUATION = frozenset("-_.:@+=~ ")


def is_meeting_id(text: str) -> bool:
    """Tell whether `text` can be a meeting's id at all: neither disk nor network is asked about any other.

    Letters and digits of any script and a few marks, 1 to 128 characters, no dot or space at either end. A text
    that Unicode compatibility normalization (NFKC) would change is none, so that no look-alike of a dot or a
    slash can become one later.
    """
    return (
        1 <= len(text) <= MAX_MEETING_ID
        and all(character.isalnum() or character in _ID_PUNCTUATION for character in text)
        and text[0] not in ". "
        and text[-1] not in ". "
        and unicodedata.is_normalized("NFKC", text)
    )


_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
"""Control characters, breaks of lines, marks that turn the direction of text, and halves of surrogate pairs."""

MAX_TITLE_CHARS = 512
"""Longer titles are cut: they are only shown."""


def one_line(text: str, most: int = MAX_TITLE_CHARS) -> str:
    """Return somebody else's text as it may be shown in a list, a log or a terminal: one line of at most `most`.

    What would break a line, move a cursor or turn the text around becomes a space.
    """
    return text[:most] if text.isprintable() else _UNSHOWN.sub(" ", text).strip()[:most]


class MeetingName(msgspec.Struct, frozen=True):
    """A meeting as heartbeats and `status/node` name it."""

    id: str
    title: str = ""


class Load(msgspec.Struct, frozen=True):
    """What a node reports of itself. `bytes_per_second` is what it sends now; `max_downloads` 0 means no limit."""

    active_downloads: int = 0
    max_downloads: int = 0
    bytes_per_second: float = 0.0
    draining: bool = False


class Registration(msgspec.Struct, frozen=True):
    """Body of `POST nodes/register`."""

    node_id: str
    address: str
    status: str = "online"


class Heartbeat(msgspec.Struct, frozen=True):
    """Body of `POST nodes/heartbeat`. The fields after `synced_meetings` are ours.

    Always sent whole: a deployed master may insist on `status`, and take a list that is not there for "as before".

    `packages` maps meeting ids to the digest this node serves; `filling` lists digests being filled; `tickets`
    are those seen since the last answered heartbeat. `protocol` 0 marks a legacy node.
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


class HeartbeatAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a heartbeat. A legacy master sends `status` and `timestamp` only."""

    status: str = "success"
    timestamp: float = 0.0
    token: str | None = None
    next_seconds: float | None = None
    protocol: int = 0


class Unregistration(msgspec.Struct, frozen=True):
    """Body of `POST nodes/unregister`."""

    node_id: str


class NodeStatus(msgspec.Struct, frozen=True):
    """Answer of `GET meetings/status/node`; some deployed masters send the single `active_meeting` instead."""

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
    """One entry of `GET packages/{digest}/nodes`."""

    node_id: str
    address: str
    filling: bool = False
