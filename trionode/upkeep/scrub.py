"""Scrub: stored packages are read again at a limited rate, to find damage before a tablet requests them.

`repair` repairs damaged versions. A version whose file has changed is not trusted, and is verified at once at full
speed, as for a client's request.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from master_shim.protocol import UNREADABLE
from store import PackageCorrupt, VersionMissing, age_of

from ..supervision import read_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from store import Digest, Store

    from .repair import Repairer

RECHECK_SECONDS = 24 * 3600.0
"""Interval between two scrubs of a version; a small storage would otherwise be read all day."""

POLL_SECONDS = 5.0
"""Interval between checks of the files of advertised versions (an `fstat` each), and the pause if no scrub is due."""

RETRY_SECONDS = 300.0
"""Pause before a version that cannot be repaired now is scrubbed again; the others come first."""

BURST_SECONDS = 1.0
"""How much of the rate may be caught up after a delay, so that a busy machine does not get bursts of reads."""

SAVE_SECONDS = 60.0
"""Interval between saves of the scrub times. Losing the last times costs another scrub of those versions."""

_log = structlog.get_logger("trionode.scrub")
_TIMES = msgspec.json.Decoder(dict[str, float])


class ScrubTimes:
    """When each version was last verified, in Unix seconds.

    Kept over restarts in a small JSON file of the storage folder. Only the order of the scrub depends on it: a file
    that cannot be read is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved_at = time.monotonic()
        self._times: dict[str, float] = {}
        try:
            self._times = _TIMES.decode(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, *UNREADABLE) as error:
            _log.warning("the scrub times cannot be read", file=str(path), why=str(error))

    def of(self, digest: Digest) -> float:
        """Return when a version was last verified; 0.0 for never."""
        return self._times.get(digest, 0.0)

    def note(self, digest: Digest, at: float, held: Iterable[Digest]) -> None:
        """Record a scrub. Every `SAVE_SECONDS`, forget versions that are not `held` and save. Blocks on the disk."""
        self._times[digest] = at
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            keep = set(held)
            self._times = {name: when for name, when in self._times.items() if name in keep}
            self.save()

    def save(self) -> None:
        """Save the times atomically. Blocks on the disk."""
        self._saved_at = time.monotonic()
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.write_bytes(msgspec.json.encode(self._times))
            temporary.replace(self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            _log.warning("the scrub times cannot be saved", why=str(error))


class Scrubber:
    """Reads versions again at `rate` bytes per second (0: never), the one scrubbed longest ago first.

    `advertised` returns the versions that this node has advertised: the state of their files is checked as well.
    """

    def __init__(
        self,
        store: Store,
        repairer: Repairer,
        times: ScrubTimes,
        rate: int,
        advertised: Callable[[], Iterable[Digest]],
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._store = store
        self._repairer = repairer
        self._times = times
        self._rate = rate
        self._advertised = advertised
        self._recheck_seconds = recheck_seconds
        self._put_off: dict[Digest, float] = {}

    async def run(self) -> None:
        """Scrub until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_files)
            if self._rate:
                nursery.start_soon(self._scrub_forever)

    async def _check_files(self) -> None:
        while True:
            for digest in set(self._advertised()):
                await self._repairer.ensure(digest)
            await trio.sleep(POLL_SECONDS)

    async def _scrub_forever(self) -> None:
        while True:
            digest = self.next_due(time.time())
            if digest is None:
                await trio.sleep(POLL_SECONDS)
            elif not await self.scrub(digest):
                self._put_off[digest] = time.time()

    def checked_age(self, digest: Digest, now: float) -> float:
        """Return how long ago a version was last verified, by this process or an earlier one."""
        # The lesser age, not the age of the later time: that one may be in the future.
        return min(age_of(self._store.checked_at(digest), now), age_of(self._times.of(digest), now))

    def next_due(self, now: float) -> Digest | None:
        """Return the version that was verified longest ago; None while none is due."""
        self._put_off = {digest: at for digest, at in self._put_off.items() if age_of(at, now) < RETRY_SECONDS}
        digests = [version.digest for version in self._store.versions() if version.digest not in self._put_off]
        ages = {digest: self.checked_age(digest, now) for digest in digests}
        oldest = max(ages, key=ages.__getitem__, default=None)
        return oldest if oldest is not None and ages[oldest] >= self._recheck_seconds else None

    async def scrub(self, digest: Digest) -> bool:
        """Read a version again at the rate; repair or remove a damaged one. Return whether it is right, or gone."""
        steps = self._store.scan(digest)
        deadline = trio.current_time()
        before = 0
        with closing(steps):
            try:
                while (step := await read_in_thread(next, steps, None)) is not None:
                    if step.bad is not None:
                        _log.error(
                            "a damaged piece was found", version=digest, offset=step.bad.offset, size=step.bad.size
                        )
                        break
                    self._repairer.count_scrubbed(step.done - before)
                    deadline = max(deadline, trio.current_time() - BURST_SECONDS) + (step.done - before) / self._rate
                    before = step.done
                    await trio.sleep_until(deadline)
                else:
                    held = [version.digest for version in self._store.versions()]
                    await trio.to_thread.run_sync(self._times.note, digest, time.time(), held)
                    return True
            except VersionMissing:  # evicted meanwhile
                return True
            except (PackageCorrupt, OSError) as error:
                _log.error("a damaged version was found", version=digest, why=str(error))
        return await self._repairer.ensure(digest)
