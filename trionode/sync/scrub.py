"""The task that reads stored packages again, slowly, so that a disk that loses bits is noticed before a tablet is.

What it finds bad is repaired by `healing`. A version whose file has changed is not read slowly: it is not trusted, and
is looked over at once, like one that a client asks for.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from master_shim.protocol import UNREADABLE
from store import PackageCorrupt, VersionMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from store import Digest, Store

    from .healing import Healer

RECHECK_SECONDS = 24 * 3600.0
"""A version found right is not read again before: a small storage would otherwise be read all day."""

POLL_SECONDS = 5.0
"""How often the promised versions' files are looked at (an `fstat` each), and how long to rest when nothing is due."""

RETRY_SECONDS = 300.0
"""After a version that is damaged and cannot be repaired now, until it is looked at again: the others first."""

BURST_SECONDS = 1.0
"""How much of the rate may be made up for at once after a wait: a busy machine slows the scrub, and then it does not
come in bursts."""

SAVE_SECONDS = 60.0
"""How often the times of the checks are written down. Losing the last of them costs a second look at those versions."""

_log = structlog.get_logger("trionode.scrub")
_TIMES = msgspec.json.Decoder(dict[str, float])


class CheckTimes:
    """When each version was last found right, in Unix seconds, over restarts: a small JSON file in the storage folder.

    Nothing depends on it but the order of the scrub: one that cannot be read is begun anew.
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
            _log.warning("the times of earlier checks cannot be read", file=str(path), why=str(error))

    def of(self, digest: Digest) -> float:
        """Return when a version was last found right; 0.0 for never."""
        return self._times.get(digest, 0.0)

    def note(self, digest: Digest, at: float, held: Iterable[Digest]) -> None:
        """Remember a check, forget what is no longer `held`, and write it down now and then. *Writes*."""
        self._times[digest] = at
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            keep = set(held)
            self._times = {name: when for name, when in self._times.items() if name in keep}
            self.save()

    def save(self) -> None:
        """Write the times down, whole or not at all. *Writes*."""
        self._saved_at = time.monotonic()
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.write_bytes(msgspec.json.encode(self._times))
            temporary.replace(self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            _log.warning("the times of the checks cannot be written down", why=str(error))


class Scrubber:
    """Reads versions again at `rate` bytes per second (0: not at all), the one whose last check is oldest first.

    `promised` returns the versions this node has promised to serve: those are also looked at by their files' state.
    """

    def __init__(
        self,
        store: Store,
        healer: Healer,
        times: CheckTimes,
        rate: int,
        promised: Callable[[], Iterable[Digest]],
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._store = store
        self._healer = healer
        self._times = times
        self._rate = rate
        self._promised = promised
        self._recheck_seconds = recheck_seconds
        self._put_off: dict[Digest, float] = {}

    async def run(self) -> None:
        """Scrub until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_at_files)
            if self._rate:
                nursery.start_soon(self._scrub_forever)

    async def _look_at_files(self) -> None:
        while True:
            for digest in set(self._promised()):
                await self._healer.ensure(digest)
            await trio.sleep(POLL_SECONDS)

    async def _scrub_forever(self) -> None:
        while True:
            digest = self.next_due(time.time())
            if digest is None:
                await trio.sleep(POLL_SECONDS)
            elif not await self.scrub(digest):
                self._put_off[digest] = time.time() + RETRY_SECONDS

    def checked_at(self, digest: Digest) -> float:
        """Return when a version was last found right, by this process or an earlier one; 0.0 for never."""
        return max(self._store.checked_at(digest), self._times.of(digest))

    def next_due(self, now: float) -> Digest | None:
        """Return the version whose last check is oldest and long enough ago; None when nothing is due."""
        self._put_off = {digest: until for digest, until in self._put_off.items() if until > now}
        ages = ((self.checked_at(v.digest), v.digest) for v in self._store.versions() if v.digest not in self._put_off)
        due = min(ages, default=None)
        if due is None or now - due[0] < self._recheck_seconds:
            return None
        return due[1]

    async def scrub(self, digest: Digest) -> bool:
        """Read a version again at the rate; what is bad is repaired or goes. Tell whether it is whole, or gone."""
        steps = self._store.scan(digest)
        deadline = trio.current_time()
        before = 0
        with closing(steps):
            try:
                while (step := await trio.to_thread.run_sync(next, steps, None)) is not None:
                    if step.bad is not None:
                        _log.error("a bad piece was found", version=digest, offset=step.bad.offset, size=step.bad.size)
                        break
                    self._healer.health.scrubbed_bytes += step.done - before
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
                _log.error("a version was found damaged", version=digest, why=str(error))
        return await self._healer.ensure(digest)
