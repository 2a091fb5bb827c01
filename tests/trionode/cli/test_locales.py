"""The node and its commands in locales that lack the characters of titles and paths."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.locales import environments
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, STARTS, run_node
from tests.support.packages import make_documents, make_package

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import Start
    from tests.support.processes import Spawner

CASES = [(start, name) for name in environments() for start in (STARTS if name == "ascii" else STARTS[:1])]


@pytest.mark.parametrize(("start", "name"), CASES)
async def test_names_are_utf_8_and_output_replaces_what_is_missing(
    spawn: Spawner, tmp_path: Path, start: Start, name: str
):
    env = environments()[name]
    packages, storage = tmp_path / "packages", tmp_path / "数据"
    packages.mkdir()
    make_package(packages / "会议.zip", make_documents(1, 1_000))
    make_package(packages / "é😀.zip", make_documents(1, 1_000))
    master = ShimMaster(spawn, packages)
    config = tmp_path / "trionode.toml"
    config.write_text(f'storage_path = "{storage}"\n', encoding="utf-8")
    node = run_node(spawn, master.url, storage, start=start, env=env)
    await node.until_synced("会议")
    await node.until_synced("é😀")
    names = ["%C3%A9%F0%9F%98%80.json", "%E4%BC%9A%E8%AE%AE.json"]
    assert sorted(path.name for path in storage.glob("meetings/*")) == names
    health = (await node.get("/health")).json()
    assert health["storage_path"] == str(storage)
    for command in (
        ["trionode", "status", node.url],
        ["trionode", "ls", "--storage-path", storage],
        ["trionode", "ls", "--config", config],
        ["master-shim", "status", master.url],
    ):
        for more in ([], ["--json"]):
            done = subprocess.run(
                [BIN / command[0], *command[1:], *more], env={**os.environ, **env}, capture_output=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
            if more:
                shown = json.dumps(json.loads(done.stdout), ensure_ascii=False)
                assert "会议" in shown
                assert "é😀" in shown
    answer = httpx.get(node.package_url("%E4%BC%9A%E8%AE%AE"), trust_env=False)
    assert answer.status_code == 200
    assert node.process.stop() == 0
    assert "Traceback" not in node.process.log()
