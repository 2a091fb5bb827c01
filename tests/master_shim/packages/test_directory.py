"""A folder of packages."""

from __future__ import annotations

import os
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest

from master_shim import DirectoryPackages, MasterShim
from tests.support.packages import make_documents, make_package
from tests.support.shim_app import API, client_of, heartbeat, put

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize("text", ['{"title": "董事会"}'.encode("gbk"), b'{"a":' + b"[" * 100_000])
async def test_an_invalid_description_is_ignored(tmp_path: Path, text: bytes) -> None:
    """Some editors do not write UTF-8. Other meetings are not affected by such a file."""
    make_package(tmp_path / "m.zip", make_documents(1, 1_000))
    (tmp_path / "m.json").write_bytes(text)
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        answer = await client.get(f"{API}/meetings/status/token")
        assert [(meeting["id"], meeting["title"]) for meeting in answer.json()["meetings"]] == [("m", "m")]


async def test_links_are_followed_within_the_folder_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    real, outside = tmp_path / "real", tmp_path / "real-too"
    (real / ".builds").mkdir(parents=True)
    outside.mkdir()
    put(real / ".builds", "7.zip", b"inside")
    put(outside, "secret.zip", b"secret")
    (outside / "secret.json").write_text('{"title":"secret"}')
    (real / "m.zip").symlink_to(".builds/7.zip")
    (real / "m.json").symlink_to(outside / "secret.json")
    (real / "out.zip").symlink_to(outside / "secret.zip")
    (real / "up.zip").symlink_to("../real-too/secret.zip")
    (real / "loop.zip").symlink_to("loop.zip")
    (real / "gone.zip").symlink_to(".builds/6.zip")
    (tmp_path / "folder").symlink_to(real)
    async with client_of(MasterShim(DirectoryPackages(tmp_path / "folder"))) as client:
        for _ in range(2):
            status = (await client.get(f"{API}/meetings/status/node")).json()
            assert status["active_meetings"] == [{"id": "m", "title": "m"}]
            assert (await client.get(f"{API}/meetings/m/download-package")).content == b"inside"
            for name in ("out", "up", "loop", "gone"):
                for route in ("download-package", "download-package-direct", "manifest"):
                    assert (await client.get(f"{API}/meetings/{name}/{route}")).status_code in {404, 500}
        (real / "m.zip").unlink()
        (real / "m.zip").symlink_to(outside / "secret.zip")
        assert (await client.get(f"{API}/meetings/m/download-package")).status_code == 404
    left_out = [record.args[0] for record in caplog.records if "is left out" in record.msg and record.args]
    assert sorted(left_out) == [
        f"{tmp_path}/folder/{name}" for name in ("gone.zip", "loop.zip", "m.json", "m.zip", "out.zip", "up.zip")
    ]


NAMES = [
    "board (1)",
    "会议（一）",
    "Q3, final",
    "R&D",
    "2026#1",
    "100% done",
    'the "new" one',
    "a?b;c",
    "会议　二",
    "x" * 238,
]


async def test_names_that_people_have_are_meetings(tmp_path: Path) -> None:
    for name in NAMES:
        put(tmp_path, f"{name}.zip", name.encode())
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        listed = (await client.get(f"{API}/meetings/status/node")).json()["active_meetings"]
        assert [meeting["id"] for meeting in listed] == sorted(NAMES)
        for name in NAMES:
            url = f"{API}/meetings/{quote(name, safe='')}/download-package"
            answer = await client.get(url)
            assert answer.content == name.encode()
            await heartbeat(client, "n1", {name: answer.headers["etag"].strip('"')})
            location = (await client.get(url)).headers["location"]
            assert location.startswith(f"http://n1:8001{url}?v=")
            (info,) = (await client.get(f"{API}/meetings/{quote(name, safe='')}/download-nodes-info")).json()
            assert unquote(info["download_url"]) == f"http://n1:8001{API}/meetings/{name}/download-package"


@pytest.mark.parametrize("listed_before", [True, False])
async def test_other_spellings_of_a_file_name_are_the_same_meeting(tmp_path: Path, *, listed_before: bool) -> None:
    """macOS decomposes accents (NFD), and other systems write suffixes in capitals."""
    packages = DirectoryPackages(tmp_path)
    if listed_before:
        packages.read()
    decomposed = unicodedata.normalize("NFD", "café")
    put(tmp_path, f"{decomposed}.zip", b"coffee")
    put(tmp_path, f"{decomposed}.JSON", b'{"title": "Coffee"}')
    put(tmp_path, "Board.ZIP", b"board")
    async with client_of(MasterShim(packages)) as client:
        assert (await client.get(f"{API}/meetings/caf%C3%A9/download-package")).content == b"coffee"
        assert (await client.get(f"{API}/meetings/Board/download-package")).content == b"board"
        listed = (await client.get(f"{API}/meetings/status/node")).json()["active_meetings"]
        assert listed == [{"id": "Board", "title": "Board"}, {"id": "café", "title": "Coffee"}]
        (tmp_path / "Board.ZIP").rename(tmp_path / "Board.zip")
        assert (await client.get(f"{API}/meetings/Board/download-package")).content == b"board"
        (tmp_path / "Board.zip").unlink()
        assert (await client.get(f"{API}/meetings/Board/download-package")).status_code == 404


async def test_what_is_left_out_is_said_once_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("m.zip", "m.ZIP", "a\\b.zip", "a\tb.zip", " m.zip", "%2e%2e.zip", "x" * 239 + ".zip", "notes.txt"):
        put(tmp_path, name)
    (tmp_path / "folder.zip").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xbb\xe1.zip")).touch()  # a name in GBK
    packages = DirectoryPackages(tmp_path)
    for _ in range(3):
        assert [meeting.id for meeting in packages.read()] == ["m"]
    lines = sorted(record.getMessage().removeprefix(f"{tmp_path}/") for record in caplog.records)
    wanted = sorted(
        [
            "m.ZIP is left out: m.zip is the same meeting",
            "a\\b.zip is left out: its name is no meeting id, it has a slash",
            "a b.zip is left out: its name is no meeting id, it has control",
            " m.zip is left out: its name is no meeting id, it begins or ends with",
            "%2e%2e.zip is left out: its name is no meeting id, it has a slash, a backslash, or %",
            f"{'x' * 239}.zip is left out: its name is no meeting id, it is longer than 238 bytes",
            "folder.zip is left out: it is not a file",
            "\\xbb\\xe1.zip is left out: its name is no meeting id, it has control, invisible",
        ]
    )
    assert len(lines) == len(wanted)
    assert all(line.startswith(start) for line, start in zip(lines, wanted, strict=True)), lines


async def test_hostile_ids_do_not_list_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "m.zip", b"m")
    packages = DirectoryPackages(tmp_path)
    packages.read()
    monkeypatch.setattr(packages, "read", lambda: pytest.fail("listed"))
    async with client_of(MasterShim(packages)) as client:
        for number in range(10):
            assert (await client.get(f"{API}/meetings/guess{number}/download-package")).status_code == 404


def test_meetings_may_end_while_several_requests_read_the_folder(tmp_path: Path) -> None:
    together, interval = Barrier(4), sys.getswitchinterval()

    def read(source: DirectoryPackages) -> int:
        together.wait()
        return len(source.read())

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            for turn in range(20):
                folder = tmp_path / str(turn)
                folder.mkdir()
                for number in range(300):
                    (folder / f"{number}.zip").touch()
                    (folder / f"{number}.json").write_text('{"title": "t"}')
                source = DirectoryPackages(folder)
                assert len(source.read()) == 300
                for number in range(1, 300):
                    (folder / f"{number}.zip").unlink()
                assert [*threads.map(read, [source] * 4)] == [1] * 4
    finally:
        sys.setswitchinterval(interval)
