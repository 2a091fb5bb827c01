"""A fill from a legacy master: its whole package as a stream; and a cheap comparison with a stored package."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import structlog
import trio

from store import NeverFits, NoSpace, PackageRejected

from ..errors import OriginError, OriginUnreachable, PeerFailed, PeerFailure
from .room import begin_with_room, call_with_room
from .routing import MASTER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from store import Digest, Manifest, Readable, Store, StreamFill

    from ..master.client import Master
    from ..master.transport import Body
    from .live_fill import LiveFill
    from .range_source import StreamSource
    from .room import MakeRoom
    from .source_factory import SourceFactory
    from .sources import Sources

APPEND_BYTES = 256 << 10
"""Bytes collected before a write: few enough for followers, enough to be worth a call in a worker thread."""

PROBE_BYTES = 64 << 10
"""Bytes of a legacy master's package that a routine check reads."""

BEGINNING_BYTES = 4 << 10
"""Bytes of it that are compared with those from another node. They have the time of generation; with more, the master
would send up to 150 KB to each node before it notices that the node has hung up."""

TIMED_MEMBER = b"README.txt"
LOCAL_HEADER_BYTES = 30
"""Deployed masters put the time of generation into the first zip member; its name follows the fixed local header."""

DIGEST_SECONDS = 20.0
"""How long a node may take to verify the package that it has sent."""

DIGEST_POLL_SECONDS = 0.02
"""Each node waits for the one before it, so these intervals add up."""

DROPPED_SECONDS = 2.0
"""A node that has nothing of the package for so long has not kept it. It has nothing to show for a moment when it
switches the ref, or has just begun again."""

_log = structlog.get_logger("trionode.fetch")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class StreamFetcher:
    """Fetches packages whose digest is not known before they arrive. One object serves any number of fills."""

    def __init__(self, store: Store, master: Master, sources: SourceFactory, make_room: MakeRoom) -> None:
        self._store = store
        self._master = master
        self._sources = sources
        self._make_room = make_room

    async def run(self, live: LiveFill) -> Manifest:
        """Fetch a meeting's package, commit it once the zip was read whole, and return its manifest.

        From another node it is taken only if it begins as the master's package does, and has the digest that the node
        has computed, after that has compared it with its own source. Room is made before the first byte if the source
        sends a length, else while the file grows. Raises `MeetingUnknown`, `OriginUnreachable`, `OriginError`,
        `PeerFailed`, `PackageRejected`, `NoSpace`. Nothing is kept then: a stream cannot be resumed later, since the
        next one may have other bytes.
        """
        async with self._sources.of_meeting(live) as sources:
            fetch = _Fetch(self, live)
            source = await fetch.receive(sources)
            live.complete()
            try:
                manifest = await fetch.commit()
            except PackageRejected as rejected:
                if fetch.received > BEGINNING_BYTES:  # else the master's own bytes are the same
                    await _judge(sources, source, None, why=rejected.reason)
                raise
            try:
                await _judge(sources, source, manifest.digest)
            except PeerFailed:
                if all(ref.digest != manifest.digest for ref in self._store.refs()):
                    await trio.to_thread.run_sync(self._store.remove, manifest.digest)
                raise
            # Not before: the nodes behind this one take it as confirmed by all before it.
            live.digest = manifest.digest
            return manifest

    async def begin(self, meeting_id: str, size: int | None) -> StreamFill:
        """Begin a stream, after making room for `size` bytes if that is known."""
        if size is not None:
            await self._make_room(size)
        return await begin_with_room(self._make_room, self._store.begin_stream, meeting_id)

    async def grow(
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

    async def beginning(self, meeting_id: str, size: int) -> bytes:
        """Return the first `size` bytes, or fewer, of the master's package, and close the connection."""
        received = bytearray()
        async with self._master.package(meeting_id) as body:
            async for data in body:
                received += data
                if len(received) >= size:
                    break
        return bytes(received[:size])

    async def begins_alike(self, meeting_id: str, stored: Readable) -> bool:
        """Return whether the master's package begins with the bytes of `stored`, the time of generation included.

        Reads `PROBE_BYTES` and closes the connection, so that checking 300 unchanged meetings does not cost the master
        300 packages. False if the stored package has no time of generation, since its beginning then proves nothing.
        """
        beginning = os.pread(stored.fileno(), PROBE_BYTES, 0)
        if not beginning[LOCAL_HEADER_BYTES:].startswith(TIMED_MEMBER):
            return False
        return await self.beginning(meeting_id, len(beginning)) == beginning


class _Fetch:
    """One package on its way: its stream, begun with the first bytes, goes on with another source if one fails."""

    def __init__(self, fetcher: StreamFetcher, live: LiveFill) -> None:
        self._fetcher = fetcher
        self._live = live
        self._stream: StreamFill | None = None

    @property
    def received(self) -> int:
        """Bytes of the package that have arrived."""
        return 0 if self._stream is None else self._stream.size

    async def receive(self, sources: Sources[StreamSource]) -> StreamSource:
        """Receive the whole package, and return the source of its last bytes."""
        while True:
            source = sources.source(sources.choose())
            try:
                with sources.requesting(source.name) as request:
                    await self._receive_from(source)
                if not request.cancelled_caught:
                    return source
            except PeerFailed as error:
                sources.failed(error.node_id, error.failure, error.what)

    async def commit(self) -> Manifest:
        """Verify the package, and publish it."""
        assert self._stream is not None, "`receive` has returned"
        return await self._fetcher.grow(self._stream, 0, self._stream.commit)

    async def _receive_from(self, source: StreamSource) -> None:
        start = self.received
        async with source.open_stream(start) as body:
            parts = self._counted(source.name, body)
            first = b""
            if start == 0 and source.name != MASTER:
                first = await self._beginning_of(source.name, parts)
            elif start and source.name == MASTER:
                first = await self._skip(parts, start)
            if self._stream is None:
                self._stream = await self._fetcher.begin(self._live.meeting_id, body.size)
                self._live.begin(self._stream)
            await self._append(self._stream, first, parts)
            if body.size is not None and body.size != self._stream.size - (0 if source.name == MASTER else start):
                raise OriginUnreachable(f"{self._stream.size} of {body.size} bytes arrived")

    async def _append(self, stream: StreamFill, first: bytes, parts: AsyncIterator[bytes]) -> None:
        pending = bytearray(first)
        async for data in parts:
            pending += data
            if len(pending) >= APPEND_BYTES:
                await self._write(stream, pending)
                pending = bytearray()
        if pending:
            await self._write(stream, pending)

    async def _write(self, stream: StreamFill, data: bytearray) -> None:
        await self._fetcher.grow(stream, len(data), stream.append, data)
        self._live.advance()

    async def _counted(self, source: str, body: Body) -> AsyncIterator[bytes]:
        async for data in body:
            self._live.fetched[source] += len(data)
            yield data

    async def _beginning_of(self, source: str, parts: AsyncIterator[bytes]) -> bytes:
        """Return the first bytes from another node. Raises `PeerFailed` unless the master's package begins so."""
        received = bytearray()
        async for data in parts:
            received += data
            if len(received) >= BEGINNING_BYTES:
                break
        expected = await self._fetcher.beginning(self._live.meeting_id, min(len(received), BEGINNING_BYTES))
        if received[:BEGINNING_BYTES] != expected:
            raise PeerFailed(source, PeerFailure.REFUSED, "its package begins differently than the master's")
        return bytes(received)

    async def _skip(self, parts: AsyncIterator[bytes], start: int) -> bytes:
        """Compare the first `start` bytes of the master's package with those that are here; return what is behind them.

        Raises `OriginError` if they differ, and `OriginUnreachable` if the package ends before.
        """
        assert self._stream is not None, "there are bytes to compare with"
        at = 0
        async for data in parts:
            here = os.pread(self._stream.fileno(), min(len(data), start - at), at)
            if data[: len(here)] != here:
                raise OriginError("its package differs from what other nodes have sent")
            at += len(here)
            if at == start:
                return data[len(here) :]
        raise OriginUnreachable(f"{at} of {start} bytes arrived")


async def _judge(sources: Sources[StreamSource], source: StreamSource, digest: Digest | None, why: str = "") -> None:
    """Compare a digest with the one that the source has computed, once it has. None: what came is no package, `why`.

    Passes the source over and raises `PeerFailed` if they differ, or if it has not kept the package itself.
    """
    if source.name == MASTER:
        return
    try:
        found = await _digest_of(source)
    except PeerFailed as error:
        if error.failure is PeerFailure.REFUSED and digest is not None:
            sources.failed(error.node_id, error.failure, error.what)
            raise
        found, why = None, why or error.what
    if found is not None and found != digest:
        lied = PeerFailed(source.name, PeerFailure.LIED, why or "its package has another digest")
        sources.failed(lied.node_id, lied.failure, lied.what)
        raise lied
    if found is None and digest is None:
        sources.doubt(source.name, why)
    elif found is None:
        # It has gone. The package begins as the master's does, and its members have their checksums.
        _log.warning("a node does not confirm the package", node=source.name, why=why)


async def _digest_of(source: StreamSource) -> str:
    """Return the digest that another node has computed, once it has. Raises `PeerFailed`."""
    answered = began = trio.current_time()
    while True:
        now = trio.current_time()
        try:
            found = await source.digest()
            if found is not None:
                return found
            answered = now
        except PeerFailed as error:
            if error.failure is not PeerFailure.REFUSED or now - answered > DROPPED_SECONDS:
                raise
        if now - began > DIGEST_SECONDS:
            raise PeerFailed(source.name, PeerFailure.BUSY, f"no answer in {DIGEST_SECONDS:g} s")
        await trio.sleep(DIGEST_POLL_SECONDS)
