"""Files that are no packages, or not yet: real zips, as nodes check them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from master_shim import DirectoryPackages, MasterShim
from master_shim.errors import PackageChanging, PackageUnreadable
from master_shim.packages.file import split_package
from master_shim.packages.versions import STILL_SECONDS, PackageVersions
from tests.support.packages import zip_of
from tests.support.shim_app import API, Clock, client_of, heartbeat, put

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = zip_of(b"old" * 1000), zip_of(b"new" * 2000)
EMPTY_ZIP = b"PK\5\6" + bytes(18)


@pytest.fixture(autouse=True)
def any_bytes_are_packages() -> None:
    """Check packages as outside of tests."""


REFUSED = {
    "empty file": (b"", "it is empty"),
    "empty zip": (EMPTY_ZIP, "it holds no files"),
    "random": (b"no zip" * 100, "it is not a zip"),
    "truncated": (NEW[:-30], "it is not a zip, or its end is missing"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_nodes_refuse_is_not_sent_and_does_not_replace_a_package(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    url = f"{API}/meetings/m/download-package"

    async def find(meeting_id: str) -> Path:
        return tmp_path / f"{meeting_id}.zip"

    for packages in (DirectoryPackages(tmp_path), find):
        caplog.clear()
        put(tmp_path, "m.zip", data)
        async with client_of(MasterShim(packages)) as client:
            for _ in range(2):
                answer = await client.get(url)
                assert (answer.status_code, reason in answer.json()["detail"]) == (500, True)
            assert sum(reason in record.getMessage() for record in caplog.records) == 1

            old = put(tmp_path, "m.zip", OLD)
            assert (await client.get(url)).content == OLD
            await heartbeat(client, "n1", {"m": old})
            caplog.clear()
            put(tmp_path, "m.zip", data)
            # Nodes have the version before, and go on with it.
            for _ in range(2):
                assert f"?v={old}" in (await client.get(url)).headers["location"]
                manifest = await client.get(f"{API}/meetings/m/manifest")
                assert manifest.headers["etag"].removeprefix("W/") == f'"{old}"'
            (line,) = [record.getMessage() for record in caplog.records]
            assert line.startswith(f"package {tmp_path}/m.zip cannot be read: not a package: {reason}")
            assert line.endswith("; the version before it stays the current one")
            # This master has its bytes no longer.
            answer = await client.get(f"{API}/meetings/m/download-package-direct")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")

            new = put(tmp_path, "m.zip", NEW)
            assert (await client.get(url)).content == NEW
            await heartbeat(client, "n1", {"m": new})
            assert f"?v={new}" in (await client.get(url)).headers["location"]


async def test_the_token_does_not_change_with_a_refused_package(tmp_path: Path) -> None:
    put(tmp_path, "m.zip", OLD)
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:

        async def token() -> str:
            return str((await client.get(f"{API}/meetings/status/node")).json()["id"])

        put(tmp_path, "m.json", b"{}")
        before = await token()
        put(tmp_path, "m.zip", EMPTY_ZIP)
        assert await token() == before
        answer = await heartbeat(client, "n1", {})
        assert answer.json()["token"] == before
        # The file of a later meeting with this name has no version before it.
        (tmp_path / "m.zip").unlink()
        assert await token() == "none"
        put(tmp_path, "m.zip", EMPTY_ZIP)
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 500


async def test_a_file_that_is_written_in_place_is_not_offered_until_it_is_still(tmp_path: Path) -> None:
    path, clock = tmp_path / "m.zip", Clock()
    versions = PackageVersions(clock=clock)
    put(tmp_path, "m.zip", OLD)
    old = await versions.current(path)
    # Each state is a valid zip: the directory at its end is there from the first write on, as in a pre-allocated file.
    for number in range(3):
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), NEW[: 1000 * (number + 1)], 0)
            os.pwrite(file.fileno(), NEW[-200:], len(NEW) - 200)
        for _ in range(2):
            clock.now += STILL_SECONDS / 4
            assert await versions.current(path) == old
    path.write_bytes(NEW)
    assert await versions.current(path) == old
    clock.now += STILL_SECONDS - 0.1
    assert await versions.current(path) == old
    clock.now += 0.1
    assert (await versions.current(path)).size == len(NEW)
    # A change of the inode alone is no write.
    path.chmod(0o600)
    assert (await versions.current(path)).size == len(NEW)


async def test_a_new_file_that_is_copied_into_the_folder_is_offered_when_it_is_complete(tmp_path: Path) -> None:
    path, clock = tmp_path / "m.zip", Clock()
    versions = PackageVersions(clock=clock)
    with path.open("wb") as file:
        os.write(file.fileno(), NEW[:1000])
        with pytest.raises(PackageUnreadable):
            await versions.current(path)
        os.write(file.fileno(), NEW[1000:])
    for _ in range(2):
        with pytest.raises(PackageChanging):
            await versions.current(path)
        clock.now += STILL_SECONDS / 2
    assert (await versions.current(path)).size == len(NEW)


async def test_a_file_that_changes_while_it_is_read_is_not_offered_until_it_is_still(tmp_path: Path) -> None:
    path, clock, reads = tmp_path / "m.zip", Clock(), 0

    def split(name: Path):  # type: ignore[no-untyped-def]
        nonlocal reads
        reads += 1
        if reads == 1:
            path.write_bytes(NEW)
        return split_package(name)

    put(tmp_path, "m.zip", OLD)
    versions = PackageVersions(split, clock)
    for _ in range(2):
        with pytest.raises(PackageChanging):
            await versions.current(path)
    assert reads == 1
    clock.now += STILL_SECONDS
    assert (await versions.current(path)).size == len(NEW)
