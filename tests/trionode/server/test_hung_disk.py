"""A disk that does not answer blocks a worker thread, or the event loop, and the process ends all the same."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.nodes import Start, run_node
from tests.support.packages import make_documents, make_package
from tests.support.shim_process import serve_shim
from tests.support.waiting import eventually
from trionode.lifecycle import END_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.support.processes import Process, Spawner

HANG = """
import os, sys, time

def hang(*arguments):
    sys.stderr.write("the disk hangs\\n")
    time.sleep(3600)

os.{call} = hang
"""

SLOW = """
import os, sys, time

read = os.preadv

def read_slowly(*arguments):
    sys.stderr.write("the disk hangs\\n")
    time.sleep(0.2)
    return read(*arguments)

os.preadv = read_slowly
"""


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `sitecustomize.py` makes a system call hang in every process that is started."""
    folder = tmp_path / "hanging"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


async def ends(process: Process) -> int:
    await eventually(lambda: "the disk hangs" in process.log(), within=20)
    process.send_signal(signal.SIGTERM)
    return await trio.to_thread.run_sync(lambda: process.wait(within=END_SECONDS + 20))


@pytest.mark.parametrize("start", ["serve", "hypercorn", "hypercorn-trio"])
async def test_a_node_ends_although_a_thread_waits_for_the_disk(
    hanging: Path, spawn: Spawner, fakes: FakeFactory, folder: Path, package: Package, tmp_path: Path, start: Start
):
    master = fakes.master(folder)
    master.start("m1")
    (hanging / "sitecustomize.py").write_text(HANG.format(call="preadv"))
    node = run_node(spawn, master.url, tmp_path / "storage", start=start, drain_seconds=1)
    await ends(node.process)
    # Where it hung.
    assert "Thread 0x" in node.process.log()
    assert "in check_package" in node.process.log()


async def test_a_second_signal_does_not_wait_for_the_drain(
    hanging: Path, spawn: Spawner, fakes: FakeFactory, folder: Path, package: Package, tmp_path: Path
):
    master = fakes.master(folder)
    master.start("m1")
    (hanging / "sitecustomize.py").write_text(HANG.format(call="preadv"))
    node = run_node(spawn, master.url, tmp_path / "storage", drain_seconds=600)
    await node.until_logged("the disk hangs")
    node.process.send_signal(signal.SIGTERM)
    await node.until_logged("draining")
    assert await ends(node.process) == 1


async def test_a_node_ends_although_its_event_loop_waits_for_the_disk(hanging: Path, spawn: Spawner, tmp_path: Path):
    # The folder watch calls it once a second.
    (hanging / "sitecustomize.py").write_text(
        HANG.format(call="unused") + "import store; store.Store.folder_mtimes = hang\n"
    )
    node = run_node(spawn, "http://127.0.0.1:9", tmp_path / "storage", drain_seconds=1)
    assert await ends(node.process) == 1


@pytest.mark.parametrize("start", ["serve", "hypercorn", "hypercorn-trio"])
async def test_a_node_is_unregistered_and_ends_although_its_lock_cannot_be_written(
    hanging: Path, spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path, start: Start
):
    master = fakes.master(folder)
    (hanging / "sitecustomize.py").write_text(
        HANG.format(call="unused") + "import store; store.StorageLock.set_ending = hang\n"
    )
    node = run_node(spawn, master.url, tmp_path / "storage", start=start, drain_seconds=1)
    await node.until_logged("connected to the master")
    node.process.send_signal(signal.SIGTERM)
    await trio.to_thread.run_sync(lambda: node.process.wait(within=END_SECONDS + 20))
    assert "the disk hangs" in node.process.log()
    assert "Timeout (" not in node.process.log(), "it was not ended from outside"
    assert not master.state()["nodes"]


async def test_the_shim_ends_although_a_thread_waits_for_the_disk(
    hanging: Path, spawn: Spawner, folder: Path, package: Package
):
    (hanging / "sitecustomize.py").write_text(HANG.format(call="preadv"))
    shim = serve_shim(spawn, folder)
    assert await ends(shim.process) == 1


@pytest.mark.parametrize("start", ["serve", "hypercorn", "hypercorn-trio"])
async def test_a_node_that_reads_a_long_package_ends_in_order(
    hanging: Path, spawn: Spawner, fakes: FakeFactory, folder: Path, tmp_path: Path, start: Start
):
    make_package(folder / "m1.zip", make_documents(8, 4_000_000), level=1)
    master = fakes.master(folder)
    master.start("m1")
    # A package of 32 MB takes more than a minute to check.
    (hanging / "sitecustomize.py").write_text(SLOW)
    node = run_node(spawn, master.url, tmp_path / "storage", start=start, drain_seconds=1)
    assert await ends(node.process) == 0
    assert "Thread 0x" not in node.process.log()
    assert "Traceback" not in node.process.log()
