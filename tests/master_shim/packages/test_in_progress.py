"""Which meetings are in progress, and the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from master_shim import DirectoryPackages, MasterShim
from tests.support.shim_app import API, client_of, put

if TYPE_CHECKING:
    pass


async def test_the_token_depends_on_the_packages_and_descriptions_only(tmp_path: Path) -> None:
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:

        async def token() -> str:
            status = (await client.get(f"{API}/meetings/status/token")).json()
            node = (await client.get(f"{API}/meetings/status/node")).json()
            assert node["id"] == status["id"]
            assert [item["id"] for item in node["active_meetings"]] == [item["id"] for item in status["meetings"]]
            return str(status["id"])

        assert await token() == "none"
        put(tmp_path, "m.zip", b"1")
        seen = [await token()]
        put(tmp_path, "k.zip", b"1")
        seen.append(await token())
        put(tmp_path, "m.zip", b"2")
        seen.append(await token())
        put(tmp_path, "m.json", json.dumps({"title": "T"}).encode())
        seen.append(await token())
        (tmp_path / "k.zip").unlink()
        seen.append(await token())
        assert len(set(seen)) == 5
        put(tmp_path, "m.zip", b"2")  # written again with the same bytes
        assert await token() == seen[-1]
        async with client_of(MasterShim(DirectoryPackages(tmp_path))) as restarted:
            assert (await restarted.get(f"{API}/meetings/status/token")).json()["id"] == seen[-1]


async def test_a_meeting_with_an_unreadable_package_is_in_progress(tmp_path: Path) -> None:
    put(tmp_path, "good.zip")
    (tmp_path / "empty.zip").touch()
    (tmp_path / ".hidden.zip").touch()
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "notes.txt").touch()
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        status = (await client.get(f"{API}/meetings/status/node")).json()
        assert [item["id"] for item in status["active_meetings"]] == ["empty", "good"]
        assert (await client.get(f"{API}/meetings/empty/download-package")).status_code == 500
        assert (await client.get(f"{API}/meetings/folder/download-package")).status_code == 404
        assert (await client.get(f"{API}/meetings/.hidden/download-package")).status_code == 404
