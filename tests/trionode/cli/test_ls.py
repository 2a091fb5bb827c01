"""`trionode ls`: alone, and beside a node that runs on the folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from store import Store
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.cli.exits import OK
from trionode.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.trionode.cli.conftest import Run


def test_ls_reports_meetings_pins_and_shared_bytes(run: Run, package: Package, rebuilt: Package):
    assert run("import", package.path, "--meeting", "m1", "--title", "Board")[0] == OK
    assert run("import", rebuilt.path, "--meeting", "m2", "--pin")[0] == OK
    status, report = run("ls")
    assert status == OK
    rows = {row["digest"]: row for row in report["versions"]}
    assert rows.keys() == {package.digest, rebuilt.digest}
    assert report["stored"] == package.size + rebuilt.size
    assert report["node"] is None
    first, second = rows[package.digest], rows[rebuilt.digest]
    assert [meeting["id"] for meeting in first["meetings"]] == ["m1"]
    assert (first["meetings"][0]["title"], first["pinned"], second["pinned"]) == ("Board", False, True)
    assert first["sending"] is None
    # Five of six documents of 200 kB are in both.
    assert first["shared"] == second["shared"]
    assert 4.9 * 200_000 < first["shared"] < 5.1 * 200_000


def test_ls_without_json_names_every_version(
    run: Run, storage: Path, package: Package, capfd: pytest.CaptureFixture[str]
):
    assert run("import", package.path, "--meeting", "会议-1", "--title", "董事会")[0] == OK
    assert main(["ls", "--storage-path", str(storage)]) == OK
    out = capfd.readouterr().out
    for part in (package.digest[:12], "会议-1", "董事会", "imported", "no node is running"):
        assert part in out


def test_a_title_is_printed_literally_and_on_one_line(
    run: Run, storage: Path, package: Package, capfd: pytest.CaptureFixture[str]
):
    title = "[/red] a\n\x1b[2Jb [bold]c"
    assert run("import", package.path, "--meeting", "m", "--title", title)[0] == OK
    with Store.open(storage) as store:  # as a node of an earlier version has written it
        (ref,) = store.refs()
        assert ref.title == "[/red] a [2Jb [bold]c"
        store.set_ref(replace(ref, title=title))
    assert main(["ls", "--storage-path", str(storage)]) == OK
    assert "[/red] a [2Jb [bold]c" in capfd.readouterr().out


async def test_ls_and_verify_do_not_disturb_a_running_node(node: OurNode, run: Run, folder: Path):
    big = make_package(folder / "big.zip", make_documents(6, 3_000_000), level=1)  # more than fits into sockets
    await node.until_synced("big")
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("GET", node.package_url("big")) as answer:
        status, report = await trio.to_thread.run_sync(run, "ls")
        rows = {row["meetings"][0]["id"]: row for row in report["versions"]}
        assert (status, rows.keys()) == (OK, {"m1", "big"})
        assert report["node"] == (await node.status())["node_id"]
        assert (rows["big"]["digest"], rows["big"]["meetings"][0]["in_progress"]) == (big.digest, True)
        assert (rows["big"]["sending"], rows["m1"]["sending"]) == (1, 0)
        assert (await trio.to_thread.run_sync(run, "verify"))[0] == OK
        assert digest_of(await answer.aread()) == big.digest

    async def sent() -> bool:
        return (await node.status())["sending"] == {}

    await eventually(sent)
    assert sorted(await node.synced()) == ["big", "m1"]
