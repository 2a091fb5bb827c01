"""Repair: bad pieces are fetched and written in place; a version that cannot be repaired is removed."""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from store import Digest, PackageCorrupt, Store
from tests.store.samples import fill_whole, make_zip, package
from tests.support.damage import BadBlocks, Origin, flip_unnoticed, is_trusted, upkeep_of
from tests.support.memory_store import MemoryStore
from trionode.upkeep.eviction import Evictor
from trionode.upkeep.folder_watch import FolderWatch
from trionode.upkeep.repair import ATTEMPTS, CannotRepair

if TYPE_CHECKING:
    from pathlib import Path

    from store import Usage


async def test_the_bytes_of_another_version_repair_a_chunk_without_a_request(tmp_path: Path):
    store, origin = MemoryStore(), Origin()
    origin.away = True
    documents = {f"{number}.pdf": random.Random(number).randbytes(30_000) for number in range(3)}
    one, two = (fill_whole(store, make_zip(documents, minute=minute)) for minute in (1, 2))
    upkeep = upkeep_of(store, origin, tmp_path)
    for manifest in (one, two):
        flip_unnoticed(store, manifest.digest, manifest.chunks[1].offset)
        assert await upkeep.repairer.repair(manifest.digest) == 1
        assert is_trusted(store, manifest.digest)
    assert (origin.requested, upkeep.lost) == ([], [])


class Forgetful(MemoryStore):
    """A store on a disk that damages a byte again after each repair."""

    damaged_at = 0

    def repair(self, digest: Digest, piece: Any, data: Any) -> bool:
        repaired = super().repair(digest, piece, data)
        flip_unnoticed(self, digest, self.damaged_at)
        with suppress(PackageCorrupt):
            self.verify(digest)
        return repaired


async def test_a_version_that_is_damaged_again_after_each_repair_is_given_up(tmp_path: Path):
    data = package()
    store = Forgetful()
    manifest = fill_whole(store, data)
    store.damaged_at = manifest.chunks[0].offset
    flip_unnoticed(store, manifest.digest, store.damaged_at)
    upkeep = upkeep_of(store, Origin(data), tmp_path)
    with pytest.raises(CannotRepair, match=f"after {ATTEMPTS} repairs"):
        await upkeep.repairer.repair(manifest.digest)
    assert upkeep.repairer.stats.repaired_chunks == ATTEMPTS
    assert not await upkeep.repairer.ensure(manifest.digest)
    assert (upkeep.lost, store.versions()) == ([manifest.digest], [])


class Unreadable(MemoryStore):
    """A store on a disk that cannot read a file once `broken`."""

    broken = False

    def verify(self, digest: Digest) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        super().verify(digest)


async def test_a_file_that_the_disk_cannot_read_is_removed(tmp_path: Path):
    store = Unreadable()
    digest = fill_whole(store, package()).digest
    flip_unnoticed(store, digest, 1000)
    with pytest.raises(PackageCorrupt):
        store.verify(digest)
    flip_unnoticed(store, digest, 1000)  # its bytes are right again, and it is not trusted until that was verified
    assert not is_trusted(store, digest)
    store.broken = True
    upkeep = upkeep_of(store, Origin(), tmp_path)
    assert not await upkeep.repairer.ensure(digest)
    assert (upkeep.lost, store.versions()) == ([digest], [])


@pytest.mark.parametrize("found_by", ["scrub", "request"])
async def test_only_a_chunk_that_the_disk_cannot_read_is_fetched(tmp_path: Path, found_by: str):
    data = package()
    disk, origin = BadBlocks(), Origin(data)
    with Store.open(tmp_path / "storage", fs=disk) as store:
        manifest = fill_whole(store, data)
    # Opened again, so that nothing is trusted yet.
    with Store.open(tmp_path / "storage", fs=disk) as store:
        chunk = manifest.chunks[1]
        disk.at = chunk.offset + 10
        upkeep = upkeep_of(store, origin, tmp_path)
        check = upkeep.scrubber.scrub if found_by == "scrub" else upkeep.repairer.ensure
        assert await check(manifest.digest)
        assert (origin.requested, upkeep.lost) == ([(chunk.offset, chunk.offset + chunk.size)], [])
        assert is_trusted(store, manifest.digest)


async def test_a_version_with_blocks_that_stay_bad_is_removed(tmp_path: Path):
    data = package()
    disk = BadBlocks()
    with Store.open(tmp_path / "storage", fs=disk) as store:
        manifest = fill_whole(store, data)
        disk.at, disk.forever = manifest.chunks[1].offset + 10, True
        upkeep = upkeep_of(store, Origin(data), tmp_path)
        assert not await upkeep.scrubber.scrub(manifest.digest)
        assert (upkeep.lost, store.versions()) == ([manifest.digest], [])
        assert upkeep.repairer.stats.unrepairable == 1


async def test_a_missing_version_is_reported_and_a_trusted_one_costs_nothing(tmp_path: Path):
    store = MemoryStore()
    upkeep = upkeep_of(store, Origin(), tmp_path)
    missing = Digest("ab" * 32)
    assert not await upkeep.repairer.ensure(missing)
    assert upkeep.lost == [missing]
    digest = fill_whole(store, package()).digest
    assert await upkeep.repairer.ensure(digest)
    assert upkeep.lost == [missing]


class CountingStore(MemoryStore):
    """A store that counts verifications."""

    verified = 0

    def verify(self, digest: Digest) -> None:
        self.verified += 1
        super().verify(digest)


async def test_many_requests_for_one_damaged_version_cost_one_repair(tmp_path: Path):
    data = package()
    store, origin = CountingStore(), Origin(data)
    manifest = fill_whole(store, data)
    flip_unnoticed(store, manifest.digest, manifest.chunks[0].offset)
    with suppress(PackageCorrupt):
        store.verify(manifest.digest)
    store.verified = 0
    upkeep = upkeep_of(store, origin, tmp_path)
    results: list[bool] = []

    async def ensure() -> None:
        results.append(await upkeep.repairer.ensure(manifest.digest))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ensure)
    assert results == [True] * 20
    assert (len(origin.requested), upkeep.repairer.stats.repaired_chunks) == (1, 1)
    assert store.verified <= 3  # the first check, the scan, and the check after the repair


class FaultyStore(Store):
    """A store whose calls of some names raise the errors in `faults`, once each if `once`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.faults: dict[str, Exception] = {}
        self.once = False

    def _fail(self, call: str) -> None:
        if call in self.faults:
            raise self.faults.pop(call) if self.once else self.faults[call]

    def verify(self, digest: Digest) -> None:
        self._fail("verify")
        super().verify(digest)

    def repair(self, *arguments: Any) -> bool:
        self._fail("repair")
        return super().repair(*arguments)

    def remove(self, digest: Digest) -> None:
        self._fail("remove")
        super().remove(digest)

    def usage(self) -> Usage:
        self._fail("usage")
        return super().usage()


def change_file(tmp_path: Path, digest: Digest, offset: int) -> None:
    """Change a byte of a stored package, as another program would."""
    with (tmp_path / "storage" / "packages" / f"{digest}.zip").open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


async def test_a_disk_that_refuses_all_writes_fails_neither_repair_nor_eviction(tmp_path: Path):
    with FaultyStore.open(tmp_path / "storage") as store:
        digest = fill_whole(store, package()).digest
        broken = OSError(errno.EIO, "no block can be read")
        store.faults = dict.fromkeys(("verify", "repair", "remove", "usage"), broken)
        upkeep = upkeep_of(store, Origin(), tmp_path)
        change_file(tmp_path, digest, 0)
        assert not await upkeep.repairer.ensure(digest)
        assert (upkeep.lost, store.holds(digest)) == ([digest], True)
        await Evictor(store, FolderWatch(store)).enforce_limits()


async def test_a_repair_during_which_the_manifest_is_rebuilt_is_repeated(tmp_path: Path):
    data = package()
    with FaultyStore.open(tmp_path / "storage") as store:
        manifest = fill_whole(store, data)
        change_file(tmp_path, manifest.digest, manifest.chunks[0].offset)
        store.faults["repair"] = ValueError("no piece of it")
        store.once = True
        upkeep = upkeep_of(store, Origin(data), tmp_path)
        assert await upkeep.repairer.ensure(manifest.digest)
        assert store.faults == {}
        assert upkeep.lost == []
