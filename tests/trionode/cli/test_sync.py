"""`trionode sync`: the running node looks at its master at once, and the command waits for the current packages."""

from __future__ import annotations

import json
import os
import pty
from typing import TYPE_CHECKING, Any

import trio
from rich.filesize import decimal

from tests.support.local_master import local_master
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually
from trionode.cli.exits import FAILED, NOT_RUNNING, OK, USAGE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.cli.conftest import Trionode
    from tests.trionode.conftest import StartNode


async def test_sync_returns_when_the_node_has_the_new_version(
    spawn: Spawner, folder: Path, package: Package, start_node: StartNode, trionode: Trionode
):
    master = ShimMaster(spawn, folder)
    node = start_node(master.url)
    await node.until_synced("m1")
    for number in range(3):  # the node alone would see each at its next poll, up to 3 s later
        new = make_package(folder / ".next", make_documents(6, 200_000, seed=str(number)), level=1)
        new.path.rename(folder / "m1.zip")
        await eventually(lambda digest=new.digest: master.version("m1") == digest, within=20)
        done = await trionode("sync", "m1", "--storage-path", node.storage)
        assert (done.returncode, done.stderr) == (OK, "")
        assert f"m1: current, {decimal(new.size)}, version {new.digest[:12]}\n" in done.stdout
        assert (await node.status())["active_meetings"][0]["version"] == new.digest
        assert await node.synced() == ["m1"]


async def test_sync_at_an_unmodified_master_waits_for_every_package(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode, trionode: Trionode
):
    make_package(folder / "m2.zip", make_documents(3, 100_000))
    master = fakes.master(folder)
    node = start_node(master.url)
    await node.until_up()
    for meeting in ("m1", "m2"):
        master.start(meeting)
    done = await trionode("sync", "--json", "--storage-path", node.storage)
    assert done.returncode == OK, done.stderr
    report = json.loads(done.stdout)
    assert (report["current"], report["why"]) == (True, "")
    assert sorted(row["id"] for row in report["meetings"]) == ["m1", "m2"]
    assert sorted(await node.synced()) == ["m1", "m2"]


async def test_the_time_limit_ends_the_command_and_not_the_fill(
    folder: Path, start_node: StartNode, trionode: Trionode
):
    package = make_package(folder / "m1.zip", make_documents(8, 1_000_000), level=0)
    async with local_master(folder) as master:
        master.bytes_per_second = 100_000
        node = start_node(master.url)
        await node.until_up()
        arguments = ("sync", "m1", "--timeout", "1", "--storage-path", node.storage)
        done = await trionode(*arguments)
        assert done.returncode == FAILED, done.stdout
        assert "not current after 1 s: m1 (" in done.stderr
        assert "from master" in done.stderr
        assert "m1: " in done.stdout
        done = await trionode(*arguments, "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["current"]) == (FAILED, False)
        assert report["why"] in done.stderr
        (row,) = report["meetings"]
        assert row["fill"]["source"] == "master"
        assert 0 <= row["fill"]["filled"] < row["fill"]["size"] == package.size
        master.bytes_per_second = 0
        done = await trionode("sync", "m1", "--storage-path", node.storage)
        assert done.returncode == OK, done.stderr
        assert digest_of((await node.download("m1")).content) == package.digest


async def test_progress_on_a_terminal_is_redrawn_in_place(folder: Path, start_node: StartNode):
    make_package(folder / "m1.zip", make_documents(8, 500_000), level=0)
    async with local_master(folder) as master:
        master.bytes_per_second = 300_000
        node = start_node(master.url)
        await node.until_up()
        ours, its = pty.openpty()
        shown = bytearray()

        async def read() -> None:
            while b" left" not in shown:
                shown.extend(await trio.to_thread.run_sync(os.read, ours, 65536, abandon_on_cancel=True))
            master.bytes_per_second = 0
            while True:
                try:
                    shown.extend(await trio.to_thread.run_sync(os.read, ours, 65536, abandon_on_cancel=True))
                except OSError:  # the command has ended
                    return

        command = [str(BIN / "trionode"), "sync", "--storage-path", str(node.storage)]
        env = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                process = await nursery.start(
                    lambda task_status: trio.run_process(command, stdout=its, env=env, task_status=task_status)
                )
                os.close(its)
                await read()
                assert await process.wait() == OK
        os.close(ours)
        text = shown.decode()
        for word in ("m1", "%)", "from master", "/s", "current", "\x1b["):
            assert word in text


async def test_what_is_not_there_is_named(node: OurNode, tmp_path: Path, trionode: Trionode, start_node: StartNode):
    done = await trionode("sync", "m2", "--storage-path", node.storage)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "no meeting 'm2' is in progress at the master" in done.stderr
    done = await trionode("sync", "--storage-path", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
    assert "no node runs on the storage folder" in done.stderr
    alone = start_node(f"http://127.0.0.1:{free_port()}")
    await alone.until_up()
    done = await trionode("sync", "--json", "--storage-path", alone.storage)
    assert done.returncode == FAILED
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["current"] is False
    assert "the master does not answer" in done.stderr
    assert (done.stderr.count("\n"), "Traceback" in done.stderr) == (1, False)


async def test_without_meetings_everything_is_current(
    spawn: Spawner, folder: Path, start_node: StartNode, trionode: Trionode
):
    node = start_node(ShimMaster(spawn, folder).url)
    await node.until_up()
    done = await trionode("sync", "--storage-path", node.storage)
    assert (done.returncode, done.stdout) == (OK, "no meeting is in progress\n"), done.stderr
