from __future__ import annotations

import errno
import json
import os
import threading
import time
from dataclasses import replace

import pytest

from store import (
    Chunk,
    DiskStore,
    FillBusy,
    Manifest,
    PackageCorrupt,
    Ref,
    UnknownFormat,
    VersionMissing,
    VersionPresent,
)
from store.filesystem import FileSystem
from store.leases import IDLE_DESCRIPTORS
from store.testing import FaultyFileSystem
from tests.store.helpers import ABSENT, HOSTILE_IDS, descriptors, flip, half_filled, heal, names, read_all
from tests.store.samples import documents, fill_whole, make_zip, manifest_of, package, stream_whole


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def store(folder):
    with DiskStore.open(folder) as opened:
        yield opened


# -- layout


def test_the_folder_is_as_the_design_says(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    store.set_ref(Ref("a/b", manifest.digest, title="题目", switched_at=5.0))
    assert sorted(path.name for path in folder.iterdir()) == ["format", "incoming", "meetings", "packages"]
    assert (folder / "format").read_text() == "trionode storage 1\n"
    assert names(folder, "packages") == [f"{manifest.digest}.json", f"{manifest.digest}.zip"]
    assert (folder / "packages" / f"{manifest.digest}.zip").read_bytes() == data
    assert (folder / "packages" / f"{manifest.digest}.json").read_bytes() == manifest.to_json()
    assert names(folder, "incoming") == []
    assert json.loads((folder / "meetings" / "a%2Fb.json").read_bytes()) == {
        "meeting_id": "a/b",
        "digest": manifest.digest,
        "title": "题目",
        "in_progress": True,
        "pinned": False,
        "switched_at": 5.0,
        "ended_at": 0.0,
    }


def test_everything_is_there_after_opening_again(store, folder):
    one, two = fill_whole(store, package(1)), stream_whole(store, "m", package(2))
    refs = [Ref(meeting, one.digest, title=str(n)) for n, meeting in enumerate(HOSTILE_IDS)]
    for ref in refs:
        store.set_ref(ref)
    store.close()
    with DiskStore.open(folder) as again:
        assert sorted(again.refs(), key=lambda ref: int(ref.title)) == refs
        assert {v.digest for v in again.versions()} == {one.digest, two.digest}
        assert again.manifest(two.digest) == two
        assert again.usage().stored == one.size + two.size
        assert again.usage().filling == 0
        for ref in refs:
            again.drop_ref(ref.meeting_id)
    assert names(folder, "meetings") == []


@pytest.mark.parametrize("text", ["trionode storage 0\n", "trionode storage 2\n", "", "\xff", "something else"])
def test_another_format_is_refused_in_words_and_left_alone(folder, text):
    folder.mkdir()
    (folder / "format").write_text(text, "latin-1")
    with pytest.raises(UnknownFormat, match="trionode storage 1"):
        DiskStore.open(folder)
    assert [path.name for path in folder.iterdir()] == ["format"]


def test_opening_reads_no_package(store, folder):
    digest = fill_whole(store, package()).digest
    store.close()

    class Unreadable(FileSystem):
        def read_into(self, fd, view, offset):
            raise AssertionError

    with DiskStore.open(folder, fs=Unreadable()) as again:
        assert again.holds(digest)


# -- recovery


def test_a_package_without_its_manifest_is_hashed_and_kept(store, folder, caplog):
    data = package()
    manifest = fill_whole(store, data)
    store.set_ref(Ref("m", manifest.digest))
    store.close()
    (folder / "packages" / f"{manifest.digest}.json").unlink()
    with DiskStore.open(folder) as again:
        assert again.manifest(manifest.digest) == manifest
        assert again.ref("m") is not None
        with again.lease(manifest.digest) as lease:
            assert lease.trusted
    assert (folder / "packages" / f"{manifest.digest}.json").read_bytes() == manifest.to_json()
    assert "manifest made again" in caplog.text


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data[::-1]])
def test_a_package_that_is_not_what_its_name_says_is_dropped(store, folder, change):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    store.close()
    (folder / "packages" / f"{digest}.json").unlink()
    path = folder / "packages" / f"{digest}.zip"
    path.write_bytes(change(path.read_bytes()))
    with DiskStore.open(folder) as again:
        assert not again.holds(digest)
        assert again.refs() == ()
        assert again.usage().stored == 0
    assert names(folder, "packages") == names(folder, "meetings") == []


def test_a_manifest_without_its_package_is_removed(store, folder):
    digest = fill_whole(store, package()).digest
    store.close()
    (folder / "packages" / f"{digest}.zip").unlink()
    with DiskStore.open(folder) as again:
        assert not again.holds(digest)
    assert names(folder, "packages") == []


def test_files_of_others_are_left_alone(store, folder):
    store.close()
    ours = ["packages/notes.txt", "incoming/notes", "meetings/README", "packages/" + "A" * 64 + ".zip"]
    for name in ours:
        (folder / name).write_bytes(b"x")
    DiskStore.open(folder).close()
    assert all((folder / name).exists() for name in ours)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"\0" * len(data), lambda data: b"{}"])
def test_a_damaged_manifest_is_made_again(store, folder, damage):
    manifest = fill_whole(store, package())
    store.close()
    path = folder / "packages" / f"{manifest.digest}.json"
    path.write_bytes(damage(path.read_bytes()))
    with DiskStore.open(folder) as again:
        assert again.find(manifest.chunks[0].digest) is None
        assert again.manifest(manifest.digest) == manifest
        assert again.find(manifest.chunks[0].digest) is not None
    assert path.read_bytes() == manifest.to_json()


def test_a_damaged_manifest_of_a_damaged_package_takes_it_away(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    store.close()
    (folder / "packages" / f"{digest}.json").write_bytes(b"")
    (folder / "packages" / f"{digest}.zip").write_bytes(b"")
    with DiskStore.open(folder) as again:
        with pytest.raises(VersionMissing):
            again.manifest(digest)
        assert not again.holds(digest)
        assert again.refs() == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"meeting_id": 1, "digest": "%s"}' % ABSENT.encode(),
        b'{"meeting_id":"m","digest":"x"}',
        b"[" * 99_999,
    ],
)
def test_a_ref_that_does_not_parse_is_put_aside(store, folder, caplog, data):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("sound", digest))
    store.close()
    (folder / "meetings" / "m.json").write_bytes(data)
    with DiskStore.open(folder) as again:
        assert [ref.meeting_id for ref in again.refs()] == ["sound"]
        again.set_ref(Ref("m", digest))
    assert (folder / "meetings" / "m.json.bad").read_bytes() == data
    assert "put aside" in caplog.text
    with DiskStore.open(folder) as again:
        assert again.ref("m") == Ref("m", digest)


def test_a_ref_to_a_version_that_is_gone_is_dropped(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    store.close()
    for path in (folder / "packages").iterdir():
        path.unlink()
    with DiskStore.open(folder) as again:
        assert again.refs() == ()
    assert names(folder, "meetings") == []


def test_no_change_of_a_ref_is_lost_between_processes(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest, title="0"))
    stores = [store, DiskStore.open(folder)]  # which share nothing but the folder, like two processes

    def count(one: DiskStore) -> None:
        for _ in range(20):
            one.change_ref("m", lambda ref: replace(ref, title=str(int(ref.title) + 1)))

    threads = [threading.Thread(target=count, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with DiskStore.open(folder) as opened:
        assert opened.ref("m") == Ref("m", digest, title="40")
    stores[1].close()


def test_a_change_knows_what_another_process_has_stored_and_written(store, folder):
    with DiskStore.open(folder) as other:
        digest = fill_whole(other, package()).digest
        other.set_ref(Ref("m", digest, pinned=True))
    assert store.ref("m") is None
    changed = store.change_ref("m", lambda ref: replace(ref, title="t"))
    assert changed == store.ref("m") == Ref("m", digest, "t", pinned=True)
    assert store.holds(digest)


def test_the_id_inside_a_ref_decides(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("right", digest))
    store.close()
    (folder / "meetings" / "right.json").rename(folder / "meetings" / "wrong.json")
    with DiskStore.open(folder) as again:
        assert again.refs() == (Ref("right", digest),)
    assert names(folder, "meetings") == ["right.json"]


def test_what_a_crash_left_in_incoming_is_removed_and_fills_are_kept(store, folder):
    data = package()
    fill, _, rest = half_filled(store, data)
    fill.close()
    store.close()
    incoming = folder / "incoming"
    for name in ("x.tmp", "0" * 64 + ".stream", "1" * 64 + ".map", "2" * 64 + ".part"):
        (incoming / name).write_bytes(b"")
    old = incoming / ("3" * 64 + ".part")
    old.write_bytes(b"x")
    os.utime(old, (1, 1))
    with DiskStore.open(folder) as again:
        assert names(folder, "incoming") == sorted(f"{fill.manifest.digest}.{end}" for end in ("map", "part"))
        assert again.usage().filling == len(data)
        fill = again.begin_fill(fill.manifest)
        assert list(fill.missing()) == rest
        assert again.usage().filling == len(data)
        fill.discard()
        assert again.usage().filling == 0
    assert names(folder, "incoming") == []


def test_what_is_locked_is_not_swept_away(store, folder):
    data = package()
    fill, _, rest = half_filled(store, data)
    stream = store.begin_stream("m")
    stream.append(data)
    with DiskStore.open(folder) as other:
        with pytest.raises(FillBusy):
            other.begin_fill(fill.manifest)
        with pytest.raises(FillBusy):
            other.begin_stream("m")
    manifest = stream.commit()
    stream.close()
    assert manifest == fill.manifest
    for chunk in rest:
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
    fill.commit()
    fill.close()
    assert names(folder, "incoming") == []
    assert store.usage().filling == 0
    assert store.usage().stored == len(data)


def test_a_resumed_fill_believes_bytes_and_not_its_map(store, folder):
    data = package()
    fill, _, rest = half_filled(store, data)
    for chunk in rest:
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
    fill.close()
    with (folder / "incoming" / f"{fill.manifest.digest}.part").open("r+b") as file:
        file.seek(rest[1].offset)
        file.write(b"torn")
    fill = store.begin_fill(fill.manifest)
    assert list(fill.missing()) == [rest[1]]
    fill.close()
    with (folder / "incoming" / f"{fill.manifest.digest}.part").open("r+b") as file:
        file.truncate(1000)
    assert len(store.begin_fill(fill.manifest).missing()) == len(rest) + 1


def test_the_map_says_what_is_verified(store, folder):
    fill, _, rest = half_filled(store, package())
    head, marks, manifest = (folder / "incoming" / f"{fill.manifest.digest}.map").read_bytes().split(b"\n")
    assert head == f"trionode map 2 {len(rest) + 1}".encode()
    assert marks == b"1" + b"0" * len(rest)
    assert manifest == fill.manifest.to_json()
    fill.discard()


# -- other processes (here: other stores on the folder)


def test_what_another_store_commits_is_seen(store, folder):
    data = package()
    with DiskStore.open(folder) as other:
        manifest = fill_whole(other, data)
        other.set_ref(Ref("m", manifest.digest))
        assert not store.holds(manifest.digest)
        with pytest.raises(VersionPresent):
            store.begin_fill(manifest)
        assert store.holds(manifest.digest)
        assert store.ref("m") is None
        store.refresh()
        assert store.ref("m") is not None
        other.remove(manifest.digest)
        with pytest.raises(VersionMissing):
            store.lease(manifest.digest)
        store.refresh()
        assert not store.holds(manifest.digest)
        assert store.usage().stored == 0
        assert store.refs() == ()


def test_refreshing_while_filling_harms_nothing(store):
    data = package()
    fill, _, rest = half_filled(store, data)
    store.refresh()
    assert store.usage().filling == len(data)
    for chunk in rest:
        fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
    fill.commit()
    fill.close()
    assert store.usage().filling == 0


# -- trust


def test_a_package_is_trusted_only_once_this_process_verified_it(store, folder):
    digest = fill_whole(store, package()).digest
    store.close()
    with DiskStore.open(folder) as again:
        with again.lease(digest) as lease:
            assert not lease.trusted
            again.verify(digest)
            assert lease.trusted
        with again.lease(digest) as lease:
            assert lease.trusted


def test_flipped_bytes_end_the_trust_and_are_found(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    bad = manifest.chunks[2]
    lease = store.lease(manifest.digest)
    path = folder / "packages" / f"{manifest.digest}.zip"
    with path.open("r+b") as file:
        file.seek(bad.offset)
        file.write(bytes([data[bad.offset] ^ 1]))
    assert not lease.trusted
    with pytest.raises(PackageCorrupt) as caught:
        store.verify(manifest.digest)
    assert caught.value.bad == (bad,)
    assert not lease.trusted
    assert store.holds(manifest.digest)
    with path.open("r+b") as file:
        file.seek(bad.offset)
        file.write(bytes([data[bad.offset]]))
    store.verify(manifest.digest)
    assert lease.trusted
    lease.close()


def test_flipped_bytes_with_the_time_put_back_end_the_trust_too(store, folder):
    manifest = fill_whole(store, package())
    path = folder / "packages" / f"{manifest.digest}.zip"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with store.lease(manifest.digest) as lease:
        assert not lease.trusted


@pytest.mark.parametrize("size", [0, 1, 50_000])
def test_a_package_cut_short_is_found_corrupt(store, folder, size):
    manifest = fill_whole(store, package())
    os.truncate(folder / "packages" / f"{manifest.digest}.zip", size)
    with pytest.raises(PackageCorrupt) as caught:
        store.verify(manifest.digest)
    assert caught.value.bad == tuple(c for c in manifest.chunks if c.offset + c.size > size)


def test_bad_bytes_of_another_package_are_not_taken(store, folder):
    members = documents(3, 20_000)
    old, new = make_zip(members, minute=1), make_zip(members, minute=2)
    manifest = fill_whole(store, old)
    with (folder / "packages" / f"{manifest.digest}.zip").open("r+b") as file:
        file.seek(manifest.chunks[1].offset)
        file.write(b"rotten")
    fill = store.begin_fill(manifest_of(new))
    assert [chunk.digest for chunk in fill.missing()] == [manifest.chunks[1].digest]
    fill.discard()


def test_an_unreadable_package_is_not_taken_from(folder):
    fs = FaultyFileSystem()
    members = documents(3, 20_000)
    with DiskStore.open(folder, fs=fs) as store:
        fill_whole(store, make_zip(members, minute=1))
        fs.fail("copy_range", code=errno.EIO)
        fill = store.begin_fill(manifest_of(make_zip(members, minute=2)))
        assert len(fill.missing()) == 3
        fill.discard()


def test_a_file_of_another_length_is_repaired(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    path = folder / "packages" / f"{manifest.digest}.zip"
    path.write_bytes(data + b"more")
    with pytest.raises(PackageCorrupt):
        store.verify(manifest.digest)
    first = manifest.pieces[0]
    assert store.repair(manifest.digest, first, data[: first.size])
    assert path.read_bytes() == data
    path.write_bytes(data[:30_000])
    assert heal(store, manifest.digest, data) == [p for p in manifest.pieces if p.offset + p.size > 30_000]
    assert path.read_bytes() == data
    store.verify(manifest.digest)


@pytest.mark.parametrize("how", ["verify", "scan"])
def test_a_manifest_that_calls_right_bytes_bad_is_made_again(store, folder, how):
    data = package()
    manifest = fill_whole(store, data)
    store.close()
    lies = [Chunk(p.offset, p.size, ABSENT) if p == manifest.chunks[1] else p for p in manifest.pieces]
    path = folder / "packages" / f"{manifest.digest}.json"
    path.write_bytes(Manifest(manifest.digest, manifest.size, tuple(lies)).to_json())
    with DiskStore.open(folder) as again:
        if how == "verify":
            again.verify(manifest.digest)
        else:
            assert [step.bad for step in again.scan(manifest.digest) if step.bad is not None] == [lies[3]]
        assert again.manifest(manifest.digest) == manifest
        with again.lease(manifest.digest) as lease:
            assert lease.trusted
    assert path.read_bytes() == manifest.to_json()


@pytest.mark.parametrize("call", ["open_to_write", "write_at", "sync"])
def test_a_repair_that_fails_can_be_made_again(folder, call):
    data = package()
    fs = FaultyFileSystem()
    with DiskStore.open(folder, fs=fs) as store:
        manifest = fill_whole(store, data)
        chunk = manifest.chunks[2]
        right = data[chunk.offset : chunk.offset + chunk.size]
        before = descriptors()
        with store.lease(manifest.digest) as lease:
            flip(lease, chunk.offset)
            fs.fail(call, code=errno.EIO, once=True)
            with pytest.raises(OSError):
                store.repair(manifest.digest, chunk, right)
            assert not lease.trusted
            fs.mend()
            assert store.repair(manifest.digest, chunk, right)
            assert lease.trusted
        assert descriptors() <= before + 1


def test_a_removed_package_is_not_repaired(store, folder):
    data = package()
    manifest = fill_whole(store, data)
    (folder / "packages" / f"{manifest.digest}.zip").unlink()
    first = manifest.pieces[0]
    with pytest.raises(VersionMissing):
        store.repair(manifest.digest, first, data[: first.size])
    assert names(folder, "packages") == [f"{manifest.digest}.json"]


# -- leases


def test_leases_share_a_descriptor_and_idle_ones_are_bounded(store):
    before = descriptors()
    digests = [fill_whole(store, package(n, count=1, size=200)).digest for n in range(IDLE_DESCRIPTORS + 6)]
    assert descriptors() == before
    leases = [store.lease(digests[0]) for _ in range(10)]
    assert len({lease.fileno() for lease in leases}) == 1
    assert descriptors() == before + 1
    for lease in leases:
        lease.close()
    for digest in digests:
        with store.lease(digest) as lease:
            assert lease.trusted
    assert descriptors() == before + IDLE_DESCRIPTORS
    for digest in digests:
        store.remove(digest)
    assert descriptors() == before


def test_the_last_use_is_written_once_in_a_while(store, folder):
    digest = fill_whole(store, package()).digest
    manifest = folder / "packages" / f"{digest}.json"
    store.close()
    os.utime(manifest, (1000, 1000))
    with DiskStore.open(folder) as again:
        assert again.versions()[0].last_used == 1000
        again.open_package(digest).close()
        assert manifest.stat().st_mtime == 1000
        again.lease(digest).close()
        used = manifest.stat().st_mtime_ns
        assert used > time.time_ns() - 60e9
        again.lease(digest).close()
        assert manifest.stat().st_mtime_ns == used


def test_leases_from_many_threads_while_the_version_comes_and_goes(store):
    data = package(count=1)
    digest = manifest_of(data).digest
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                with store.lease(digest) as lease:
                    if read_all(lease, lease.size) != data:
                        wrong.append("bytes")
            except VersionMissing:
                pass

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        fill_whole(store, data)
        store.remove(digest)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
