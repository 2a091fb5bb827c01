"""A fill from a legacy master: its whole package as a stream; and a cheap comparison with a stored package."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

from store import NeverFits, NoSpace

from ..errors import OriginUnreachable
from .room import begin_with_room, call_with_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from store import Manifest, Readable, Store, StreamFill

    from ..master.client import Master, OriginBody
    from .live_fill import LiveFill
    from .room import MakeRoom

APPEND_BYTES = 256 << 10
"""Bytes collected before a write: few enough for followers, enough to be worth a call in a worker thread."""

PROBE_BYTES = 64 << 10
"""Bytes of a legacy master's package that a routine check reads."""

TIMED_MEMBER = b"README.txt"
LOCAL_HEADER_BYTES = 30
"""Deployed masters put the time of generation into the first zip member; its name follows the fixed local header."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class StreamFetcher:
    """Fetches packages whose digest is not known before they arrive. One object serves any number of fills."""

    def __init__(self, store: Store, master: Master, make_room: MakeRoom) -> None:
        self._store = store
        self._master = master
        self._make_room = make_room

    async def run(self, live: LiveFill) -> Manifest:
        """Fetch a meeting's package, commit it once the zip was read whole, and return its manifest.

        Room is made before the first byte if the master sends a length, else while the file grows. Raises
        `MeetingUnknown`, `OriginUnreachable`, `OriginError`, `PackageRejected`, `NoSpace`. Nothing is kept then: a
        stream cannot be resumed, since the next one may have other bytes.
        """
        async with self._master.package(live.meeting_id) as body:
            if body.size is not None:
                await self._make_room(body.size)
            stream = await begin_with_room(self._make_room, self._store.begin_stream, live.meeting_id)
            live.begin(stream)
            await self._append(stream, body, live)
            return await self._grow(stream, 0, stream.commit)

    async def _append(self, stream: StreamFill, body: OriginBody, live: LiveFill) -> None:
        pending = bytearray()
        async for data in body:
            pending += data
            if len(pending) >= APPEND_BYTES:
                await self._grow(stream, len(pending), stream.append, pending)
                pending = bytearray()
                live.advance()
        if pending:
            await self._grow(stream, len(pending), stream.append, pending)
        if body.size is not None and body.size != stream.size:
            raise OriginUnreachable(f"{stream.size} of {body.size} bytes arrived")

    async def _grow(
        self, stream: StreamFill, size: int, call: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
    ) -> T:
        """Make a call that adds `size` bytes, with room. Its `NoSpace` says what the whole stream needs so far."""
        try:
            return await call_with_room(self._make_room, call, *arguments)
        except NeverFits:
            raise
        except NoSpace as full:
            needed = stream.size + max(size, full.needed)
            raise NoSpace(needed, max(0, needed - full.needed + full.available)) from full

    async def begins_alike(self, meeting_id: str, stored: Readable) -> bool:
        """Return whether the master's package begins with the bytes of `stored`, the time of generation included.

        Reads `PROBE_BYTES` and closes the connection, so that checking 300 unchanged meetings does not cost the master
        300 packages. False if the stored package has no time of generation, since its beginning then proves nothing.
        """
        beginning = os.pread(stored.fileno(), PROBE_BYTES, 0)
        if not beginning[LOCAL_HEADER_BYTES:].startswith(TIMED_MEMBER):
            return False
        received = bytearray()
        async with self._master.package(meeting_id) as body:
            async for data in body:
                received += data
                if len(received) >= len(beginning):
                    break
        return bytes(received[: len(beginning)]) == beginning
