"""What every `interface.Store` keeps to: subclass it with a fixture `make_store(max_bytes=0)` that makes new stores."""

from __future__ import annotations

import itertools
import os
import threading
import time
from dataclasses import replace

import pytest

from store import (
    Chunk,
    ChunkMismatch,
    Digest,
    Literal,
    NeverFits,
    NoSpace,
    PackageCorrupt,
    Ref,
    VersionMissing,
)
from tests.store.contract_filling import FillingContract
from tests.store.helpers import ABSENT, HOSTILE_IDS, flip, heal, read_all
from tests.store.samples import (
    documents,
    fill_whole,
    make_zip,
    manifest_of,
    package,
    stream_whole,
)


class StoreContract(FillingContract):
    """The contract; what concerns packages on their way in is in `FillingContract`."""

    # -- refs

    @pytest.mark.parametrize("meeting", HOSTILE_IDS)
    def test_a_ref_of_any_id_comes_back(self, store, meeting):
        digest = fill_whole(store, package()).digest
        ref = Ref(meeting, digest, "题目", in_progress=False, pinned=True, switched_at=1.5, ended_at=2.5)
        assert store.ref(meeting) is None
        store.set_ref(ref)
        assert store.ref(meeting) == ref
        store.drop_ref(meeting)
        assert store.ref(meeting) is None

    def test_all_ids_are_different_meetings(self, store):
        digest = fill_whole(store, package()).digest
        refs = [Ref(meeting, digest, title=str(number)) for number, meeting in enumerate(HOSTILE_IDS)]
        for ref in refs:
            store.set_ref(ref)
        assert sorted(store.refs(), key=lambda ref: int(ref.title)) == refs

    def test_a_ref_is_switched_and_never_names_what_is_not_here(self, store):
        one, two = fill_whole(store, package(1)).digest, fill_whole(store, package(2)).digest
        store.set_ref(Ref("m", one))
        with pytest.raises(VersionMissing):
            store.set_ref(Ref("m", ABSENT))
        assert store.ref("m") == Ref("m", one)
        store.set_ref(Ref("m", two))
        assert store.refs() == (Ref("m", two),)
        store.drop_ref("unknown")
        store.remove(two)
        assert store.refs() == ()
        assert store.holds(one)

    def test_a_ref_is_changed_by_what_it_is(self, store):
        one, two = fill_whole(store, package(1)).digest, fill_whole(store, package(2)).digest
        assert store.change_ref("m", lambda before: None) is None
        assert store.change_ref("m", lambda before: Ref("m", one) if before is None else None) == Ref("m", one)
        assert store.change_ref("m", lambda before: replace(before, pinned=True)) == Ref("m", one, pinned=True)
        assert store.change_ref("m", lambda before: None) == Ref("m", one, pinned=True)
        with pytest.raises(VersionMissing):
            store.change_ref("m", lambda before: replace(before, digest=ABSENT))
        with pytest.raises(ZeroDivisionError):
            store.change_ref("m", lambda before: 1 // 0)
        assert store.change_ref("m", lambda before: replace(before, digest=two)) == Ref("m", two, pinned=True)
        assert store.refs() == (Ref("m", two, pinned=True),)

    # -- versions

    def test_a_removed_version_stays_readable_for_those_who_hold_it(self, store):
        data = package()
        digest = fill_whole(store, data).digest
        lease = store.lease(digest)
        store.remove(digest)
        assert not store.holds(digest)
        assert list(store.versions()) == []
        with pytest.raises(VersionMissing):
            store.lease(digest)
        assert lease.trusted
        assert read_all(lease, len(data)) == data
        fill_whole(store, data)
        with store.lease(digest) as other:
            assert read_all(other, len(data)) == data
        lease.close()
        lease.close()
        with pytest.raises(ValueError):
            lease.fileno()

    def test_closing_the_store_leaves_leases_readable(self, make_store):
        store = make_store()
        data = package()
        lease = store.lease(fill_whole(store, data).digest)
        store.close()
        assert read_all(lease, len(data)) == data
        lease.close()

    def test_a_chunk_is_found_wherever_it_lies(self, store):
        members = documents(3, 10_000)
        one, two = make_zip(members, minute=1), make_zip(members, minute=2)
        assert store.find(manifest_of(one).chunks[0].digest) is None
        bytes_of = {fill_whole(store, data).digest: data for data in (one, two)}
        for expected in (2, 1):
            for chunk in manifest_of(one).chunks:
                place = store.find(chunk.digest)
                assert place is not None
                found = bytes_of[place.package][place.offset : place.offset + place.size]
                assert Digest.of(found) == chunk.digest
                other = store.find(chunk.digest, besides=place.package)
                assert other is None if expected == 1 else other.package != place.package
            assert len(bytes_of) == expected
            gone = place.package
            store.remove(gone)
            del bytes_of[gone]
        assert store.find(manifest_of(one).chunks[0].digest) is None

    def test_a_sound_version_verifies(self, store):
        digest = fill_whole(store, package()).digest
        store.verify(digest)
        with store.lease(digest) as lease:
            assert lease.trusted

    def test_a_lease_counts_as_use(self, store):
        digest = fill_whole(store, package()).digest
        before = store.versions()[0].last_used
        store.lease(digest).close()
        assert store.versions()[0].last_used >= before

    # -- scan and repair

    def test_a_scan_of_what_is_right_ends_and_counts_as_a_check(self, store):
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

    def test_scan_and_repair_of_what_is_not_here(self, store):
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
            assert heal(store, manifest.digest, data) == wrong
            assert lease.trusted
            assert read_all(lease, len(data)) == data
        store.verify(manifest.digest)

    def test_trust_comes_back_with_the_last_bad_piece_and_not_before(self, store):
        data = package()
        manifest = fill_whole(store, data)
        one, two, three = manifest.chunks[:3]
        bytes_of = {chunk: data[chunk.offset : chunk.offset + chunk.size] for chunk in (one, two, three)}
        with store.lease(manifest.digest) as lease:
            for chunk in (one, two, three):
                flip(lease, chunk.offset)
            # Only the first is known to be bad: that there are others is found out when it is put right.
            assert not store.repair(manifest.digest, one, bytes_of[one])
            assert not lease.trusted
            assert not store.repair(manifest.digest, three, bytes_of[three])
            assert not lease.trusted
            assert store.repair(manifest.digest, two, bytes_of[two])
            assert lease.trusted
            assert store.repair(manifest.digest, two, bytes_of[two])  # it was right already
            assert lease.trusted
            assert read_all(lease, len(data)) == data

    def test_a_repair_takes_the_right_bytes_only(self, store):
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

    def test_a_reader_sees_bad_bytes_turn_right_and_no_others(self, store):
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

    def test_a_version_evicted_while_it_is_scanned_is_read_to_its_end(self, store):
        data = package(count=4, size=700_000)
        digest = fill_whole(store, data).digest
        steps = store.scan(digest)
        next(steps)
        store.remove(digest)
        assert [step.done for step in steps][-1] == len(data)
        assert store.checked_at(digest) == 0.0

    def test_a_scan_that_is_given_up_gives_its_lease_back(self, store):
        digest = fill_whole(store, package(count=4, size=700_000)).digest
        steps = store.scan(digest)
        next(steps)
        steps.close()
        store.remove(digest)
        assert list(store.versions()) == []

    # -- space

    def test_space_is_counted_and_given_back(self, store):
        data = package()
        manifest = manifest_of(data)
        fill = store.begin_fill(manifest)
        usage = store.usage()
        assert (usage.stored, usage.filling) == (0, len(data))
        assert usage.free > 0
        fill.discard()
        assert store.usage().filling == 0
        fill_whole(store, data)
        usage = store.usage()
        assert (usage.stored, usage.filling) == (len(data), 0)
        store.remove(manifest.digest)
        assert store.usage().stored == 0

    def test_what_was_removed_and_is_still_read_drains(self, store):
        data = package()
        digest = fill_whole(store, data).digest
        one, two = store.lease(digest), store.lease(digest)
        assert store.usage().draining == 0
        store.remove(digest)
        assert (store.usage().stored, store.usage().draining) == (0, len(data))
        one.close()
        one.close()
        assert store.usage().draining == len(data)
        two.close()
        assert store.usage().draining == 0
        fill_whole(store, data)
        store.remove(digest)
        assert store.usage().draining == 0

    def test_what_can_never_fit_differs_from_what_does_not_fit_now(self, make_store):
        small, large = package(1, count=2), package(2, count=9)
        store = make_store(max_bytes=len(small) + 1000)
        assert store.usage().limit == len(small) + 1000
        with pytest.raises(NeverFits) as caught:
            store.begin_fill(manifest_of(large))
        assert (caught.value.needed, caught.value.available) == (len(large), len(small) + 1000)
        digest = fill_whole(store, small).digest
        with pytest.raises(NoSpace) as caught:
            store.begin_fill(manifest_of(package(3, count=2)))
        assert not isinstance(caught.value, NeverFits)
        assert caught.value.available == 1000
        store.remove(digest)
        fill_whole(store, package(3, count=2))

    def test_a_stream_stops_at_the_limit_and_is_not_harmed(self, make_store):
        data = package()
        store = make_store(max_bytes=len(data) + 10)
        fill = store.begin_stream("m")
        fill.append(data)
        with pytest.raises(NeverFits):
            fill.append(b"x" * 11)
        assert fill.size == len(data)
        fill.commit()
        fill.close()
        with pytest.raises(NoSpace):
            store.begin_stream("m").append(b"x" * 11)

    def test_an_abandoned_fill_does_not_give_way_for_nothing(self, make_store):
        one, two = package(1), package(2, count=2, size=300)
        store = make_store(max_bytes=len(one) + len(two) + 10)
        fill = store.begin_fill(manifest_of(one))
        first, *rest = fill.missing()
        fill.write(first, one[first.offset : first.offset + first.size])
        fill.close()
        stream_whole(store, "m", two, step=100)
        fill = store.begin_fill(manifest_of(one))
        assert list(fill.missing()) == rest
        fill.discard()

    @pytest.mark.parametrize("when", ["abandoned before", "abandoned after"])
    def test_an_abandoned_fill_of_what_came_another_way_is_given_up(self, store, when):
        data = package()
        fill = store.begin_fill(manifest_of(data))
        chunk = fill.missing()[0]
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        if when == "abandoned before":
            fill.close()
        stream_whole(store, "m", data)
        fill.close()
        usage = store.usage()
        assert (usage.stored, usage.filling) == (len(data), 0)

    def test_an_abandoned_fill_gives_way(self, make_store):
        one, two = package(1), package(2)
        store = make_store(max_bytes=max(len(one), len(two)) + 100)
        fill = store.begin_fill(manifest_of(one))
        chunk = fill.missing()[0]
        fill.write(chunk, one[chunk.offset : chunk.offset + chunk.size])
        fill.close()
        assert store.usage().filling > 0
        fill_whole(store, two)
        assert store.usage().filling == 0
