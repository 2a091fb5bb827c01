"""A folder of packages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from master_shim import DirectoryPackages, MasterShim
from tests.support.packages import make_documents, make_package
from tests.support.shim_app import API, client_of, put

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
        f"{tmp_path}/folder/{name}" for name in ("loop.zip", "m.json", "m.zip", "out.zip", "up.zip")
    ]
