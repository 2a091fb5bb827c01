"""Making stored versions whole again: bad pieces are fetched anew and put right in place, or the version goes.

A version is sent only while its file is as it was when its bytes were last found right (`Lease.trusted`); whoever
meets one that is not asks here, and sends after the answer, or not at all.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog
import trio

from store import ChunkMismatch, Digest, Literal, NoSpace, PackageCorrupt, VersionMissing

from ..errors import OriginError, OriginUnreachable, VersionGone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from store import Chunk, Store

    from .sources import Master

ATTEMPTS = 5
"""How often a version is looked over and repaired before it is given up: one that is bad again each time is being
written to, or lies on a disk that keeps nothing."""

_log = structlog.get_logger("trionode.healing")


class CannotRepair(Exception):
    """A version has bad pieces that nobody has any more, or that do not stay repaired."""


@dataclass(slots=True)
class Health:
    """What was found and done since the start. Bytes are bytes."""

    scrubbed_bytes: int = 0
    repaired_chunks: int = 0
    repaired_bytes: int = 0
    unrepairable: int = 0
    """Versions removed because a piece of them could not be had again."""
    unrepaired: int = 0
    """Times a repair had to be left for later, because the master could not be asked."""


class Healer:
    """Makes versions whole, one at a time each. `lost` hears at once of every version that is not, and why."""

    def __init__(self, store: Store, master: Master, lost: Callable[[Digest], None] = lambda _: None) -> None:
        self.health = Health()
        self._store = store
        self._master = master
        self._lost = lost
        self._locks: WeakValueDictionary[Digest, trio.Lock] = WeakValueDictionary()
        # Hashing two at a time would only take the disk from each other.
        self._hashing = trio.CapacityLimiter(1)

    async def ensure(self, digest: Digest) -> bool:
        """Tell whether a version is here and whole, verifying and repairing it if need be.

        One that cannot be repaired, since neither another version nor the origin has its bytes, is removed; one whose
        origin cannot be asked now stays, not trusted. In both cases `lost` has been told.
        """
        if self._is_trusted(digest):
            return True
        lock = self._locks.setdefault(digest, trio.Lock())
        async with lock:
            if self._is_trusted(digest):
                return True
            try:
                await trio.to_thread.run_sync(self._store.verify, digest, limiter=self._hashing)
                return True
            except VersionMissing:
                self._lost(digest)
                return False
            except PackageCorrupt as error:
                _log.error("a stored version is damaged", version=digest, why=str(error))
                return await self._heal(digest)
            except OSError as error:
                _log.error("a stored version cannot be read", version=digest, why=str(error))
                if error.errno == errno.EIO:
                    return await self._heal(digest)
                self._lost(digest)
                return False

    def _is_trusted(self, digest: Digest) -> bool:
        try:
            with self._store.open_package(digest) as lease:
                return lease.trusted
        except VersionMissing:
            return False

    async def _heal(self, digest: Digest) -> bool:
        try:
            await self.repair(digest)
        except VersionMissing:
            pass
        except CannotRepair as error:
            await self._give_up(digest, error)
        except (OriginUnreachable, OriginError, ChunkMismatch, NoSpace, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EIO:
                # Not even written anew is it given back: the whole, fetched anew, gets other blocks.
                await self._give_up(digest, error)
            else:
                self.health.unrepaired += 1
                _log.error("a damaged version cannot be repaired now and is not served", version=digest, why=str(error))
        else:
            return True
        self._lost(digest)
        return False

    async def _give_up(self, digest: Digest, error: Exception) -> None:
        """Remove a version that cannot be made whole."""
        self.health.unrepairable += 1
        _log.error("a damaged version cannot be repaired and is removed", version=digest, why=str(error))
        try:
            await trio.to_thread.run_sync(self._store.remove, digest)
        except OSError as failure:
            # A disk that fails often takes no more writes. The version stays, and is not served.
            _log.error("a damaged version cannot be removed now", version=digest, why=str(failure))

    async def repair(self, digest: Digest) -> int:
        """Look a version over and put right what is bad, until it is trusted; return how many pieces were repaired.

        Raises `CannotRepair`, `VersionMissing`; or, for another time, `OriginUnreachable`, `OriginError`,
        `ChunkMismatch` (of the origin's bytes), `NoSpace`, `OSError`.
        """
        repaired = 0
        for _ in range(ATTEMPTS):
            try:
                bad = await trio.to_thread.run_sync(find_bad, self._store, digest, limiter=self._hashing)
            except PackageCorrupt:  # it was written to meanwhile; or its manifest is wrong, and will be each time
                continue
            for piece in bad:
                data = piece.data if isinstance(piece, Literal) else await self._bytes_of(digest, piece)
                try:
                    await trio.to_thread.run_sync(self._store.repair, digest, piece, data)
                except ValueError:  # the manifest was made anew meanwhile, and has other pieces: look again
                    break
                repaired += 1
                self.health.repaired_chunks += 1
                self.health.repaired_bytes += piece.size
                _log.warning("a bad piece was repaired", version=digest, offset=piece.offset, size=piece.size)
            if self._is_trusted(digest):
                return repaired
        raise CannotRepair(f"it was not right after {ATTEMPTS} attempts")

    async def _bytes_of(self, digest: Digest, chunk: Chunk) -> bytes:
        """Return a chunk's bytes from another version that has it, else from the origin."""
        found = await trio.to_thread.run_sync(self._elsewhere, digest, chunk)
        if found is not None:
            return found
        try:
            return await self._master.fetch_range(digest, chunk.offset, chunk.offset + chunk.size)
        except VersionGone as error:
            raise CannotRepair(f"the master has another version by now: {error}") from error

    def _elsewhere(self, digest: Digest, chunk: Chunk) -> bytes | None:
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
    """Return the pieces of a version that are bad, in package order; reads all of it.

    Raises `VersionMissing`, and `PackageCorrupt` when the whole is bad and no piece is.
    """
    bad: list[Chunk | Literal] = []
    try:
        bad.extend(step.bad for step in store.scan(digest) if step.bad is not None)
    except PackageCorrupt:
        if not bad:
            raise
    return bad
