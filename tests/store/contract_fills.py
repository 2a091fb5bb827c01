"""What every store does while a package is filled; see `contract`."""

from __future__ import annotations

import os
import random
import threading

import pytest

from store import (
    Chunk,
    ChunkMismatch,
    FillBusy,
    Manifest,
    PackageCorrupt,
    VersionMissing,
    VersionPresent,
)
from tests.store.helpers import ABSENT, read_all
from tests.store.samples import (
    documents,
    fill_whole,
    make_zip,
    manifest_of,
    package,
)


class FillContract:
    def test_a_filled_package_is_stored_with_its_bytes(self, store):
        data = package()
        manifest = manifest_of(data)
        fill = store.begin_fill(manifest)
        assert fill.manifest == manifest
        assert list(fill.missing()) == list(manifest.chunks)
        for chunk in fill.missing():
            assert not store.holds(manifest.digest)
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        assert fill.missing() == ()
        assert fill.covered(0) == fill.size == len(data)
        assert not store.holds(manifest.digest)
        fill.commit()
        assert store.holds(manifest.digest)
        assert store.manifest(manifest.digest) == manifest
        assert [(v.digest, v.size) for v in store.versions()] == [(manifest.digest, len(data))]
        with store.lease(manifest.digest) as lease:
            assert lease.digest == manifest.digest
            assert lease.size == len(data)
            assert lease.trusted
            assert read_all(lease, len(data)) == data
        fill.close()

    def test_a_version_that_is_not_stored_is_missing(self, store):
        assert not store.holds(ABSENT)
        assert store.find(ABSENT) is None
        for call in (store.manifest, store.lease, store.verify):
            with pytest.raises(VersionMissing) as caught:
                call(ABSENT)
            assert caught.value.digest == ABSENT
        store.remove(ABSENT)

    def test_a_stored_version_is_not_filled_again(self, store):
        manifest = fill_whole(store, package())
        with pytest.raises(VersionPresent):
            store.begin_fill(manifest)

    def test_one_fill_of_a_version_at_a_time(self, store):
        manifest = manifest_of(package())
        fill = store.begin_fill(manifest)
        with pytest.raises(FillBusy):
            store.begin_fill(manifest)
        fill.discard()
        store.begin_fill(manifest).discard()

    def test_wrong_bytes_are_refused_and_nothing_is_written(self, store):
        data = package()
        fill = store.begin_fill(manifest_of(data))
        chunk = fill.missing()[1]
        right = data[chunk.offset : chunk.offset + chunk.size]
        flipped = bytes([right[0] ^ 1]) + right[1:]
        for wrong in (flipped, right[:-1], right + b"x", b""):
            with pytest.raises(ChunkMismatch) as caught:
                fill.write(chunk, wrong)
            assert caught.value.chunk == chunk
            assert caught.value.got_size == len(wrong)
        assert chunk in fill.missing()
        assert fill.covered(chunk.offset) == 0
        assert os.pread(fill.fileno(), chunk.size, chunk.offset) != flipped
        fill.write(chunk, memoryview(right))
        fill.write(chunk, b"it is there already, so this is not looked at")
        assert fill.covered(chunk.offset) >= chunk.size
        fill.discard()

    def test_a_chunk_of_another_package_is_refused(self, store):
        fill = store.begin_fill(manifest_of(package()))
        first = fill.missing()[0]
        with pytest.raises(ValueError):
            fill.write(Chunk(first.offset + 1, first.size, first.digest), b"")
        with pytest.raises(ValueError):
            fill.write(Chunk(10**9, 1, first.digest), b"x")
        fill.discard()

    def test_covered_bytes_can_be_read(self, store):
        data = package(count=12)
        manifest = manifest_of(data)
        fill = store.begin_fill(manifest)
        order = list(fill.missing())
        random.Random(3).shuffle(order)
        there = bytearray(len(data))
        for piece in manifest.pieces:
            if not isinstance(piece, Chunk):
                there[piece.offset : piece.offset + piece.size] = b"\1" * piece.size
        for chunk in order:
            for offset in {0, chunk.offset - 1, chunk.offset, chunk.offset + 1, len(data) - 1, len(data)}:
                run = fill.covered(offset)
                assert run == (there.find(b"\0", offset) if b"\0" in there[offset:] else len(data)) - offset
                assert os.pread(fill.fileno(), run, offset) == data[offset : offset + run]
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
            there[chunk.offset : chunk.offset + chunk.size] = b"\1" * chunk.size
        assert fill.covered(0) == len(data)
        assert fill.covered(len(data) + 5) == 0
        fill.discard()

    def test_chunks_written_by_several_threads_while_others_read(self, store):
        data = package(count=40)
        fill = store.begin_fill(manifest_of(data))
        chunks = list(fill.missing())
        wrong: list[int] = []
        done = threading.Event()

        def follow() -> None:
            at = 0
            while at < len(data):
                run = fill.covered(at)
                if run and os.pread(fill.fileno(), run, at) != data[at : at + run]:
                    wrong.append(at)
                at += run
                if not run and done.is_set() and not fill.covered(at):
                    return

        def write(mine: list[Chunk]) -> None:
            for chunk in mine:
                fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])

        readers = [threading.Thread(target=follow) for _ in range(3)]
        writers = [threading.Thread(target=write, args=(chunks[n::4],)) for n in range(4)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert wrong == []
        fill.commit()
        fill.close()

    def test_an_incomplete_fill_is_not_committed(self, store):
        data = package()
        manifest = manifest_of(data)
        fill = store.begin_fill(manifest)
        first, *rest = fill.missing()
        fill.write(first, data[first.offset : first.offset + first.size])
        with pytest.raises(PackageCorrupt) as caught:
            fill.commit()
        assert caught.value.bad == tuple(rest)
        fill.close()
        assert not store.holds(manifest.digest)
        assert store.usage().filling == 0
        fill_whole(store, data)

    def test_a_manifest_with_a_wrong_digest_is_not_committed(self, store):
        data = package()
        true = manifest_of(data)
        manifest = Manifest(ABSENT, true.size, true.pieces)
        fill = store.begin_fill(manifest)
        for chunk in fill.missing():
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        with pytest.raises(PackageCorrupt) as caught:
            fill.commit()
        assert caught.value.bad == ()
        fill.discard()
        assert not store.holds(ABSENT)
        assert list(store.versions()) == []

    def test_a_closed_fill_is_resumed_and_a_discarded_one_is_not(self, store):
        data = package()
        manifest = manifest_of(data)
        fill = store.begin_fill(manifest)
        first, *rest = fill.missing()
        fill.write(first, data[first.offset : first.offset + first.size])
        fill.close()
        fill.close()
        fill = store.begin_fill(manifest)
        assert list(fill.missing()) == rest
        fill.discard()
        fill.discard()
        fill = store.begin_fill(manifest)
        assert list(fill.missing()) == [first, *rest]
        fill.close()

    def test_an_ended_fill_raises(self, store):
        manifest = manifest_of(package())
        fill = store.begin_fill(manifest)
        chunk = fill.missing()[0]
        fill.close()
        for call in (fill.fileno, fill.missing, fill.commit, lambda: fill.covered(0), lambda: fill.write(chunk, b"")):
            with pytest.raises(ValueError):
                call()

    def test_followers_read_on_after_the_commit(self, store):
        data = package()
        fill = store.begin_fill(manifest_of(data))
        for chunk in fill.missing():
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fill.commit()
        store.remove(fill.manifest.digest)
        assert fill.covered(0) == len(data)
        assert read_all(fill, len(data)) == data
        with pytest.raises(ValueError):
            fill.commit()
        with pytest.raises(ValueError):
            fill.write(fill.manifest.chunks[0], b"")
        fill.close()
        with pytest.raises(ValueError):
            fill.fileno()

    def test_stored_chunks_are_not_missing(self, store):
        members = documents(6, 30_000)
        old = make_zip(members, minute=1)
        members["document-3.pdf"] = random.Random(9).randbytes(30_000)
        new = make_zip(members, minute=2)
        fill_whole(store, old)
        fill = store.begin_fill(manifest_of(new))
        missing = fill.missing()
        assert [chunk.size for chunk in missing] == [30_000]
        fill.write(missing[0], new[missing[0].offset : missing[0].offset + missing[0].size])
        fill.commit()
        fill.close()
        with store.lease(manifest_of(new).digest) as lease:
            assert read_all(lease, len(new)) == new

    def test_a_chunk_that_occurs_several_times_is_written_once(self, store):
        body = random.Random(1).randbytes(20_000)
        data = make_zip({"a": body, "b": body, "c": body})
        fill = store.begin_fill(manifest_of(data))
        assert len(fill.missing()) == 3
        fill.write(fill.missing()[1], body)
        assert fill.missing() == ()
        fill.commit()
        fill.close()
