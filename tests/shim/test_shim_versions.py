"""Which version a file is, and that bytes sent are of that version: real files, real threads."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from blake3 import blake3

from master_shim.errors import PackageChanging, PackageMissing, PackageReplaced, PackageUnreadable
from master_shim.versions import PackageFile, PackageVersions
from store import split_file

if TYPE_CHECKING:
    from store.manifest import Manifest

BACKENDS = ("asyncio", "trio")


def replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(".new")
    fresh.write_bytes(data)
    fresh.rename(path)


async def test_a_version_follows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    versions = PackageVersions()
    with pytest.raises(PackageMissing):
        await versions.current(path)
    for data in (b"one" * 1000, b"two" * 1000):
        replace(path, data)
        version = await versions.current(path)
        assert version.digest == blake3(data).hexdigest()
        assert version.size == len(data)
        assert versions.find(version.digest) == version
    assert versions.find(blake3(b"one" * 1000).hexdigest()) is None
    path.write_bytes(b"six" * 1000)  # in place, same size
    assert versions.find(version.digest) is None
    assert (await versions.current(path)).digest == blake3(b"six" * 1000).hexdigest()
    path.unlink()
    assert versions.find(blake3(b"six" * 1000).hexdigest()) is None
    with pytest.raises(PackageMissing):
        await versions.current(path)


async def test_one_content_in_two_files_is_found_while_one_is_left(tmp_path: Path) -> None:
    a, b = tmp_path / "a.zip", tmp_path / "b.zip"
    replace(a, b"same")
    replace(b, b"same")
    versions = PackageVersions()
    digest = (await versions.current(a)).digest
    await versions.current(b)
    a.unlink()
    found = versions.find(digest)
    assert found is not None
    assert found.path == str(b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_is_read_once_for_all_who_wait_and_again_when_the_reader_is_cancelled(
    tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "m.zip"
    replace(path, b"bytes" * 100)
    started, go_on = threading.Event(), threading.Event()
    calls = []

    def split(name: Path) -> Manifest:
        calls.append(name)
        started.set()
        assert go_on.wait(10)
        return split_file(name)

    async def main() -> None:
        versions = PackageVersions(split)
        found: list[str] = []

        async def look() -> None:
            found.append((await versions.current(path)).digest)

        async with anyio.create_task_group() as group:
            impatient = anyio.CancelScope()

            async def look_and_leave() -> None:
                with impatient:
                    await look()

            group.start_soon(look_and_leave)
            await anyio.to_thread.run_sync(started.wait, 10)
            for _ in range(20):
                group.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            impatient.cancel()
            go_on.set()
        assert set(found) == {blake3(b"bytes" * 100).hexdigest()}
        assert len(found) >= 20
        assert versions._locks == {}

    anyio.run(main, backend=backend)
    assert len(calls) == 1  # what the cancelled one had read was kept


async def test_a_file_that_keeps_changing_is_not_given_a_version(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(b"0")
    count = 0

    def split(name: Path) -> Manifest:
        nonlocal count
        count += 1
        manifest = split_file(name)
        name.write_bytes(b"x" * (count + 1))
        return manifest

    with pytest.raises(PackageChanging):
        await PackageVersions(split).current(path)


async def test_what_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "empty.zip").touch()
    (tmp_path / "folder.zip").mkdir()
    os.mkfifo(tmp_path / "fifo.zip")
    (tmp_path / "loop.zip").symlink_to(tmp_path / "loop.zip")
    versions = PackageVersions()
    with pytest.raises(PackageUnreadable):
        await versions.current(tmp_path / "empty.zip")
    for name in ("folder.zip", "fifo.zip"):
        with pytest.raises(PackageMissing):
            await versions.current(tmp_path / name)
    with pytest.raises(PackageUnreadable):
        await versions.current(tmp_path / "loop.zip")


async def test_what_a_file_makes_of_the_splitter_is_tried_once_and_said_in_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(b"0")
    calls = 0

    def split(name: Path) -> Manifest:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    versions = PackageVersions(split)
    for _ in range(3):
        with pytest.raises(PackageUnreadable):
            await versions.current(path)
    assert calls == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_what_the_disk_refuses_is_tried_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(b"0")
    errors = [OSError(errno.EIO, "Input/output error", str(path))] * 2

    def split(name: Path) -> Manifest:
        if errors:
            raise errors.pop()
        return split_file(name)

    versions = PackageVersions(split)
    for _ in range(2):
        with pytest.raises(PackageUnreadable) as caught:
            await versions.current(path)
        assert str(caught.value) == "The meeting's package cannot be read: Input/output error"
    assert (await versions.current(path)).size == 1
    assert len(caplog.records) == 1


async def test_an_open_package_stays_what_it_was_when_it_is_replaced_by_a_rename(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    replace(path, b"a" * 1000)
    version = await PackageVersions().current(path)
    file = PackageFile(version)
    assert file.read(0, 500) == b"a" * 500
    replace(path, b"b" * 1000)
    assert file.read(500, 500) == b"a" * 500
    file.close()
    with pytest.raises(PackageReplaced):
        PackageFile(version)
    path.unlink()
    with pytest.raises(PackageReplaced):
        PackageFile(version)


async def test_an_open_package_that_is_overwritten_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    replace(path, b"a" * 1000)
    version = await PackageVersions().current(path)
    file = PackageFile(version)
    stat = path.stat()
    with path.open("r+b") as target:
        target.write(b"b" * 600)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even with the old time put back
    with pytest.raises(PackageReplaced):
        file.read(500, 500)
    file.close()


async def test_an_open_package_that_shrinks_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    replace(path, b"a" * 1000)
    file = PackageFile(await PackageVersions().current(path))
    os.truncate(path, 100)
    with pytest.raises(PackageReplaced):
        file.read(500, 500)
    file.close()


async def test_manifests_beyond_the_limit_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from master_shim import versions as module

    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", 1)
    versions = PackageVersions()
    made = {}
    for name in ("a", "b", "c"):
        replace(tmp_path / f"{name}.zip", name.encode() * 5000)
        made[name] = await versions.current(tmp_path / f"{name}.zip")
    assert len(versions._bodies) == 1
    for name, version in made.items():
        assert (await versions.manifest(version)).plain == split_file(tmp_path / f"{name}.zip").to_json()
    replace(tmp_path / "a.zip", b"other")
    with pytest.raises(PackageReplaced):
        await versions.manifest(made["a"])


async def test_no_more_versions_are_remembered_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from master_shim import versions as module

    monkeypatch.setattr(module, "MAX_VERSIONS", 2)
    versions = PackageVersions()
    for name in ("a", "b", "c"):
        replace(tmp_path / name, name.encode())
        await versions.current(tmp_path / name)
    assert len(versions._current) == len(versions._paths) == 2
