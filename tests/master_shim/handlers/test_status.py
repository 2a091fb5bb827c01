"""The status routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from master_shim import DirectoryPackages, MasterShim
from tests.support.shim_app import API, client_of, put

if TYPE_CHECKING:
    pass


async def test_meetings_are_described_by_their_json(tmp_path: Path) -> None:
    put(tmp_path, "plain.zip")
    put(tmp_path, "m.zip")
    details = {"title": "Budget", "time": "10:00", "id": "forged", "agenda_items": [{"title": "a"}], "room": 3}
    put(tmp_path, "m.json", json.dumps(details).encode())
    put(tmp_path, "k.zip")
    put(tmp_path, "k.json", json.dumps({"title": "K", "data": {"intro": "hello"}}).encode())
    put(tmp_path, "broken.zip")
    put(tmp_path, "broken.json", b"{")
    put(tmp_path, "list.zip")
    put(tmp_path, "list.json", b"[]")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        status = (await client.get(f"{API}/meetings/status/token")).json()
        assert {item["id"]: (item["title"], item["time"]) for item in status["meetings"]} == {
            "plain": ("plain", ""),
            "m": ("Budget", "10:00"),
            "k": ("K", ""),
            "broken": ("broken", ""),
            "list": ("list", ""),
        }
        data = (await client.get(f"{API}/meetings/m/data")).json()
        assert data == {
            "id": status["id"],
            "meeting_id": "m",
            "title": "Budget",
            "intro": "",
            "time": "10:00",
            "status": "进行中",
            "agenda_items": [{"title": "a"}],
            "room": 3,
        }
        assert (await client.get(f"{API}/meetings/k/data")).json()["intro"] == "hello"
        assert (await client.get(f"{API}/meetings/plain/data")).json()["agenda_items"] == []
        assert (await client.get(f"{API}/meetings/x/data")).status_code == 404


async def test_titles_are_reduced_to_one_line(tmp_path: Path) -> None:
    put(tmp_path, "m.zip")
    (tmp_path / "m.json").write_text(json.dumps({"title": "a\r\n\x1b[2Jb" + "c" * 600, "time": "to\nday"}))
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        (meeting,) = (await client.get(f"{API}/meetings/status/token")).json()["meetings"]
        assert meeting == {"id": "m", "title": ("a [2Jb" + "c" * 600)[:512], "time": "to day"}
