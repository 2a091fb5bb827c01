"""Cuts a heartbeat to a size that every master accepts. Pure."""

from __future__ import annotations

import msgspec

from master_shim.protocol import MAX_HEARTBEAT_BYTES, MAX_HEARTBEAT_ITEMS, Heartbeat, MeetingName

FEW_TICKETS = 500
"""Tickets kept in a heartbeat that is too large: the others are in the next one, or expire at the master."""

TITLES = (64, 16, 0)
"""Lengths to which titles, which are only displayed, are cut in turn."""


def limit_size(beat: Heartbeat) -> Heartbeat:
    """Return `beat` cut to `MAX_HEARTBEAT_BYTES`, with at most `MAX_HEARTBEAT_ITEMS` in each list.

    Left out, in this order: sources, which are only displayed, most tickets, titles, and meetings, the oldest first,
    since a start gate waits for the newest. A master that refuses one heartbeat for its size would refuse all that
    follow, and drop the node.
    """
    beat = _keep_last(beat, MAX_HEARTBEAT_ITEMS)
    if _size(beat) <= MAX_HEARTBEAT_BYTES:
        return beat
    beat = msgspec.structs.replace(beat, sources={})
    if _size(beat) <= MAX_HEARTBEAT_BYTES:
        return beat
    beat = msgspec.structs.replace(beat, tickets=beat.tickets[:FEW_TICKETS])
    for length in TITLES:
        if _size(beat) <= MAX_HEARTBEAT_BYTES:
            return beat
        short = tuple(MeetingName(meeting.id, meeting.title[:length]) for meeting in beat.active_meetings)
        beat = msgspec.structs.replace(beat, active_meetings=short)
    while (size := _size(beat)) > MAX_HEARTBEAT_BYTES and beat.active_meetings:
        count = len(beat.active_meetings)
        beat = _keep_last(beat, min(count - 1, count * MAX_HEARTBEAT_BYTES // size))
    return beat


def _keep_last(beat: Heartbeat, count: int) -> Heartbeat:
    """Return the heartbeat with only the last `count` meetings."""
    if max(len(beat.active_meetings), len(beat.filling)) <= count:
        return beat
    kept = beat.active_meetings[len(beat.active_meetings) - count :]
    ids = {meeting.id for meeting in kept}
    filling = beat.filling[max(0, len(beat.filling) - count) :]
    return msgspec.structs.replace(
        beat,
        active_meetings=kept,
        synced_meetings=tuple(name for name in beat.synced_meetings if name in ids),
        packages={name: digest for name, digest in beat.packages.items() if name in ids},
        filling=filling,
        sources={digest: beat.sources[digest] for digest in filling if digest in beat.sources},
    )


def _size(beat: Heartbeat) -> int:
    return len(msgspec.json.encode(beat))
