"""How every store scans and repairs a version; see `contract`."""

from __future__ import annotations

import itertools
import os
import threading
import time

import pytest

from store import (
    Chunk,
    ChunkMismatch,
    Literal,
    PackageCorrupt,
    VersionMissing,
)
from tests.store.helpers import ABSENT, flip, read_all, scrub
from tests.store.samples import (
    fill_whole,
    package,
)


class RepairContract:
    def test_a_scan_of_an_intact_version_counts_as_a_check(self, store):
        data = package(count=8, size=700_000)
        began = time.time()
        digest = fill_whole(store, data).digest
        committed = store.checked_at(digest)
        assert began <= committed <= time.time()
        assert store.checked_at(ABSENT) == 0.0
        steps = list(store.scan(digest))
        assert all(step.bad is None for step in steps)
        done = [step.done for step in steps]
        assert done == sorted(set(done))
        assert done[-1] == len(data)
        assert max(b - a for a, b in itertools.pairwise([0, *done])) < 3_000_000
        assert store.checked_at(digest) >= committed

    def test_scan_and_repair_of_a_missing_version(self, store):
        with pytest.raises(VersionMissing):
            next(store.scan(ABSENT))
        with pytest.raises(VersionMissing):
            store.repair(ABSENT, Chunk(0, 1, ABSENT), b"x")

    def test_bad_pieces_are_found_one_by_one_and_repaired(self, store):
        data = package()
        manifest = fill_whole(store, data)
        wrong = [manifest.pieces[0], manifest.chunks[1], manifest.chunks[3], manifest.pieces[-1]]
        assert isinstance(wrong[0], Literal)
        with store.lease(manifest.digest) as lease:
            for piece in wrong:
                flip(lease, piece.offset + piece.size - 1)
            found: list[Chunk | Literal] = []
            steps = store.scan(manifest.digest)
            with pytest.raises(PackageCorrupt) as caught:
                found.extend(step.bad for step in steps if step.bad is not None)
            assert found == wrong
            assert caught.value.bad == (manifest.chunks[1], manifest.chunks[3])
            assert not lease.trusted
            assert scrub(store, manifest.digest, data) == wrong
            assert lease.trusted
            assert read_all(lease, len(data)) == data
        store.verify(manifest.digest)

    def test_a_version_is_trusted_after_the_last_repair_and_not_before(self, store):
        data = package()
        manifest = fill_whole(store, data)
        one, two, three = manifest.chunks[:3]
        bytes_of = {chunk: data[chunk.offset : chunk.offset + chunk.size] for chunk in (one, two, three)}
        with store.lease(manifest.digest) as lease:
            for chunk in (one, two, three):
                flip(lease, chunk.offset)
            # Only the first is known to be bad: the others are found when it is repaired.
            assert not store.repair(manifest.digest, one, bytes_of[one])
            assert not lease.trusted
            assert not store.repair(manifest.digest, three, bytes_of[three])
            assert not lease.trusted
            assert store.repair(manifest.digest, two, bytes_of[two])
            assert lease.trusted
            assert store.repair(manifest.digest, two, bytes_of[two])  # a good piece
            assert lease.trusted
            assert read_all(lease, len(data)) == data

    def test_a_repair_accepts_only_the_right_bytes(self, store):
        data = package()
        manifest = fill_whole(store, data)
        chunk, literal = manifest.chunks[0], manifest.pieces[0]
        with store.lease(manifest.digest) as lease:
            flip(lease, chunk.offset)
            before = read_all(lease, len(data))
            for wrong in (b"", b"x" * chunk.size, data[chunk.offset : chunk.offset + chunk.size + 1]):
                with pytest.raises(ChunkMismatch):
                    store.repair(manifest.digest, chunk, wrong)
            for other in (Chunk(chunk.offset + 1, chunk.size, chunk.digest), Chunk(10**9, 1, ABSENT)):
                with pytest.raises(ValueError):
                    store.repair(manifest.digest, other, data[other.offset : other.offset + other.size])
            with pytest.raises(ValueError):
                store.repair(manifest.digest, literal, b"x" * literal.size)
            assert read_all(lease, len(data)) == before

    def test_a_reader_sees_only_bad_or_repaired_bytes(self, store):
        data = package(count=3, size=300_000)
        manifest = fill_whole(store, data)
        kept_bad, chunk = manifest.chunks[:2]
        right = data[chunk.offset : chunk.offset + chunk.size]
        flipped = bytes(byte ^ 0xFF for byte in right)
        wrong: list[str] = []
        done = threading.Event()

        def read() -> None:
            with store.lease(manifest.digest) as lease:
                while not done.is_set():
                    got = os.pread(lease.fileno(), chunk.size, chunk.offset)
                    if any(byte not in pair for byte, *pair in zip(got[::97], right[::97], flipped[::97], strict=True)):
                        wrong.append("neither bad nor right")
                    if lease.trusted and os.pread(lease.fileno(), chunk.size, chunk.offset) != right:
                        wrong.append("trusted and wrong")

        with store.lease(manifest.digest) as lease:
            flip(lease, kept_bad.offset)
            flip(lease, chunk.offset, chunk.size)
            assert not store.repair(manifest.digest, chunk, right)
            threads = [threading.Thread(target=read) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(10):
                flip(lease, chunk.offset, chunk.size)
                assert not store.repair(manifest.digest, chunk, right)
            good = data[kept_bad.offset : kept_bad.offset + kept_bad.size]
            assert store.repair(manifest.digest, kept_bad, good)
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []

    def test_a_version_removed_during_a_scan_is_read_to_its_end(self, store):
        data = package(count=4, size=700_000)
        digest = fill_whole(store, data).digest
        steps = store.scan(digest)
        next(steps)
        store.remove(digest)
        assert [step.done for step in steps][-1] == len(data)
        assert store.checked_at(digest) == 0.0

    def test_a_scan_that_is_closed_early_gives_its_lease_back(self, store):
        digest = fill_whole(store, package(count=4, size=700_000)).digest
        steps = store.scan(digest)
        next(steps)
        steps.close()
        store.remove(digest)
        assert list(store.versions()) == []
