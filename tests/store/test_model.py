"""A state machine that drives the store and its model in memory together, restarts included.

Both must return the same: versions, refs, bytes, errors, space. `HYPOTHESIS_PROFILE=soak` (`make soak`) runs many more
examples.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from store import (
    Chunk,
    ChunkMismatch,
    FillBusy,
    NoSpace,
    PackageCorrupt,
    PackageRejected,
    Ref,
    Store,
    VersionMissing,
    VersionPresent,
    plan_eviction,
)
from tests.store.helpers import flip, outcome, read_all, scrub
from tests.store.samples import SMALL_PACKAGES as PACKAGES
from tests.store.samples import manifest_of
from tests.support.memory_store import MemoryStore

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 200
MANIFESTS = [manifest_of(data) for data in PACKAGES]
DATA = {manifest.digest: data for manifest, data in zip(MANIFESTS, PACKAGES, strict=True)}
numbers = st.integers(0, len(PACKAGES) - 1)
meetings = st.sampled_from(["m", "../m", "会议"])
SHM = Path("/dev/shm")  # if it exists: tests then do not wait for a disk


class StoresTogether(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-model-", dir=SHM if SHM.is_dir() else None))
        self.fills: dict[int, tuple] = {}  # for each package being filled: the two fills, the one on disk first
        self.leases: list[tuple] = []
        self.damaged: dict[str, set[Chunk]] = {}
        self.parked: set[int] = set()

    @initialize(limit=st.sampled_from([0, 0, 9_000, 16_000]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.memory = MemoryStore(max_bytes=limit)
        self.disk = Store.open(self.folder, max_bytes=limit)

    def teardown(self) -> None:
        for on_disk, in_memory, *_ in [*self.fills.values(), *self.leases]:
            on_disk.close()
            in_memory.close()
        self.disk.close()
        self.memory.close()
        shutil.rmtree(self.folder)

    def both(self, call):
        """Call both stores, compare the outcomes, and return the outcome."""
        on_disk = outcome(lambda: call(self.disk))
        in_memory = outcome(lambda: call(self.memory))
        assert on_disk == in_memory
        return on_disk

    # -- fills

    @rule(number=numbers)
    def begin_fill(self, number: int) -> None:
        manifest = MANIFESTS[number]
        on_disk = outcome(lambda: self.disk.begin_fill(manifest))
        in_memory = outcome(lambda: self.memory.begin_fill(manifest))
        if isinstance(on_disk, type | tuple):
            assert on_disk == in_memory
            assert (on_disk is FillBusy) == (number in self.fills and not self.disk.holds(manifest.digest))
            return
        assert on_disk.manifest == in_memory.manifest == manifest
        if not self.damaged:  # otherwise it depends on which copy of a chunk is found first
            assert list(on_disk.missing()) == list(in_memory.missing())
        self.fills[number] = (on_disk, in_memory)
        self.parked.discard(number)

    @precondition(lambda self: self.fills)
    @rule(pick=st.randoms(use_true_random=False), count=st.integers(1, 4), wrong=st.booleans())
    def write(self, pick: random.Random, count: int, wrong: bool) -> None:
        number = pick.choice(sorted(self.fills))
        data = PACKAGES[number]
        for chunk in pick.sample(MANIFESTS[number].chunks, min(count, len(MANIFESTS[number].chunks))):
            right = data[chunk.offset : chunk.offset + chunk.size]
            for fill in self.fills[number]:
                if wrong and chunk in fill.missing():
                    with pytest.raises(ChunkMismatch):
                        fill.write(chunk, right[:-1] + bytes([right[-1] ^ 1]))
                    assert chunk in fill.missing()
                fill.write(chunk, right)
                assert chunk not in fill.missing()
                there = fill.covered(chunk.offset)
                assert os.pread(fill.fileno(), there, chunk.offset) == data[chunk.offset : chunk.offset + there]

    @precondition(lambda self: self.fills)
    @rule(pick=st.randoms(use_true_random=False), end=st.sampled_from(["close", "discard", "commit", "complete"]))
    def end_fill(self, pick: random.Random, end: str) -> None:
        number = pick.choice(sorted(self.fills))
        data, manifest = PACKAGES[number], MANIFESTS[number]
        pair = self.fills.pop(number)
        if end == "complete":
            for fill in pair:
                for chunk in fill.missing():
                    fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
                fill.commit()
                assert read_all(fill, len(data)) == data
        elif end == "commit":
            complete = not pair[0].missing()
            found = [outcome(fill.commit) for fill in pair]
            assert all((one is None) == (not fill.missing()) for one, fill in zip(found, pair, strict=True))
            assert complete == (found[0] is None)
        elif end == "close" and any(chunk not in pair[0].missing() for chunk in manifest.chunks):
            self.parked.add(number)  # unless a stream committed the version meanwhile
        for fill in pair:
            fill.discard() if end == "discard" else fill.close()

    @rule(number=numbers, cut=st.sampled_from([0, 0, 0, 1, 700]), step=st.integers(300, 9000), kept=st.booleans())
    def stream(self, number: int, cut: int, step: int, kept: bool) -> None:
        data = PACKAGES[number][: len(PACKAGES[number]) - cut]

        def whole(store):
            fill = store.begin_stream("m")
            try:
                for start in range(0, len(data), step):
                    fill.append(data[start : start + step])
                return fill.commit() if kept else fill.size
            finally:
                fill.close()

        found = self.both(whole)
        if found is PackageRejected:
            assert cut
        elif not isinstance(found, tuple):
            assert found == (MANIFESTS[number] if kept else len(data))
            assert not kept or self.disk.holds(MANIFESTS[number].digest)

    # -- versions and refs

    @rule(meeting=meetings, number=numbers, pinned=st.booleans(), in_progress=st.booleans())
    def switch(self, meeting: str, number: int, pinned: bool, in_progress: bool) -> None:
        ended_at = 0.0 if in_progress else 1.0
        ref = Ref(meeting, MANIFESTS[number].digest, "t", in_progress=in_progress, pinned=pinned, ended_at=ended_at)
        found = self.both(lambda store: store.set_ref(ref))
        assert (found is None) == self.disk.holds(ref.digest)

    @rule(meeting=meetings)
    def drop(self, meeting: str) -> None:
        self.both(lambda store: store.drop_ref(meeting))

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        self.both(lambda store: store.remove(MANIFESTS[number].digest))
        self.damaged.pop(MANIFESTS[number].digest, None)

    @rule(needed=st.integers(0, 12_000))
    def evict(self, needed: int) -> None:
        """Evict by the plan for the store on disk: the one in memory does not lose the times of use at a restart."""
        store = self.disk
        usage = store.usage()
        assert usage.limit == self.limit
        try:
            plan = plan_eviction(store.versions(), store.refs(), usage, needed, 1e12)
        except NoSpace:
            return
        wanted = {ref.digest for ref in store.refs() if ref.pinned or ref.in_progress}
        assert not wanted & set(plan)
        for digest in plan:
            self.both(lambda store, digest=digest: store.remove(digest))
            self.damaged.pop(digest, None)
        usage = store.usage()
        assert not self.limit or usage.stored + usage.filling + needed <= self.limit

    # -- leases, bad bytes

    @rule(number=numbers)
    def lease(self, number: int) -> None:
        digest = MANIFESTS[number].digest
        pair = [outcome(lambda store=store: store.lease(digest)) for store in (self.disk, self.memory)]
        if pair[0] is VersionMissing:
            assert pair[1] is VersionMissing
            assert not self.disk.holds(digest)
        else:
            self.leases.append((*pair, digest in self.damaged))

    @precondition(lambda self: self.leases)
    @rule(pick=st.randoms(use_true_random=False))
    def give_back(self, pick: random.Random) -> None:
        on_disk, in_memory, _ = self.leases.pop(pick.randrange(len(self.leases)))
        on_disk.close()
        in_memory.close()

    @rule(number=numbers, pick=st.randoms(use_true_random=False))
    def damage(self, number: int, pick: random.Random) -> None:
        digest = MANIFESTS[number].digest
        if not self.disk.holds(digest):
            return
        chunk = pick.choice(MANIFESTS[number].chunks)
        if chunk in self.damaged.get(digest, ()):
            return
        for store in (self.disk, self.memory):
            with store.open_package(digest) as lease:
                flip(lease, chunk.offset + chunk.size // 2)
        self.damaged.setdefault(digest, set()).add(chunk)
        self.leases = [(*pair, damaged or pair[0].digest == digest) for *pair, damaged in self.leases]

    @rule(number=numbers)
    def verify(self, number: int) -> None:
        digest = MANIFESTS[number].digest
        found = self.both(lambda store: store.verify(digest))
        bad = sorted(self.damaged.get(digest, ()), key=lambda chunk: chunk.offset)
        if self.disk.holds(digest):
            assert found == ((PackageCorrupt, tuple(bad)) if bad else None)

    @rule(number=numbers)
    def scrub(self, number: int) -> None:
        digest = MANIFESTS[number].digest
        bad = sorted(self.damaged.pop(digest, ()), key=lambda chunk: chunk.offset)
        found = self.both(lambda store: scrub(store, digest, PACKAGES[number]))
        if self.disk.holds(digest):
            assert found == bad
            with self.disk.open_package(digest) as one, self.memory.open_package(digest) as two:
                assert one.trusted
                assert two.trusted
                assert read_all(one, len(PACKAGES[number])) == PACKAGES[number]

    # -- restarts

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        """Reopen the folder. When killed, fills are not ended; in memory they are closed."""
        empty = set()
        for number, (on_disk, in_memory) in self.fills.items():
            some = any(chunk not in on_disk.missing() for chunk in on_disk.manifest.chunks)
            (self.parked if some else empty).add(number)
            if killed:
                on_disk._shut()
            else:
                on_disk.close()
            in_memory.close()
        for on_disk, in_memory, _ in self.leases:
            on_disk.close()
            in_memory.close()
        self.leases.clear()
        self.fills.clear()
        self.disk.close()
        self.disk = Store.open(self.folder, max_bytes=self.limit)
        # A killed process leaves empty fills, and the stores differ in the order in which they give up parked fills.
        for number in sorted(empty | self.parked if self.limit else empty):
            for store in (self.disk, self.memory):
                with suppress(VersionPresent, NoSpace):  # or it was given up already
                    store.begin_fill(MANIFESTS[number]).discard()
            self.parked.discard(number)

    # -- what is always so

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "disk"):
            return
        versions = {(version.digest, version.size) for version in self.disk.versions()}
        assert versions == {(version.digest, version.size) for version in self.memory.versions()}
        assert set(self.disk.refs()) == set(self.memory.refs())
        assert {ref.digest for ref in self.disk.refs()} <= {digest for digest, _ in versions}
        one, two = self.disk.usage(), self.memory.usage()
        assert one.stored == two.stored == sum(size for _, size in versions)
        assert one.draining == two.draining
        assert one.filling == two.filling
        assert not self.limit or one.stored + one.filling <= self.limit
        stored = {f"{digest}.{suffix}" for digest, _ in versions for suffix in ("zip", "json")}
        assert {path.name for path in (self.folder / "packages").iterdir()} == stored

    @invariant()
    def what_is_sent_is_right(self) -> None:
        for on_disk, in_memory, damaged in self.leases:
            data = DATA[on_disk.digest]
            if not damaged:
                assert read_all(on_disk, len(data)) == data == read_all(in_memory, len(data))
            assert not on_disk.trusted or read_all(on_disk, len(data)) == data


StoresTogether.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoresTogether = StoresTogether.TestCase
