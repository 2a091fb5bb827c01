"""Packages as the app finds and sends them, called as a server calls it, under asyncio and under Trio."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from master_shim import DirectoryPackages, MasterShim
from tests.support.packages import make_documents, make_package
from tests.support.shim_app import API, DATA, beat, client_of, put

if TYPE_CHECKING:
    pass


async def test_a_package_is_served_whole_in_parts_and_not_at_all(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        for url in (f"{API}/meetings/m/download-package-direct", f"{API}/packages/{digest}"):
            answer = await client.get(url)
            assert (answer.status_code, answer.content) == (200, DATA)
            assert answer.headers["etag"] == f'"{digest}"'
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-length"] == str(len(DATA))
            assert answer.headers["content-type"] == "application/zip"
            answer = await client.get(url, headers={"Range": "bytes=1000-1999"})
            assert (answer.status_code, answer.content) == (206, DATA[1000:2000])
            assert answer.headers["content-range"] == f"bytes 1000-1999/{len(DATA)}"
            assert answer.headers["content-length"] == "1000"
            answer = await client.get(url, headers={"Range": f"bytes={len(DATA)}-"})
            assert (answer.status_code, answer.content) == (416, b"")
            assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
            answer = await client.get(url, headers={"Range": "bytes=-9", "If-Range": '"other"'})
            assert (answer.status_code, len(answer.content)) == (200, len(DATA))
            answer = await client.get(url, headers={"If-None-Match": f'W/"{digest}"'})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", f'"{digest}"')
            answer = await client.head(url, headers={"Range": "bytes=0-0"})
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(DATA)))
        assert "immutable" in answer.headers["cache-control"]
        answer = await client.get(f"{API}/meetings/m/download-package-direct")
        assert answer.headers["content-disposition"] == 'attachment; filename="meeting_m_pdfs.zip"'


async def test_a_package_replaced_by_a_rename_is_gone_by_its_old_digest(tmp_path: Path) -> None:
    old = put(tmp_path, "m.zip", b"old" * 1000)
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        token = (await client.get(f"{API}/meetings/status/token")).json()["id"]
        assert (await client.get(f"{API}/packages/{old}")).status_code == 200
        new = put(tmp_path, "m.zip", b"new" * 1000)
        answer = await client.get(f"{API}/packages/{old}")
        assert answer.status_code == 404
        assert set(answer.json()) == {"detail"}
        # By its new digest it is found although nobody asked for its manifest yet.
        assert (await client.get(f"{API}/packages/{new}")).content == b"new" * 1000
        assert (await client.get(f"{API}/meetings/status/token")).json()["id"] != token
        assert (await client.get(f"{API}/packages/{'0' * 64}")).status_code == 404
        assert (await client.get(f"{API}/packages/nonsense")).status_code == 404


@pytest.mark.parametrize("text", ['{"title": "董事会"}'.encode("gbk"), b'{"a":' + b"[" * 100_000])
async def test_a_description_that_is_no_json_is_left_out(tmp_path: Path, text: bytes) -> None:
    """Editors that do not write UTF-8 are in use; their file must not end every meeting's status."""
    make_package(tmp_path / "m.zip", make_documents(1, 1_000))
    (tmp_path / "m.json").write_bytes(text)
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        answer = await client.get(f"{API}/meetings/status/token")
        assert [(meeting["id"], meeting["title"]) for meeting in answer.json()["meetings"]] == [("m", "m")]


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


async def test_a_package_that_cannot_be_read_is_still_in_progress(tmp_path: Path) -> None:
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


async def test_a_package_that_cannot_be_read_is_said_once_for_each_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.zip").touch()

    def lines() -> list[str]:
        return [f"{record.message}{record.exc_text or ''}" for record in caplog.records]

    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        for _ in range(3):
            assert (await client.get(f"{API}/meetings/status/node")).status_code == 200
            await beat(client, "n", {})
            for route in ("manifest", "download-package", "download-nodes-info"):
                answer = await client.get(f"{API}/meetings/m/{route}")
                assert (answer.status_code, answer.json()["detail"]) == (
                    500,
                    "The meeting's package cannot be read: it is empty",
                )
        assert lines() == [f"package {tmp_path}/m.zip cannot be read: it is empty"]
        put(tmp_path, "m.zip", b"")
        await client.get(f"{API}/meetings/status/node")
        assert len(lines()) == 2
        put(tmp_path, "m.zip", b"mended")
        assert (await client.get(f"{API}/meetings/m/download-package")).content == b"mended"
        assert len(lines()) == 2


async def test_links_are_followed_in_the_folder_and_not_out_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
        f"{tmp_path}/folder/{name}" for name in ("loop.zip", "m.json", "m.zip", "out.zip", "up.zip")
    ]


async def test_titles_are_one_line_each(tmp_path: Path) -> None:
    put(tmp_path, "m.zip")
    (tmp_path / "m.json").write_text(json.dumps({"title": "a\r\n\x1b[2Jb" + "c" * 600, "time": "to\nday"}))
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        (meeting,) = (await client.get(f"{API}/meetings/status/token")).json()["meetings"]
        assert meeting == {"id": "m", "title": ("a [2Jb" + "c" * 600)[:512], "time": "to day"}


Send = Callable[[Any], Awaitable[None]]


async def call(shim: MasterShim, path: str, send: Send, receive: Any = None) -> None:
    async def wait() -> Any:
        await anyio.sleep_forever()

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "client": None, "root_path": ""}
    await shim(scope, receive or wait, send)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_answer_whose_file_is_overwritten_is_cut_off(tmp_path: Path, backend: str) -> None:
    """Whatever arrives is of the version that was promised, and shorter than promised."""
    big = random.Random(3).randbytes(5 * 1024 * 1024)
    put(tmp_path, "m.zip", big)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 3:
            with (tmp_path / "m.zip").open("r+b") as file:
                file.write(bytes(len(big)))

    async def main() -> None:
        shim = MasterShim(DirectoryPackages(tmp_path))
        await call(shim, f"{API}/meetings/m/download-package", send)
        assert shim.active_downloads == 0

    anyio.run(main, backend=backend)
    body = b"".join(message["body"] for message in sent[1:])
    assert len(sent) == 3
    assert body == big[: len(body)]
    assert sent[-1]["more_body"] is True


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_is_read_for_a_client_that_left(tmp_path: Path, backend: str) -> None:
    put(tmp_path, "m.zip", bytes(8 * 1024 * 1024))

    async def main() -> None:
        gone = anyio.Event()
        count = 0

        async def send(message: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count == 3:
                gone.set()
            await anyio.sleep(0)  # as servers do: they take what is sent to nobody without a word

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        shim = MasterShim(DirectoryPackages(tmp_path))
        await call(shim, f"{API}/meetings/m/download-package", send, receive)
        assert count <= 5
        assert shim.active_downloads == 0

    anyio.run(main, backend=backend)


async def test_windows_shrink_when_many_download(tmp_path: Path) -> None:
    from master_shim.sending import MIN_WINDOW_BYTES, READ_AHEAD_BYTES, WINDOW_BYTES, PackageSender

    sender = PackageSender()
    for active, wanted in (
        (0, WINDOW_BYTES),
        (16, WINDOW_BYTES),
        (64, READ_AHEAD_BYTES // 64),
        (9999, MIN_WINDOW_BYTES),
    ):
        sender.active = active
        assert sender.window_bytes() == wanted
