"""The current version of each package file: real files, real threads."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from blake3 import blake3

from master_shim import DirectoryPackages, MasterShim
from master_shim.errors import PackageChanging, PackageMissing, PackageReplaced, PackageUnreadable
from master_shim.packages import versions as module
from master_shim.packages.versions import PackageVersions
from store import split_file
from store.manifest import Manifest
from tests.support.shim_app import API, client_of, heartbeat, put

if TYPE_CHECKING:
    pass

EMPTY = "a package has 1 to 9007199254740991 bytes, not 0"
BACKENDS = ("asyncio", "trio")


async def test_a_version_follows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    versions = PackageVersions()
    with pytest.raises(PackageMissing):
        await versions.current(path)
    for data in (b"one" * 1000, b"two" * 1000):
        put(tmp_path, "m.zip", data)
        version = await versions.current(path)
        assert version.digest == blake3(data).hexdigest()
        assert version.size == len(data)
        assert versions.find(version.digest) == version
    assert versions.find(blake3(b"one" * 1000).hexdigest()) is None
    path.write_bytes(b"six" * 1000)  # in place, same size
    assert versions.find(version.digest) is None
    path.unlink()
    assert versions.find(version.digest) is None
    with pytest.raises(PackageMissing):
        await versions.current(path)


async def test_a_version_in_two_files_is_found_while_one_remains(tmp_path: Path) -> None:
    a, b = tmp_path / "a.zip", tmp_path / "b.zip"
    put(tmp_path, "a.zip", b"same")
    put(tmp_path, "b.zip", b"same")
    versions = PackageVersions()
    digest = (await versions.current(a)).digest
    await versions.current(b)
    a.unlink()
    found = versions.find(digest)
    assert found is not None
    assert found.path == str(b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_is_read_once_for_all_callers_although_the_first_is_cancelled(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "m.zip"
    put(tmp_path, "m.zip", b"bytes" * 100)
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

        async def request() -> None:
            found.append((await versions.current(path)).digest)

        async with anyio.create_task_group() as group:
            cancelled = anyio.CancelScope()

            async def request_and_cancel() -> None:
                with cancelled:
                    await request()

            group.start_soon(request_and_cancel)
            await anyio.to_thread.run_sync(started.wait, 10)
            for _ in range(20):
                group.start_soon(request)
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel()
            go_on.set()
        assert set(found) == {blake3(b"bytes" * 100).hexdigest()}
        assert len(found) >= 20
        assert versions._locks == {}

    anyio.run(main, backend=backend)
    assert len(calls) == 1  # the result of the cancelled caller was kept


async def test_a_file_that_keeps_changing_has_no_version(tmp_path: Path) -> None:
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


async def test_unreadable_and_missing_files(tmp_path: Path) -> None:
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


async def test_a_fault_of_the_splitter_is_logged_with_its_traceback_and_not_repeated(
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


async def test_a_system_error_is_retried_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_manifests_beyond_the_limit_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", 1)
    versions = PackageVersions()
    made = {}
    for name in ("a", "b", "c"):
        put(tmp_path, f"{name}.zip", name.encode() * 5000)
        made[name] = await versions.current(tmp_path / f"{name}.zip")
    assert len(versions._bodies) == 1
    for name, version in made.items():
        assert (await versions.manifest(version)).plain == split_file(tmp_path / f"{name}.zip").to_json()
    put(tmp_path, "a.zip", b"other")
    with pytest.raises(PackageReplaced):
        await versions.manifest(made["a"])


async def test_the_number_of_remembered_versions_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERSIONS", 2)
    versions = PackageVersions()
    for name in ("a", "b", "c"):
        put(tmp_path, name, name.encode())
        await versions.current(tmp_path / name)
    assert len(versions._current) == len(versions._paths) == 2


async def test_an_unreadable_package_is_logged_once_for_each_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.zip").touch()

    def lines() -> list[str]:
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        return [f"{record.message}{record.exc_text or ''}" for record in errors]

    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        for _ in range(3):
            assert (await client.get(f"{API}/meetings/status/node")).status_code == 200
            await heartbeat(client, "n", {})
            for route in ("manifest", "download-package", "download-nodes-info"):
                answer = await client.get(f"{API}/meetings/m/{route}")
                assert (answer.status_code, answer.json()["detail"]) == (
                    500,
                    f"The meeting's package cannot be read: {EMPTY}",
                )
        assert lines() == [f"package {tmp_path}/m.zip cannot be read: {EMPTY}"]
        put(tmp_path, "m.zip", b"")
        await client.get(f"{API}/meetings/status/node")
        assert len(lines()) == 2
        put(tmp_path, "m.zip", b"mended")
        assert (await client.get(f"{API}/meetings/m/download-package")).content == b"mended"
        assert len(lines()) == 2
