"""Repair of stored versions: bad pieces are fetched again and written in place, or the version is removed.

A version is sent only while its file is unchanged since its bytes were last verified (`Lease.trusted`). Otherwise
`Repairer.ensure` first verifies it, and repairs it if needed.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog
import trio

from store import ChunkMismatch, Digest, Literal, NoSpace, PackageCorrupt, VersionMissing

from ..errors import OriginError, OriginUnreachable, VersionGone
from ..stats import RepairStats
from ..supervision import read_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from store import Chunk, Store

    from ..master.client import Master

ATTEMPTS = 5
"""Rounds of verification and repair before a version is given up: one that is bad each time is being written to, or is
on a broken disk."""

_log = structlog.get_logger("trionode.repair")


class CannotRepair(Exception):
    """A version has bad pieces that are not available anywhere, or that are bad again after their repair."""


class Repairer:
    """Verifies and repairs versions, in one task at a time for each. Subscribers are called with damaged versions."""

    def __init__(self, store: Store, master: Master) -> None:
        self.stats = RepairStats()
        self._store = store
        self._master = master
        self._subscribers: list[Callable[[Digest], None]] = []
        self._locks: WeakValueDictionary[Digest, trio.Lock] = WeakValueDictionary()
        # Two versions hashed at a time would only compete for the disk.
        self._hashing = trio.CapacityLimiter(1)

    def subscribe(self, subscriber: Callable[[Digest], None]) -> None:
        """Call `subscriber` at once with each version that is found missing or damaged."""
        self._subscribers.append(subscriber)

    def count_scrubbed(self, count: int) -> None:
        """Count bytes that the scrub has read."""
        self.stats.scrubbed_bytes += count

    def _report_lost(self, digest: Digest) -> None:
        for subscriber in self._subscribers:
            subscriber(digest)

    async def ensure(self, digest: Digest) -> bool:
        """Return whether a version is stored and its bytes are right, verifying and repairing it if needed.

        A version whose bytes neither another version nor the origin has is removed. While the origin does not answer
        it stays, not trusted. In both cases the subscribers have been called.
        """
        if self._is_trusted(digest):
            return True
        lock = self._locks.setdefault(digest, trio.Lock())
        async with lock:
            if self._is_trusted(digest):
                return True
            try:
                await read_in_thread(self._store.verify, digest, limiter=self._hashing)
                return True
            except VersionMissing:
                self._report_lost(digest)
                return False
            except PackageCorrupt as error:
                _log.error("a stored version is damaged", version=digest, why=str(error))
                return await self._try_repair(digest)
            except OSError as error:
                _log.error("a stored version cannot be read", version=digest, why=str(error))
                if error.errno == errno.EIO:
                    return await self._try_repair(digest)
                self._report_lost(digest)
                return False

    def _is_trusted(self, digest: Digest) -> bool:
        try:
            with self._store.open_package(digest) as lease:
                return lease.trusted
        except VersionMissing:
            return False

    async def _try_repair(self, digest: Digest) -> bool:
        try:
            await self.repair(digest)
        except VersionMissing:
            pass
        except CannotRepair as error:
            await self._give_up(digest, error)
        except (OriginUnreachable, OriginError, ChunkMismatch, NoSpace, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EIO:
                # The disk cannot read even a rewritten piece. Fetched as a whole, the package gets other blocks.
                await self._give_up(digest, error)
            else:
                self.stats.unrepaired += 1
                _log.error("a damaged version cannot be repaired now and is not served", version=digest, why=str(error))
        else:
            return True
        self._report_lost(digest)
        return False

    async def _give_up(self, digest: Digest, error: Exception) -> None:
        """Remove a version that cannot be repaired."""
        self.stats.unrepairable += 1
        _log.error("a damaged version cannot be repaired and is removed", version=digest, why=str(error))
        try:
            await trio.to_thread.run_sync(self._store.remove, digest)
        except OSError as failure:
            # A failing disk often refuses all writes. The version stays, and is not served.
            _log.error("a damaged version cannot be removed now", version=digest, why=str(failure))

    async def repair(self, digest: Digest) -> int:
        """Verify a version and repair its bad pieces until it is trusted; return the number of repaired pieces.

        Raises `CannotRepair` or `VersionMissing`; if a later attempt may succeed, `OriginUnreachable`, `OriginError`,
        `ChunkMismatch` (of the origin's bytes), `NoSpace` or `OSError`.
        """
        repaired = 0
        for _ in range(ATTEMPTS):
            try:
                bad = await read_in_thread(find_bad, self._store, digest, limiter=self._hashing)
            except PackageCorrupt:  # it was written to meanwhile, or its manifest is wrong
                continue
            for piece in bad:
                data = piece.data if isinstance(piece, Literal) else await self._bytes_of(digest, piece)
                try:
                    await read_in_thread(self._store.repair, digest, piece, data)
                except ValueError:  # the manifest was rebuilt meanwhile and has other pieces
                    break
                repaired += 1
                self.stats.repaired_chunks += 1
                self.stats.repaired_bytes += piece.size
                _log.warning("a bad piece was repaired", version=digest, offset=piece.offset, size=piece.size)
            if self._is_trusted(digest):
                return repaired
        raise CannotRepair(f"it was still damaged after {ATTEMPTS} repairs")

    async def _bytes_of(self, digest: Digest, chunk: Chunk) -> bytes:
        """Return the bytes of a chunk from another version that has it, else from the origin."""
        found = await trio.to_thread.run_sync(self._read_from_other_version, digest, chunk)
        if found is not None:
            return found
        try:
            return await self._master.fetch_range(digest, chunk.offset, chunk.offset + chunk.size)
        except VersionGone as error:
            raise CannotRepair(f"the master has another version now: {error}") from error

    def _read_from_other_version(self, digest: Digest, chunk: Chunk) -> bytes | None:
        place = self._store.find(chunk.digest, besides=digest)
        if place is None or place.size != chunk.size:
            return None
        try:
            with self._store.open_package(place.package) as lease:
                data = os.pread(lease.fileno(), chunk.size, place.offset)
        except (VersionMissing, OSError):
            return None
        return data if Digest.of(data) == chunk.digest else None


def find_bad(store: Store, digest: Digest) -> Sequence[Chunk | Literal]:
    """Return the damaged pieces of a version, in package order. Reads all of it.

    Raises `VersionMissing`, and `PackageCorrupt` when the whole is damaged and no piece is.
    """
    bad: list[Chunk | Literal] = []
    try:
        bad.extend(step.bad for step in store.scan(digest) if step.bad is not None)
    except PackageCorrupt:
        if not bad:
            raise
    return bad
