from __future__ import annotations

import logging
import os

import pytest

from store import (
    FillBusy,
    Ref,
    Store,
    UnknownFormat,
    VersionMissing,
)
from store.filesystem import FileSystem
from tests.store.helpers import (
    ABSENT,
    half_filled,
    names,
)
from tests.store.samples import (
    fill_whole,
    package,
)

# -- the format


@pytest.mark.parametrize("text", ["trionode storage 0\n", "trionode storage 2\n", "", "\xff", "something else"])
def test_an_unknown_format_is_refused_and_nothing_is_changed(folder, text):
    folder.mkdir()
    (folder / "format").write_text(text, "latin-1")
    with pytest.raises(UnknownFormat, match="trionode storage 1"):
        Store.open(folder)
    assert [path.name for path in folder.iterdir()] == ["format"]


def test_opening_reads_no_package(store, folder):
    digest = fill_whole(store, package()).digest
    store.close()

    class Unreadable(FileSystem):
        def read_into(self, fd, view, offset):
            raise AssertionError

    with Store.open(folder, fs=Unreadable()) as again:
        assert again.holds(digest)


# -- packages and manifests


def test_a_package_without_its_manifest_is_hashed_and_kept(store, folder, caplog):
    data = package()
    manifest = fill_whole(store, data)
    store.set_ref(Ref("m", manifest.digest))
    store.close()
    (folder / "packages" / f"{manifest.digest}.json").unlink()
    with Store.open(folder) as again:
        assert again.manifest(manifest.digest) == manifest
        assert again.ref("m") is not None
        with again.lease(manifest.digest) as lease:
            assert lease.trusted
    assert (folder / "packages" / f"{manifest.digest}.json").read_bytes() == manifest.to_json()
    assert "manifest made again" in caplog.text


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data[::-1]])
def test_a_package_without_the_digest_in_its_name_is_removed(store, folder, change):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    store.close()
    (folder / "packages" / f"{digest}.json").unlink()
    path = folder / "packages" / f"{digest}.zip"
    path.write_bytes(change(path.read_bytes()))
    with Store.open(folder) as again:
        assert not again.holds(digest)
        assert again.refs() == ()
        assert again.usage().stored == 0
    assert names(folder, "packages") == names(folder, "meetings") == []


def test_a_manifest_without_its_package_is_removed(store, folder):
    digest = fill_whole(store, package()).digest
    store.close()
    (folder / "packages" / f"{digest}.zip").unlink()
    with Store.open(folder) as again:
        assert not again.holds(digest)
    assert names(folder, "packages") == []


def test_other_files_are_left_alone(store, folder):
    store.close()
    ours = ["packages/notes.txt", "incoming/notes", "meetings/README", "packages/" + "A" * 64 + ".zip"]
    for name in ours:
        (folder / name).write_bytes(b"x")
    Store.open(folder).close()
    assert all((folder / name).exists() for name in ours)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"\0" * len(data), lambda data: b"{}"])
def test_a_damaged_manifest_is_made_again(store, folder, damage):
    manifest = fill_whole(store, package())
    store.close()
    path = folder / "packages" / f"{manifest.digest}.json"
    path.write_bytes(damage(path.read_bytes()))
    with Store.open(folder) as again:
        assert again.find(manifest.chunks[0].digest) is None
        assert again.manifest(manifest.digest) == manifest
        assert again.find(manifest.chunks[0].digest) is not None
    assert path.read_bytes() == manifest.to_json()


def test_a_damaged_package_with_a_damaged_manifest_is_removed(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    store.close()
    (folder / "packages" / f"{digest}.json").write_bytes(b"")
    (folder / "packages" / f"{digest}.zip").write_bytes(b"")
    with Store.open(folder) as again:
        with pytest.raises(VersionMissing):
            again.manifest(digest)
        assert not again.holds(digest)
        assert again.refs() == ()


# -- refs


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
def test_a_ref_that_does_not_parse_is_renamed(store, folder, caplog, data):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("sound", digest))
    store.close()
    (folder / "meetings" / "m.json").write_bytes(data)
    with Store.open(folder) as again:
        assert [ref.meeting_id for ref in again.refs()] == ["sound"]
        again.set_ref(Ref("m", digest))
    assert (folder / "meetings" / "m.json.bad").read_bytes() == data
    assert "m.json.bad" in caplog.text
    with Store.open(folder) as again:
        assert again.ref("m") == Ref("m", digest)


def test_a_ref_to_a_missing_version_is_removed(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("m", digest))
    store.close()
    for path in (folder / "packages").iterdir():
        path.unlink()
    with Store.open(folder) as again:
        assert again.refs() == ()
    assert names(folder, "meetings") == []


def test_the_id_inside_a_ref_counts(store, folder):
    digest = fill_whole(store, package()).digest
    store.set_ref(Ref("right", digest))
    store.close()
    (folder / "meetings" / "right.json").rename(folder / "meetings" / "wrong.json")
    with Store.open(folder) as again:
        assert again.refs() == (Ref("right", digest),)
    assert names(folder, "meetings") == ["right.json"]


# -- incoming


def test_files_left_by_a_crash_are_removed_and_fills_are_kept(store, folder):
    data = package()
    fill, _, rest = half_filled(store, data)
    fill.close()
    store.close()
    incoming = folder / "incoming"
    for name in ("x.tmp", "0" * 64 + ".stream", "2" * 64 + ".part"):
        (incoming / name).write_bytes(b"")
    old = incoming / ("3" * 64 + ".part")
    old.write_bytes(b"x")
    os.utime(old, (1, 1))
    ahead = incoming / ("4" * 64 + ".part")
    ahead.write_bytes(b"x")
    os.utime(ahead, (1e10, 1e10))
    with Store.open(folder) as again:
        assert names(folder, "incoming") == [f"{fill.manifest.digest}.part"]
        assert again.usage().filling == len(data)
        fill = again.begin_fill(fill.manifest)
        assert list(fill.missing()) == rest
        assert again.usage().filling == len(data)
        fill.discard()
        assert again.usage().filling == 0
    assert names(folder, "incoming") == []


def test_locked_files_are_not_removed(store, folder):
    data = package()
    fill, _, rest = half_filled(store, data)
    stream = store.begin_stream("m")
    stream.append(data)
    with Store.open(folder) as other:
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


def test_nothing_is_logged_for_an_intact_folder(folder, caplog):
    with caplog.at_level(logging.DEBUG, "store"), Store.open(folder) as store:
        store.set_ref(Ref("m", fill_whole(store, package()).digest))
        store.find(ABSENT)
    with Store.open(folder) as store:
        store.find(ABSENT)
    assert caplog.text == ""
