"""The contract of `store.Store`: subclass `StoreContract` with a fixture `make_store(max_bytes=0)`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store import (
    Digest,
    NeverFits,
    NoSpace,
    Ref,
    VersionMissing,
)
from tests.store.contract_fills import FillContract
from tests.store.contract_repair import RepairContract
from tests.store.contract_streams import StreamContract
from tests.store.helpers import ABSENT, HOSTILE_IDS, read_all
from tests.store.samples import (
    documents,
    fill_whole,
    make_zip,
    manifest_of,
    package,
    stream_whole,
)


class StoreContract(FillContract, StreamContract, RepairContract):
    """All tests of the contract; those of refs, versions and space are here."""

    @pytest.fixture
    def store(self, make_store):
        return make_store()

    # -- refs

    @pytest.mark.parametrize("meeting", HOSTILE_IDS)
    def test_a_ref_of_any_id_is_returned(self, store, meeting):
        digest = fill_whole(store, package()).digest
        ref = Ref(meeting, digest, "题目", in_progress=False, pinned=True, switched_at=1.5, ended_at=2.5, token="t")
        assert store.ref(meeting) is None
        store.set_ref(ref)
        assert store.ref(meeting) == ref
        store.drop_ref(meeting)
        assert store.ref(meeting) is None

    def test_different_ids_are_different_meetings(self, store):
        digest = fill_whole(store, package()).digest
        refs = [Ref(meeting, digest, title=str(number)) for number, meeting in enumerate(HOSTILE_IDS)]
        for ref in refs:
            store.set_ref(ref)
        assert sorted(store.refs(), key=lambda ref: int(ref.title)) == refs

    def test_a_ref_is_switched_and_never_names_a_missing_version(self, store):
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

    def test_change_ref_depends_on_the_ref(self, store):
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

    def test_a_removed_version_stays_readable_through_its_leases(self, store):
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

    def test_a_chunk_is_found_in_any_package(self, store):
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

    def test_an_intact_version_verifies(self, store):
        digest = fill_whole(store, package()).digest
        store.verify(digest)
        with store.lease(digest) as lease:
            assert lease.trusted

    def test_a_lease_counts_as_use(self, store):
        digest = fill_whole(store, package()).digest
        before = store.versions()[0].last_used
        store.lease(digest).close()
        assert store.versions()[0].last_used >= before

    # -- space

    def test_space_is_counted_and_released(self, store):
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

    def test_a_removed_version_with_leases_is_draining(self, store):
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

    def test_a_version_is_in_use_while_it_is_leased_but_not_during_maintenance(self, store):
        digest = fill_whole(store, package()).digest
        with store.open_package(digest):
            assert [version.in_use for version in store.versions()] == [False]
            with store.lease(digest) as one, store.lease(digest):
                one.close()
                one.close()
                assert [version.in_use for version in store.versions()] == [True]
            assert [version.in_use for version in store.versions()] == [False]

    def test_never_fits_differs_from_no_space_now(self, make_store):
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

    def test_a_stream_stops_at_the_limit_and_can_be_committed(self, make_store):
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

    def test_a_parked_fill_is_kept_while_there_is_space(self, make_store):
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
    def test_a_parked_fill_of_a_version_that_was_streamed_is_removed(self, store, when):
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

    def test_a_parked_fill_is_removed_when_its_space_is_needed(self, make_store):
        one, two = package(1), package(2)
        store = make_store(max_bytes=max(len(one), len(two)) + 100)
        fill = store.begin_fill(manifest_of(one))
        chunk = fill.missing()[0]
        fill.write(chunk, one[chunk.offset : chunk.offset + chunk.size])
        fill.close()
        assert store.usage().filling > 0
        fill_whole(store, two)
        assert store.usage().filling == 0
