"""`trionode status`: of a node at a URL, and of the one that runs on a storage folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.processes import free_port
from trionode.cli.exits import NOT_RUNNING, OK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.trionode.cli.conftest import Trionode


async def test_status_shows_what_the_node_holds(node: OurNode, trionode: Trionode):
    for which in ([node.url], [node.url.removeprefix("http://")], ["--storage-path", node.storage]):
        text = await trionode("status", *which)
        assert text.returncode == OK, text.stderr
        assert "同步成功" in text.stdout
        assert "m1" in text.stdout
        as_json = await trionode("status", *which, "--json")
        assert as_json.returncode == OK
        assert json.loads(as_json.stdout)["meeting_count"] == 1


async def test_status_reports_that_no_node_answers(storage: Path, tmp_path: Path, trionode: Trionode):
    url = f"http://127.0.0.1:{free_port()}"
    for address in (url, url.removeprefix("http://"), "ftp://node", "http://node:port", "node:port", "::1"):
        done = await trionode("status", address)
        assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
        assert done.stderr.startswith(f"trionode: no node answers at {address}")
        assert "Traceback" not in done.stderr
    (tmp_path / "file").touch()
    for folder in (storage, tmp_path / "nowhere", tmp_path / "file"):
        done = await trionode("status", "--storage-path", folder)
        assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
        assert f"no node runs on the storage folder {folder}" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()
