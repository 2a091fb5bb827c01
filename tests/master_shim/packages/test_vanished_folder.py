"""A folder that is suddenly empty or missing: perhaps a share that is not mounted."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from master_shim import DirectoryPackages, MasterShim
from master_shim.packages import KEEP_SECONDS
from tests.support.shim_app import API, Clock, client_of, heartbeat, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def unmount(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()


def unmount_with_a_file_in_the_mount_point(folder: Path) -> None:
    unmount(folder)
    (folder / "NOT-MOUNTED").touch()


def remove(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def empty(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("elsewhere"))
    for file in folder.iterdir():
        file.unlink()


def mount(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.unlink(missing_ok=True)
    folder.with_name("elsewhere").rename(folder)


def put_a_file_in_its_place(folder: Path) -> None:
    remove(folder)
    folder.touch()


WAYS = (unmount, unmount_with_a_file_in_the_mount_point, empty, remove, put_a_file_in_its_place)


@pytest.mark.parametrize("vanish", WAYS)
@pytest.mark.parametrize("returns", [True, False])
async def test_meetings_of_a_folder_that_vanished_are_kept_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, vanish: Callable[[Path], None], *, returns: bool
) -> None:
    folder, clock = tmp_path / "packages", Clock()
    folder.mkdir()
    digest = put(folder, "m.zip")
    put(folder, "m.json", b'{"title": "The meeting"}')
    put(folder, "alone.zip", b"alone")
    async with client_of(MasterShim(DirectoryPackages(folder, clock=clock))) as client:

        async def get(path: str) -> tuple[int, str]:
            # HEAD, since a client that comes back at once is not sent to the same node again.
            answer = await client.head(f"{API}/meetings/{path}")
            location = answer.headers.get("location", "")
            return answer.status_code, location.partition("&")[0] or answer.headers.get("retry-after", "")

        async def status() -> dict[str, object]:
            answer = await client.get(f"{API}/meetings/status/token")
            return {"status": answer.status_code, **answer.json()}

        before = await status()
        assert before["status"] == 200
        await heartbeat(client, "n1", {"m": digest})
        to_node = (302, f"http://n1:8001{API}/meetings/m/download-package?v={digest}")
        assert await get("m/download-package") == to_node

        vanish(folder)
        for seconds in (0, KEEP_SECONDS / 2, KEEP_SECONDS / 2 - 1):
            clock.now += seconds
            assert await get("m/download-package") == to_node
            report = (await client.get(f"{API}/nodes/status")).json()["meetings"]
            assert {meeting["id"]: meeting["nodes"] for meeting in report} == {"m": 1, "alone": 0}
            assert await get("alone/download-package") == (503, "2")
            assert await get("m/download-package-direct") == (503, "2")
            assert await get("unknown/download-package") == (503, "2")
            assert await status() == before
            assert (await heartbeat(client, "n1", {"m": digest})).json()["token"] == before["id"]
            assert (await client.get(f"{API}/meetings/m/data")).json()["title"] == "The meeting"
        said = [record.getMessage() for record in caplog.records if "the packages folder" in record.getMessage()]
        assert len(said) == 1
        assert said[0].endswith(f"; its meetings (2) stay in progress for {KEEP_SECONDS:g} s")

        if returns:
            mount(folder)
            assert await status() == before
            assert await get("m/download-package") == to_node
            assert (await client.get(f"{API}/meetings/alone/download-package")).content == b"alone"
            assert await get("unknown/download-package") == (404, "")
            return
        clock.now += 1
        missing = vanish in {remove, put_a_file_in_its_place}
        for _ in range(2):
            if missing:
                assert (await status())["status"] == 503
                assert await get("m/download-package") == (503, "2")
            else:
                assert (await status())["id"] == "none"
                assert await get("m/download-package") == (404, "")
        assert sum("the packages folder" in record.getMessage() for record in caplog.records) == 1 + (not missing)


async def test_a_tablet_may_be_the_first_to_meet_a_vanished_folder(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    digest = put(folder, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(folder))) as client:
        await client.get(f"{API}/meetings/status/node")
        await heartbeat(client, "n1", {"m": digest})
        remove(folder)
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 302
        assert (await client.get(f"{API}/meetings/m/manifest")).status_code == 200


async def test_the_last_meeting_of_a_folder_that_is_not_empty_ends_at_once(tmp_path: Path) -> None:
    put(tmp_path, "m.zip")
    put(tmp_path, "m.json", b"{}")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        assert (await client.get(f"{API}/meetings/status/token")).json()["id"] != "none"
        (tmp_path / "m.zip").unlink()
        assert (await client.get(f"{API}/meetings/status/token")).json()["id"] == "none"
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 404
