"""The scrub: which version comes next, at what rate it is read, and what happens to a damaged one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

from store import Digest
from tests.store.samples import fill_whole, package
from tests.support.damage import Origin, flip_unnoticed, is_trusted, upkeep_of
from tests.support.memory_store import MemoryStore
from tests.support.waiting import eventually
from trionode.upkeep.repair import Repairer
from trionode.upkeep.scrub import BURST_SECONDS, POLL_SECONDS, RETRY_SECONDS, Scrubber, ScrubTimes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from store import ScanStep


async def test_a_flipped_bit_is_found_and_only_its_chunk_is_fetched(tmp_path: Path):
    data = package()
    store, origin = MemoryStore(), Origin(data)
    manifest = fill_whole(store, data)
    upkeep = upkeep_of(store, origin, tmp_path)
    assert await upkeep.scrubber.scrub(manifest.digest)
    chunk = manifest.chunks[2]
    flip_unnoticed(store, manifest.digest, chunk.offset + 5)
    flip_unnoticed(store, manifest.digest, 3)  # in a header, whose bytes are in the manifest
    assert await upkeep.scrubber.scrub(manifest.digest)
    stats = upkeep.repairer.stats
    assert origin.requested == [(chunk.offset, chunk.offset + chunk.size)]
    assert (stats.repaired_chunks, stats.repaired_bytes > chunk.size, stats.unrepairable) == (2, True, 0)
    assert stats.scrubbed_bytes >= manifest.size
    assert upkeep.lost == []
    store.verify(manifest.digest)


async def test_a_damaged_version_that_the_master_has_replaced_is_removed_and_reported(tmp_path: Path):
    store, origin = MemoryStore(), Origin()
    manifest = fill_whole(store, package())
    upkeep = upkeep_of(store, origin, tmp_path)
    flip_unnoticed(store, manifest.digest, manifest.chunks[0].offset)
    assert not await upkeep.scrubber.scrub(manifest.digest)
    assert (upkeep.lost, store.versions()) == ([manifest.digest], [])
    assert upkeep.repairer.stats.unrepairable == 1


async def test_a_damaged_version_that_cannot_be_repaired_now_stays_and_is_repaired_later(tmp_path: Path):
    store, origin = MemoryStore(), Origin(package(1))
    origin.away = True
    bad, good = (fill_whole(store, package(seed)).digest for seed in (1, 2))
    upkeep = upkeep_of(store, origin, tmp_path)
    flip_unnoticed(store, bad, store.manifest(bad).chunks[0].offset)
    assert not await upkeep.scrubber.scrub(bad)
    assert upkeep.lost == [bad]
    assert not is_trusted(store, bad)
    assert {version.digest for version in store.versions()} == {bad, good}
    assert upkeep.repairer.stats.unrepaired == 1
    origin.away = False
    assert await upkeep.repairer.ensure(bad)
    assert is_trusted(store, bad)


class Evicting(MemoryStore):
    """A store that evicts a version as soon as a scan of it has begun."""

    def scan(self, digest: Digest) -> Iterator[ScanStep]:
        for number, step in enumerate(super().scan(digest)):
            if number == 0:
                self.remove(digest)
            yield step


async def test_a_version_that_is_evicted_before_or_during_its_scrub_is_not_lost(tmp_path: Path):
    store = Evicting()
    digest = fill_whole(store, package()).digest
    upkeep = upkeep_of(store, Origin(), tmp_path)
    for _ in ("during", "before"):
        assert await upkeep.scrubber.scrub(digest)
        assert (upkeep.lost, store.versions()) == ([], [])


class Checked(MemoryStore):
    """A store whose versions were verified by this process at given times."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[Digest, float] = {}

    def checked_at(self, digest: Digest) -> float:
        return self.times.get(digest, 0.0)


async def test_the_version_that_was_verified_longest_ago_comes_first_also_after_a_restart(tmp_path: Path):
    store = Checked()
    digests = [fill_whole(store, package(seed, count=1)).digest for seed in range(3)]
    store.times = dict(zip(digests, (300.0, 100.0, 200.0), strict=True))
    upkeep = upkeep_of(store, Origin(), tmp_path, recheck_seconds=1000.0)
    assert upkeep.scrubber.next_due(1099.0) is None
    assert upkeep.scrubber.next_due(1100.0) == digests[1]
    upkeep.times.note(digests[1], 500.0, digests)
    assert upkeep.scrubber.next_due(1200.0) == digests[2]
    upkeep.times.save()
    store.times = {}
    again = upkeep_of(store, Origin(), tmp_path, recheck_seconds=1000.0).scrubber
    assert again.checked_age(digests[1], 1200.0) == 700.0
    assert again.next_due(1200.0) in {digests[0], digests[2]}


async def test_a_check_under_a_clock_that_was_ahead_is_done_again_once(tmp_path: Path):
    store = Checked()
    digest = fill_whole(store, package(count=1)).digest
    store.times = {digest: 1e9}
    upkeep = upkeep_of(store, Origin(), tmp_path, recheck_seconds=1000.0)
    upkeep.times.note(digest, 1e9, [digest])
    assert upkeep.scrubber.next_due(5000.0) == digest
    upkeep.times.note(digest, 5000.0, [digest])
    assert upkeep.scrubber.next_due(5999.0) is None
    assert upkeep.scrubber.next_due(6000.0) == digest


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "b"}', b"\xff", b'{"\xff": 1}'])
def test_scrub_times_that_cannot_be_read_are_replaced(tmp_path: Path, content: bytes):
    (tmp_path / "scrub.json").write_bytes(content)
    times = ScrubTimes(tmp_path / "scrub.json")
    times.note(Digest("a" * 64), 7.0, [])
    times.save()
    assert json.loads((tmp_path / "scrub.json").read_bytes()) == {"a" * 64: 7.0}


async def test_a_scrub_keeps_to_its_rate(tmp_path: Path, autojump_clock: MockClock):
    store = MemoryStore()
    manifest = fill_whole(store, package(count=6, size=1_000_000))
    upkeep = upkeep_of(store, Origin(), tmp_path, rate=100_000)
    began = trio.current_time()
    assert await upkeep.scrubber.scrub(manifest.digest)
    seconds = manifest.size / 100_000
    assert seconds - BURST_SECONDS <= trio.current_time() - began <= seconds + 0.001


class CountingRepairer(Repairer):
    """A repairer that has nothing to do, and records what it was asked to ensure."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, Origin())  # type: ignore[arg-type]
        self.ensured: list[tuple[Digest, float]] = []

    async def ensure(self, digest: Digest) -> bool:
        await trio.lowlevel.checkpoint()
        self.ensured.append((digest, trio.current_time()))
        return False


async def test_advertised_versions_are_checked_every_few_seconds_and_nothing_else_without_a_rate(
    tmp_path: Path, autojump_clock: MockClock
):
    store = MemoryStore()
    advertised, other = (fill_whole(store, package(seed)).digest for seed in (1, 2))
    repairer, began = CountingRepairer(store), trio.current_time()
    times = ScrubTimes(tmp_path / "scrub.json")
    scrubber = Scrubber(store, repairer, times, 0, lambda: [advertised, advertised], 0.0)  # type: ignore[arg-type]
    with trio.move_on_after(2.5 * POLL_SECONDS):
        await scrubber.run()
    assert repairer.ensured == [(advertised, began + number * POLL_SECONDS) for number in range(3)]
    assert times.of(other) == 0.0


async def test_a_version_that_cannot_be_repaired_now_is_put_off(tmp_path: Path):
    store, origin = MemoryStore(), Origin(package(1))
    origin.away = True
    bad, good = (fill_whole(store, package(seed)).digest for seed in (1, 2))
    flip_unnoticed(store, bad, store.manifest(bad).chunks[0].offset)
    upkeep = upkeep_of(store, origin, tmp_path)
    stats = upkeep.repairer.stats
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upkeep.scrubber.run)
        await eventually(lambda: stats.scrubbed_bytes > 5 * store.manifest(good).size)
        nursery.cancel_scope.cancel()
    assert upkeep.lost == [bad], f"it is not scrubbed again within {RETRY_SECONDS} s"
    assert len(origin.requested) == 1
