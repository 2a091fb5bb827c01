"""Fills: from the master's bytes to a committed version, with requests following on the way.

A fill belongs to the node's nursery, not to a request: a client that leaves stops nothing.
"""

from __future__ import annotations

import os
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, TypeVarTuple, Unpack

import structlog
import trio

from store import ChunkMismatch, FillBusy, NeverFits, NoSpace, StoreError, VersionPresent

from ..errors import NodeError, OriginError, OriginUnreachable, VersionGone
from .members import check_members
from .order import choose
from .plan import retry_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from store import Chunk, Fill, Manifest, Readable, Store, StreamFill

    from .active import ActiveFill
    from .sources import Master, PackageBody

BATCH_BYTES = 2 << 20
"""Adjacent missing chunks are asked for together up to this size: less, and the line stands still between requests;
more, and what a client waits for comes later."""

GAP_BYTES = 1 << 10
"""Chunks with no more than this between them count as adjacent: between two documents lie the headers of the zip, which
are in the manifest already, and which cost less once more than a request does."""

LANES = 2
"""Requests outstanding at the origin: while the next one is on its way there, the other's body keeps the line busy."""

TRIES = 6
"""How often one range is asked for in vain before the fill fails. The waits between add up to about half a minute."""

STORE_BYTES = 512 << 10
"""Small chunks are verified and written together up to this size: a thread, and a wake-up of those who follow, for each
would cost more than their bytes."""

APPEND_BYTES = 256 << 10
"""How much of a streamed body is gathered before it is written: small for followers, large for a thread."""

PROBE_BYTES = 64 << 10
"""How much of a legacy master's package a routine check reads."""

TIMED_MEMBER = b"README.txt"
LOCAL_HEADER_BYTES = 30
"""Deployed masters put the time of generation into the first member, whose name follows the fixed local header."""

BUSY_POLL_SECONDS = 0.5
"""How often another process's fill of the same version is looked at."""

_log = structlog.get_logger("trionode.fetch")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class MakeRoom(Protocol):
    """Makes room for that many bytes; see `eviction.Evictor.make_room`. Raises `NeverFits`, `NoSpace`."""

    async def __call__(self, needed: int, *, full_disk: bool = False) -> None:
        """Make room."""
        ...


async def fill_from_manifest(
    store: Store, master: Master, manifest: Manifest, active: ActiveFill, chance: Random, make_room: MakeRoom
) -> None:
    """Bring the version of `manifest` here: what other versions have is copied, the rest is fetched in ranges.

    Returns when it is committed, by whomever. Raises `StoreError`, `VersionGone`, `OriginUnreachable` or
    `OriginError`; what was verified stays in `incoming/` to go on from, unless the version is gone.
    """
    fill = await _begin(store, manifest, make_room)
    if fill is None:
        return
    active.begin_manifest(fill)
    try:
        missing = fill.missing()
        _log.info(
            "filling",
            meeting=active.meeting_id,
            version=manifest.digest,
            size=manifest.size,
            missing=sum(chunk.size for chunk in missing),
        )
        await _run_lanes(master, fill, list(plan_batches(missing)), active, chance, make_room)
        await trio.to_thread.run_sync(check_members, fill)
        await _with_room(make_room, fill.commit)
    except VersionGone:
        # Nobody will ever ask for the rest: what is there helps the next version, through no fill of this one.
        active.forget(fill)
        raise


async def _with_room(make_room: MakeRoom, call: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Make a call of the store in a worker thread; where it lacks room, have some made and make it once more.

    The store's calls leave all as it was when they raise `NoSpace`. Raises that, or `NeverFits`, when no room could
    be made, or was of no use.
    """
    try:
        return await trio.to_thread.run_sync(call, *arguments)
    except NeverFits:
        raise
    except NoSpace as full:
        # Its cause is the system's word for a full disk; without one the store has counted, and knows.
        await make_room(full.needed, full_disk=isinstance(full.__cause__, OSError))
    return await trio.to_thread.run_sync(call, *arguments)


async def _begin(store: Store, manifest: Manifest, make_room: MakeRoom) -> Fill | None:
    """Begin the fill, after another process's fill of the same version if need be; None if that one finished it."""
    while True:
        try:
            return await _with_room(make_room, store.begin_fill, manifest)
        except VersionPresent:
            return None
        except FillBusy:
            await trio.sleep(BUSY_POLL_SECONDS)


def plan_batches(missing: Iterable[Chunk]) -> Iterator[tuple[Chunk, ...]]:
    """Group chunks (in package order) that lie side by side, or nearly, into requests of up to `BATCH_BYTES`."""
    batch: list[Chunk] = []
    for chunk in missing:
        if batch:
            adjacent = chunk.offset - (batch[-1].offset + batch[-1].size) <= GAP_BYTES
            if not adjacent or chunk.offset + chunk.size - batch[0].offset > BATCH_BYTES:
                yield tuple(batch)
                batch = []
        batch.append(chunk)
    if batch:
        yield tuple(batch)


class Turn:
    """A lane's turn to ask the origin, passed on when half of what it asked for has come.

    Two bodies that come at once share the line, and both are there late. So the next is asked for just early enough:
    followers, who take a package in its order, get its last bytes sooner (200 clients on a line of 100 Mbit/s, 20 MB:
    1.10 and not 1.13 times what the line takes).
    """

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock
        self._held = False

    def pass_on(self) -> None:
        """Let the next lane ask. Doing so twice is no error."""
        if self._held:
            self._held = False
            self._lock.release()

    async def __aenter__(self) -> Self:
        """Wait for the turn."""
        await self._lock.acquire()
        self._held = True
        return self

    async def __aexit__(self, *error: object) -> None:
        """Pass it on, if that was not done yet."""
        self.pass_on()


async def _run_lanes(
    master: Master,
    fill: Fill,
    batches: list[tuple[Chunk, ...]],
    active: ActiveFill,
    chance: Random,
    make_room: MakeRoom,
) -> None:
    """Work through `batches` in `LANES` tasks, what clients wait for first.

    The first error stops all and is raised as it is, not in a group.
    """
    failed: list[Exception] = []
    left = [range(batch[0].offset, batch[-1].offset + batch[-1].size) for batch in batches]
    asking = trio.Lock()

    async def run_lane() -> None:
        try:
            while left:
                async with Turn(asking) as turn:
                    if left:
                        index = choose(left, active.wanted())
                        del left[index]
                        await _fetch_batch(master, fill, batches.pop(index), turn, active, chance, make_room)
        except (NodeError, StoreError, OSError) as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(LANES):
            nursery.start_soon(run_lane)
    if failed:
        raise failed[0]


async def _fetch_batch(
    master: Master,
    fill: Fill,
    batch: tuple[Chunk, ...],
    turn: Turn,
    active: ActiveFill,
    chance: Random,
    make_room: MakeRoom,
) -> None:
    """Fetch one range and put its chunks in place; after a lost connection or a wrong byte, what is left of it."""
    left = deque(batch)
    failures = 0
    while left:
        before = len(left)
        try:
            await _fetch_chunks(master, fill, left, turn, active, make_room)
        except (OriginUnreachable, OriginError, ChunkMismatch) as error:
            if not left:
                return  # every chunk is right; what went wrong behind them matters to nobody
            turn.pass_on()
            failures = failures + 1 if len(left) == before else 1
            if failures == TRIES:
                raise
            start, stop = left[0].offset, left[-1].offset + left[-1].size
            _log.warning("a range is asked for again", start=start, stop=stop, failures=failures, why=str(error))
            await trio.sleep(retry_seconds(failures, chance.random()))


async def _fetch_chunks(
    master: Master, fill: Fill, left: deque[Chunk], turn: Turn, active: ActiveFill, make_room: MakeRoom
) -> None:
    """Ask for adjacent chunks at once, put each in place as soon as its bytes have come, and take it out of `left`."""
    start, stop = left[0].offset, left[-1].offset + left[-1].size
    half = (start + stop) // 2
    pending = bytearray()
    async with master.package_range(fill.manifest.digest, start, stop) as body:
        async for data in body:
            pending += data
            if start + len(pending) >= half:
                turn.pass_on()
            enough = max(STORE_BYTES, left[0].offset + left[0].size - start) if left else inf
            if len(pending) >= min(enough, stop - start):
                await _with_room(make_room, _write_chunks, fill, left, start, pending)
                active.advance()
                # Between two chunks lies what nobody wants, of which only the beginning may have come.
                reached = min(left[0].offset if left else stop, start + len(pending))
                # Not cut off in place: where a write met an error, that may still hold on to the bytes.
                pending, start = pending[reached - start :], reached


def _write_chunks(fill: Fill, left: deque[Chunk], start: int, data: bytearray) -> None:
    """Write what `data`, the package's bytes from `start` on, holds whole of `left`, and take it out there.

    What it raises leaves in `left` what is not written, so that the same call can be made again.
    """
    with memoryview(data) as view:
        while left and (stop := left[0].offset + left[0].size) <= start + len(data):
            fill.write(left[0], view[left[0].offset - start : stop - start])
            left.popleft()


async def fill_from_stream(store: Store, master: Master, active: ActiveFill, make_room: MakeRoom) -> Manifest:
    """Take a legacy master's whole package; commit it only once the zip was found whole.

    Room for all of it is made before its first byte where the master says how long it is, else as it grows.

    Raises `MeetingUnknown`, `OriginUnreachable`, `OriginError`, `PackageRejected`, `NoSpace`; nothing is then kept:
    a stream cannot be resumed, for nobody says that the next one will have the same bytes.
    """
    async with master.package(active.meeting_id) as body:
        if body.size is not None:
            await make_room(body.size)
        stream = await _begin_stream(store, active.meeting_id, make_room)
        active.begin_stream(stream)
        await _append_all(stream, body, active, make_room)
        return await _with_room(make_room, stream.commit)


async def _begin_stream(store: Store, meeting_id: str, make_room: MakeRoom) -> StreamFill:
    while True:
        try:
            return await _with_room(make_room, store.begin_stream, meeting_id)
        except FillBusy:
            await trio.sleep(BUSY_POLL_SECONDS)


async def _append_all(stream: StreamFill, body: PackageBody, active: ActiveFill, make_room: MakeRoom) -> None:
    pending = bytearray()
    async for data in body:
        pending += data
        if len(pending) >= APPEND_BYTES:
            await _with_room(make_room, stream.append, pending)
            pending = bytearray()
            active.advance()
    if pending:
        await _with_room(make_room, stream.append, pending)
    if body.size is not None and body.size != stream.size:
        raise OriginUnreachable(f"{stream.size} bytes of {body.size} arrived")


async def begins_alike(master: Master, meeting_id: str, stored: Readable) -> bool:
    """Tell whether a legacy master's package begins with the bytes of `stored`, the time it was generated included.

    Reads no more than `PROBE_BYTES` and closes the connection: a look at 300 meetings' worth of unchanged packages
    must not cost the master 300 packages. False when the stored package says no time, for then nothing is known.
    """
    beginning = os.pread(stored.fileno(), PROBE_BYTES, 0)
    if not beginning[LOCAL_HEADER_BYTES:].startswith(TIMED_MEMBER):
        return False
    received = bytearray()
    async with master.package(meeting_id) as body:
        async for data in body:
            received += data
            if len(received) >= len(beginning):
                break
    return bytes(received[: len(beginning)]) == beginning
