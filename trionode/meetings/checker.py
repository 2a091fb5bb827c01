"""The check of one meeting: its version is confirmed, or the current one is filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from store import NoSpace, count_files

from ..errors import FillFailed
from ..fetch.live_fill import LiveFill
from ..fetch.manifest_fetch import ManifestFetcher
from ..fetch.source_factory import Peers, SourceFactory
from ..fetch.stream_fetch import StreamFetcher
from .manifests import Manifests, NoManifests
from .poll_plan import Check
from .states import MeetingEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from store import Digest, Manifest, Store

    from ..fetch.room import MakeRoom
    from ..master.client import Master
    from ..stats import FillStats
    from ..upkeep.repair import Repairer
    from .meeting import Meeting
    from .refs import RefWriter


@dataclass(frozen=True, slots=True)
class Fetchers:
    """How a version is fetched: by its manifest, or as a stream from a legacy master."""

    by_manifest: ManifestFetcher
    by_stream: StreamFetcher


def open_fetchers(store: Store, master: Master, peers: Peers | None, rng: Random, make_room: MakeRoom) -> Fetchers:
    """Return the fetchers. Without `peers` they fetch from the master only."""
    sources = SourceFactory(master, peers)
    return Fetchers(ManifestFetcher(store, sources, rng, make_room), StreamFetcher(store, master, sources, make_room))


class Checker:
    """Checks meetings. `apply` is called with a meeting and an event of its state table."""

    def __init__(
        self,
        store: Store,
        master: Master,
        repairer: Repairer,
        refs: RefWriter,
        fetchers: Fetchers,
        make_room: MakeRoom,
        stats: FillStats,
        apply: Callable[[Meeting, MeetingEvent], None],
    ) -> None:
        self._store = store
        self._repairer = repairer
        self._refs = refs
        self._manifests = Manifests(master)
        self._fetchers = fetchers
        self._make_room = make_room
        self._stats = stats
        self._apply_event = apply

    def forget_master(self) -> None:
        """Find out again whether the master is a legacy one."""
        self._manifests.forget()

    async def check(self, meeting: Meeting, check: Check, token: str) -> None:
        """Confirm the current version of a meeting, or fill it. `token` is the last one of the master.

        Raises `NodeError`, `StoreError` or `OSError`.
        """
        ref = self._store.ref(meeting.id)
        known = ref.digest if ref is not None and await self._repairer.ensure(ref.digest) else None
        try:
            manifest = await self._manifests.current(meeting.id, known)
        except NoManifests:
            await self._check_legacy(meeting, check, known, token)
            return
        if manifest is not None and not (
            self._store.holds(manifest.digest) and await self._repairer.ensure(manifest.digest)
        ):
            await self._fill(meeting, manifest)
        current = manifest.digest if manifest is not None else known
        assert current is not None, "only a request that names a version can be answered 304"
        await self._confirm(meeting, current)

    async def _check_legacy(self, meeting: Meeting, check: Check, known: Digest | None, token: str) -> None:
        """Check at a legacy master. `token` is from before the first byte: a later one may mean another package."""
        if meeting.outgrew is not None and meeting.outgrew[0] == token:
            # Same token, same package: without more room it would be fetched up to the same point again.
            await self._make_room(meeting.outgrew[1])
        ref = self._store.ref(meeting.id)
        if known is not None and check is Check.TOKEN and ref is not None and ref.token == token:
            await self._confirm(meeting, known, token)
            return
        if known is not None and check is not Check.CERTAIN:
            with self._store.lease(known) as stored:
                if await self._fetchers.by_stream.begins_alike(meeting.id, stored):
                    await self._confirm(meeting, known, token)
                    return
        try:
            manifest = await self._fill(meeting, None, token)
        except NoSpace as error:
            meeting.outgrew = (token, error.needed)
            raise
        meeting.outgrew = None
        await self._confirm(meeting, manifest.digest, token)

    async def _fill(self, meeting: Meeting, manifest: Manifest | None, token: str = "") -> Manifest:
        """Run one fill, and end it for its followers on every exit."""
        known = () if manifest is None else (manifest.digest, manifest.size)
        live = LiveFill(meeting.id, *known, token=token, began_at=trio.current_time())
        meeting.fill = live
        self._apply_event(meeting, MeetingEvent.FILL)
        error: Exception | None = FillFailed("the node is stopping")
        try:
            if manifest is None:
                manifest = await self._fetchers.by_stream.run(live)
            else:
                await self._fetchers.by_manifest.run(manifest, live)
            error = None
            meeting.fetched = live.fetched
            self._stats.done += 1
        except Exception as reason:
            error = reason
            self._stats.failed += 1
            raise
        finally:
            meeting.fill = None
            live.finish(error)
        return manifest

    async def _confirm(self, meeting: Meeting, digest: Digest, token: str = "") -> None:
        """Switch the meeting to `digest`, found under a legacy master's `token`, and only then advertise it."""
        if not await self._repairer.ensure(digest):
            raise FillFailed("the stored package is damaged and cannot be repaired now")
        if not await self._refs.switch(meeting, digest, token):
            return
        with self._store.lease(digest) as lease:
            file_count = await trio.to_thread.run_sync(count_files, lease.fileno(), lease.size)
        meeting.record_success(digest, file_count)
        self._apply_event(meeting, MeetingEvent.CONFIRM)
