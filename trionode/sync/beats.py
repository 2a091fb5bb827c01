"""A heartbeat that every master takes, whatever there is to say. Pure."""

from __future__ import annotations

import msgspec

from master_shim.protocol import MAX_BEAT_BYTES, MAX_BEAT_MEETINGS, Heartbeat, MeetingName

FEW_TICKETS = 500
"""Tickets that a beat keeps when it is too long: the rest comes with the next, or expires at the master by itself."""

TITLES = (64, 16, 0)
"""To how many characters titles are cut, one step after the other: they are only shown."""


def fitted(beat: Heartbeat) -> Heartbeat:
    """Return `beat`, or as much of it as a master takes: `MAX_BEAT_BYTES`, and `MAX_BEAT_MEETINGS` of everything.

    Given up in this order: most of the tickets, the titles, and then meetings, those first that have been in progress
    for longest: what a start gate waits for began last. A master that refused one beat would refuse all that follow,
    and drop the node.
    """
    beat = _of_last(beat, MAX_BEAT_MEETINGS)
    if _size(beat) <= MAX_BEAT_BYTES:
        return beat
    beat = msgspec.structs.replace(beat, tickets=beat.tickets[:FEW_TICKETS])
    for length in TITLES:
        if _size(beat) <= MAX_BEAT_BYTES:
            return beat
        short = tuple(MeetingName(meeting.id, meeting.title[:length]) for meeting in beat.active_meetings)
        beat = msgspec.structs.replace(beat, active_meetings=short)
    while (size := _size(beat)) > MAX_BEAT_BYTES and beat.active_meetings:
        count = len(beat.active_meetings)
        beat = _of_last(beat, min(count - 1, count * MAX_BEAT_BYTES // size))
    return beat


def _of_last(beat: Heartbeat, count: int) -> Heartbeat:
    """Leave only the last `count` meetings, and what is said of them."""
    if max(len(beat.active_meetings), len(beat.filling)) <= count:
        return beat
    kept = beat.active_meetings[len(beat.active_meetings) - count :]
    ids = {meeting.id for meeting in kept}
    return msgspec.structs.replace(
        beat,
        active_meetings=kept,
        synced_meetings=tuple(name for name in beat.synced_meetings if name in ids),
        packages={name: digest for name, digest in beat.packages.items() if name in ids},
        filling=beat.filling[len(beat.filling) - count :] if count < len(beat.filling) else beat.filling,
    )


def _size(beat: Heartbeat) -> int:
    return len(msgspec.json.encode(beat))
