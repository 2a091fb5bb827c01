"""A trial compares another source with the one in use, and delays nothing."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from master_shim.protocol import FillProgress, VersionNode
from store import Store, split_file
from tests.support.packages import make_documents, make_package
from trionode.errors import OriginUnreachable, PeerFailure
from trionode.fetch.live_fill import LiveFill
from trionode.fetch.manifest_fetch import ManifestFetcher
from trionode.fetch.routing import MASTER, TRIAL_BYTES, TRIAL_SECONDS, Route
from trionode.fetch.sources import Sources
from trionode.stats import PeerStats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from store import Digest

PIECE_BYTES = 500_000
RATE = 1_000_000
USED, OTHER = "used", "other"


class Source:
    """A source on a line of `rate` bytes per second; 0: it stays silent. `fault`: happens once, at the first piece."""

    def __init__(self, name: str, content: bytes, rate: float, fault: str = "") -> None:
        self.name = name
        self.rate = rate
        self.requested: list[tuple[float, int, int]] = []
        """When, first offset and end of each request."""
        self._content = content
        self._fault = fault
        self._line = trio.Lock()

    @asynccontextmanager
    async def open_range(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        self.requested.append((trio.current_time(), start, stop))

        async def body() -> AsyncIterator[bytes]:
            fault, self._fault = self._fault, ""
            if fault == "cut":
                raise OriginUnreachable("it was cut")
            for offset in range(start, stop, PIECE_BYTES):
                data = bytearray(self._content[offset : min(stop, offset + PIECE_BYTES)])
                data[0] ^= fault == "wrong"
                if not self.rate:
                    await trio.sleep_forever()
                async with self._line:
                    await trio.sleep(len(data) / self.rate)
                yield bytes(data)

        yield body()


class Trial:
    """A fill of 12 MB from a node that has everything and sends 1 MB/s, with another source that may be tried."""

    def __init__(self, tmp_path: Path, name: str, rate: float, fault: str = "") -> None:
        path = make_package(tmp_path / "p.zip", make_documents(6, 2_000_000), level=0).path
        content = path.read_bytes()
        self.manifest = split_file(path)
        self.store = Store.open(tmp_path / "storage")
        self.live = LiveFill("m", self.manifest.digest, self.manifest.size)
        self.stats = PeerStats()
        self.faults: Counter[str] = Counter()
        self.used = Source(USED, content, RATE)
        self.other = Source(name, content, rate, fault)
        self.master = self.other if name == MASTER else Source(MASTER, content, 10 * RATE)

    @asynccontextmanager
    async def of_version(self, live: LiveFill, digest: Digest, missing_bytes: int) -> AsyncIterator[Sources[Any]]:
        route = Route("key", "own", live.size)
        peers = {USED: self.used, OTHER: self.other}

        def open_peer(peer: VersionNode, *, urgent: bool) -> Any:
            return peers[peer.node_id]

        sources: Sources[Any] = Sources(route, live, self.master, open_peer, self.stats, self.faults)
        sources.update([VersionNode(USED, "used:1", held=True)])

        async def watch() -> None:
            while True:
                await trio.sleep(1)
                if live.source:
                    sources.observe(FillProgress(self.manifest.size, self.manifest.size, held=True))
                if self.other.name == OTHER and live.source == USED:
                    nodes = [VersionNode(USED, "used:1", held=True), VersionNode(OTHER, "other:1", held=True)]
                    sources.update(nodes)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield sources
            nursery.cancel_scope.cancel()

    async def make_room(self, needed: int, *, full_disk: bool = False) -> None:
        pass

    async def run(self) -> float:
        """Return the seconds until the version is committed."""
        began = trio.current_time()
        sources: Any = self
        await ManifestFetcher(self.store, sources, Random(1), self.make_room).run(self.manifest, self.live)
        seconds = trio.current_time() - began
        assert self.store.verify(self.manifest.digest) is None
        self.store.close()
        return seconds


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    autojump_clock.autojump_threshold = 0.05  # threads write meanwhile
    return autojump_clock


@pytest.mark.parametrize("name", [MASTER, OTHER])
async def test_a_source_that_is_more_than_twice_as_fast_takes_over(tmp_path: Path, clock: MockClock, name: str):
    trial = Trial(tmp_path, name, 10 * RATE)
    assert await trial.run() < trial.manifest.size / RATE / 2
    assert trial.stats.passed_over == Counter({PeerFailure.SLOW.value: 1})
    when, start, stop = trial.other.requested[0]
    last = trial.manifest.chunks[-1]
    assert stop == last.offset + last.size, "the end, for which no follower waits"
    assert 0 < stop - start <= TRIAL_BYTES
    assert all(later > when for later, _, _ in trial.other.requested[1:])
    assert trial.live.source == name


@pytest.mark.parametrize("rate", [RATE, 0])
async def test_the_source_in_use_sends_on_during_a_trial_and_afterwards(tmp_path: Path, clock: MockClock, rate: float):
    trial = Trial(tmp_path, MASTER, rate)
    alone = trial.manifest.size / RATE
    # A silent source costs nothing, since the chunks that it should have sent come at the end from the one in use.
    assert await trial.run() < alone + 0.5
    assert len(trial.master.requested) == 1
    assert not trial.stats.passed_over
    began = trial.master.requested[0][0]
    during = [when for when, _, _ in trial.used.requested if began <= when < began + TRIAL_SECONDS]
    assert during, "it is asked for further ranges meanwhile"


async def test_a_trial_ends_with_the_rest(tmp_path: Path, clock: MockClock):
    trial = Trial(tmp_path, MASTER, 0)
    chunks = trial.manifest.chunks

    async def become_fast() -> None:
        while not trial.master.requested:
            await trio.sleep(1)
        trial.used.rate = 100 * RATE

    async with trio.open_nursery() as nursery:
        nursery.start_soon(become_fast)
        seconds = await trial.run()
    assert seconds < trial.master.requested[0][0] + TRIAL_SECONDS - 1
    assert trial.used.requested[-1][2] == chunks[-1].offset + chunks[-1].size


@pytest.mark.parametrize(("name", "fault"), [(MASTER, "cut"), (MASTER, "wrong"), (OTHER, "wrong")])
async def test_a_trial_that_fails_costs_its_range_alone(tmp_path: Path, clock: MockClock, name: str, fault: str):
    trial = Trial(tmp_path, name, 10 * RATE, fault)
    assert await trial.run() < trial.manifest.size / RATE + 0.5
    assert trial.live.source == USED
    assert len(trial.other.requested) == 1
    assert set(trial.faults) == ({OTHER} if name == OTHER else set())
    assert trial.stats.wrong_bytes == Counter({OTHER: 1} if name == OTHER else {})
