"""A fill from a manifest: chunks that other versions have are copied, the rest is fetched in ranges and verified."""

from __future__ import annotations

from collections import deque
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Self

import structlog
import trio

from store import ChunkMismatch, PackageRejected, StoreError, VersionPresent, check_fd

from ..backoff import retry_seconds
from ..errors import NodeError, OriginError, OriginUnreachable, PeerFailed, PeerFailure, VersionGone
from .room import begin_with_room, call_with_room
from .routing import MASTER, TRIAL_SECONDS, Choice
from .scheduler import Schedule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from store import Chunk, Digest, Fill, Manifest, Store

    from .live_fill import LiveFill
    from .range_source import RangeSource
    from .room import MakeRoom
    from .source_factory import SourceFactory
    from .sources import Sources

LANES = 2
"""Requests in flight: while one is on its way to the master, the body of the other uses the line."""

ATTEMPTS = 6
"""Requests for one range without progress before the fill fails. Their delays add up to about half a minute."""

WRITE_BYTES = 256 << 10
"""Small chunks are verified and written together up to this size: a worker thread and a wake-up of the followers for
each of them would cost more than their bytes."""

MAX_REJECTED = 1_000
"""Meetings whose rejected version is remembered. One that is forgotten is fetched again."""

END_RECORD_BYTES = 22 + 0xFFFF
"""Longest end record of a zip, with its comment: readers request so much of the end, and then the directory."""

_log = structlog.get_logger("trionode.fetch")


class ManifestFetcher:
    """Fetches versions whose manifest is known. One object serves any number of fills."""

    def __init__(self, store: Store, sources: SourceFactory, rng: Random, make_room: MakeRoom) -> None:
        self._store = store
        self._sources = sources
        self._rng = rng
        self._make_room = make_room
        self._rejected: dict[str, tuple[Digest, str]] = {}  # by meeting: a version that is no package, and why

    async def run(self, manifest: Manifest, live: LiveFill) -> None:
        """Return when the version is committed, by this fill or by another process.

        Raises `StoreError`, `VersionGone`, `OriginUnreachable` or `OriginError`. What was verified stays in
        `incoming/` to resume from, unless the version is gone, or is no package: it is then not fetched again.
        """
        rejected, reason = self._rejected.get(live.meeting_id, (None, ""))
        if rejected == manifest.digest:
            raise PackageRejected(reason)
        try:
            fill = await begin_with_room(self._make_room, self._store.begin_fill, manifest)
        except VersionPresent:
            return
        live.begin(fill, _end_of(manifest))
        missing = fill.missing()
        missing_bytes = sum(chunk.size for chunk in missing)
        _log.info(
            "fill started",
            meeting=live.meeting_id,
            version=manifest.digest,
            size=manifest.size,
            missing=missing_bytes,
        )
        try:
            if missing:
                async with self._sources.of_version(live, manifest.digest, missing_bytes) as sources:
                    await _Lanes(sources, fill, live, self._rng, self._make_room).run(Schedule(missing))
            await trio.to_thread.run_sync(partial(check_fd, fill.fileno(), fill.size, unpack=False))
            await call_with_room(self._make_room, fill.commit)
        except VersionGone:
            # The rest can never be fetched, so there is nothing to resume.
            live.discard_at_end()
            raise
        except PackageRejected as error:
            live.discard_at_end()
            self._rejected[live.meeting_id] = (manifest.digest, error.reason)
            if len(self._rejected) > MAX_REJECTED:
                del self._rejected[next(iter(self._rejected))]
            raise


def _end_of(manifest: Manifest) -> int:
    """Return where the end of a package begins: its directory, and all that may be read to find that.

    Not at its first byte, however short it is: a client that asks for the whole unpacks what it gets.
    """
    last = manifest.chunks[-1] if manifest.chunks else None
    return max(1, min(manifest.size - END_RECORD_BYTES, 0 if last is None else last.offset + last.size))


class _Turn:
    """A lane's turn to send a request, passed on when half of the requested bytes have arrived.

    Two bodies that arrive at the same time share the line, and both are late. Requesting the next range just early
    enough gives followers, which read in package order, the last bytes sooner (200 clients, 20 MB, a line of
    100 Mbit/s: 1.10 instead of 1.13 times the line's own time).
    """

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock
        self._held = False

    def pass_on(self) -> None:
        """Let the next lane send its request. Idempotent."""
        if self._held:
            self._held = False
            self._lock.release()

    async def __aenter__(self) -> Self:
        """Wait for the turn."""
        await self._lock.acquire()
        self._held = True
        return self

    async def __aexit__(self, *error: object) -> None:
        """Pass the turn on."""
        self.pass_on()


class _Lanes:
    """The requests of one fill, in `LANES` tasks, and one more that compares sources: nothing waits for it."""

    def __init__(
        self, sources: Sources[RangeSource], fill: Fill, live: LiveFill, rng: Random, make_room: MakeRoom
    ) -> None:
        self._sources = sources
        self._fill = fill
        self._live = live
        self._rng = rng
        self._make_room = make_room
        self._asking = trio.Lock()

    async def run(self, schedule: Schedule) -> None:
        """Fetch all of `schedule`, first what clients wait for. The first error stops all lanes and is raised."""
        failed: list[Exception] = []
        scope = trio.CancelScope()

        async def run_lane() -> None:
            while schedule:
                async with _Turn(self._asking) as turn:
                    if schedule:
                        await self._fetch_batch(deque(schedule.take(self._live.waiting_offsets())), turn)
            scope.cancel()  # only its chunks are left

        async def compare_sources() -> None:
            end: deque[Chunk] = deque()
            with scope:
                trial = await self._sources.trial()
                end.extend(schedule.take_end(trial.size))
                if not end:
                    return  # every range has been requested
                scope.deadline = trio.current_time() + TRIAL_SECONDS
                await self._try_source(trial.source, end)
            if end:
                async with _Turn(self._asking) as turn:
                    await self._fetch_batch(end, turn)

        async def reported(call: Callable[[], Awaitable[None]]) -> None:
            try:
                await call()
            except (NodeError, StoreError, OSError) as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for call in (compare_sources, *LANES * (run_lane,)):
                nursery.start_soon(reported, call)
        if failed:
            raise failed[0]

    async def _try_source(self, name: str, missing: deque[Chunk]) -> None:
        """Compare a source with the one in use by fetching the `missing` chunks from it. Some remain if it fails."""
        # From the request on: what is left when half has arrived may be here already, and be read at any rate.
        size, began = sum(chunk.size for chunk in missing), trio.current_time()
        try:
            with self._sources.requesting(name):
                await self._fetch_chunks(self._sources.source(Choice(name)), missing, _Turn(self._asking))
        except PeerFailed as error:
            self._sources.failed(error.node_id, error.failure, error.what)
        except (OriginUnreachable, OriginError, ChunkMismatch) as error:
            _log.warning("trial failed", meeting=self._live.meeting_id, source=name or "master", why=str(error))
        if not missing:
            self._sources.compared(size, trio.current_time() - began)

    async def _fetch_batch(self, missing: deque[Chunk], turn: _Turn) -> None:
        """Fetch one range and write its chunks; after a lost connection or a wrong byte, fetch the missing ones.

        Another node that fails is passed over at once. The master is asked again, with back-off.
        """
        failures = 0
        while missing:
            before = len(missing)
            try:
                await self._fetch_from_source(missing, turn)
            except PeerFailed as error:
                self._sources.failed(error.node_id, error.failure, error.what)
            except (OriginUnreachable, OriginError, ChunkMismatch) as error:
                if not missing:
                    return  # every chunk is verified; a later error does not matter
                turn.pass_on()
                failures = failures + 1 if len(missing) == before else 1
                if failures == ATTEMPTS:
                    raise
                start, stop = missing[0].offset, missing[-1].offset + missing[-1].size
                _log.warning("range requested again", start=start, stop=stop, failures=failures, why=str(error))
                await trio.sleep(retry_seconds(failures, self._rng.random()))

    async def _fetch_from_source(self, missing: deque[Chunk], turn: _Turn) -> None:
        """Fetch the `missing` chunks from the source of the moment. Some remain if it is passed over meanwhile."""
        source = self._sources.source(self._sources.choose())
        with self._sources.requesting(source.name):
            await self._fetch_chunks(source, missing, turn)

    async def _fetch_chunks(self, source: RangeSource, missing: deque[Chunk], turn: _Turn) -> None:
        """Fetch `missing` chunks from a source, as `_receive_chunks`. Raises `PeerFailed` for wrong bytes of a node."""
        try:
            await self._receive_chunks(source, missing, turn)
        except ChunkMismatch as error:
            if source.name == MASTER:
                raise
            raise PeerFailed(source.name, PeerFailure.LIED, str(error)) from error

    async def _receive_chunks(self, source: RangeSource, missing: deque[Chunk], turn: _Turn) -> None:
        """Request adjacent chunks as one range, write each as soon as it has arrived, and remove it from `missing`."""
        start, stop = missing[0].offset, missing[-1].offset + missing[-1].size
        half = (start + stop) // 2
        pending = bytearray()
        async with source.open_range(start, stop) as body:
            async for data in body:
                self._live.fetched[source.name] += len(data)
                pending += data
                if start + len(pending) >= half:
                    turn.pass_on()
                enough = max(WRITE_BYTES, missing[0].offset + missing[0].size - start) if missing else inf
                if len(pending) >= min(enough, stop - start):
                    await call_with_room(self._make_room, _write_chunks, self._fill, missing, start, pending)
                    self._live.advance()
                    # Perhaps only the beginning of the gap between two chunks, which is not needed, has arrived.
                    reached = min(missing[0].offset if missing else stop, start + len(pending))
                    # A copy, not resized in place: the traceback of a failed write may still reference the buffer.
                    pending, start = pending[reached - start :], reached


def _write_chunks(fill: Fill, missing: deque[Chunk], start: int, data: bytearray) -> None:
    """Write the chunks that are complete in `data`, the package's bytes from `start` on; remove them from `missing`.

    After an error the call can be repeated: `missing` still has the chunks that were not written.
    """
    with memoryview(data) as view:
        while missing and (stop := missing[0].offset + missing[0].size) <= start + len(data):
            fill.write(missing[0], view[missing[0].offset - start : stop - start])
            missing.popleft()
