"""`hypercorn trionode:app`: several workers, settings that are wrong, signals to all processes, and reloads."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually
from trionode.cli.node_client import node_of
from trionode.web.control import SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.nodes import Start
    from tests.support.packages import Package
    from tests.support.processes import Process, Spawner
    from tests.trionode.conftest import StartNode

    Hypercorn = Callable[..., OurNode]

WORKER_CLASSES = ("trio", "asyncio")

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


@pytest.fixture
def hypercorn(spawn: Spawner, tmp_path: Path) -> Hypercorn:
    """Return a function that runs `hypercorn ARGUMENTS trionode:app` with settings from the environment."""

    def run(*arguments: str, master_url: str, **environ: str) -> OurNode:
        port = free_port()
        env = {
            "MAIN_SERVER_URL": master_url,
            "NODE_ADDRESS": f"127.0.0.1:{port}",
            "STORAGE_PATH": str(tmp_path / "hosted"),
            **environ,
        }
        command = (BIN / "hypercorn", *arguments, "-b", f"127.0.0.1:{port}", "trionode:app")
        return OurNode(spawn(*command, env=env, name="hypercorn"), port, tmp_path / "hosted")

    return run


def why_it_ended(process: Process) -> str:
    """Wait for the end of a server whose node cannot start, and return the one sentence."""
    process.wait(within=30)
    log = process.log()
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if line.startswith("trionode: ")]
    return line.removeprefix("trionode: ")


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_scheme_under_hypercorn_is_that_of_the_address_whatever_certfile_is(
    worker_class: str, scheme: str, master: ShimMaster, big: Package, hypercorn: Hypercorn, tmp_path: Path
):
    files = {"TRIONODE_CERTFILE": str(tmp_path / "cert.pem"), "TRIONODE_KEYFILE": str(tmp_path / "key.pem")}
    address = f"127.0.0.1:{free_port()}"
    given = address if scheme == "http" else f"https://{address}"
    hypercorn("-k", worker_class, master_url=master.url, NODE_ADDRESS=given, **files)
    info = "/api/v1/meetings/big/download-nodes-info"
    await eventually(lambda: address in master.get(info).text, within=20)
    assert master.get(info).json() == [{"ip": address, "download_url": f"{scheme}://{address}{PATH}"}]


@pytest.mark.parametrize("how", ["serve", "hypercorn", "hypercorn-trio"])
async def test_what_has_no_effect_is_logged(start_node: StartNode, tmp_path: Path, how: Start):
    settings = {
        "max_byte": "1",
        "zzzzzzzzzzzz": "1",
        "host": "192.0.2.1",
        "drain_seconds": 20,
        "progress_seconds": 31,
    }
    certificate = {"TRIONODE_CERTFILE": str(tmp_path / "cert.pem"), "TRIONODE_KEYFILE": str(tmp_path / "key.pem")}
    if how == "serve":
        settings = {"max_byte": "1", "zzzzzzzzzzzz": "1", "unix_socket": tmp_path / "node.sock"}
        certificate = {}
    node = start_node("http://127.0.0.1:1", how=how, env=certificate, **settings)
    await node.until_logged("clients reach this node")
    log = node.process.log()
    unknown = [line for line in log.splitlines() if "unknown environment variable; it sets nothing" in line]
    assert len(unknown) == 2
    assert "variable=TRIONODE_MAX_BYTE" in unknown[0]
    assert "did you mean TRIONODE_MAX_BYTES?" in unknown[0]
    assert "did you mean" not in unknown[1]
    unused = set(re.findall(r"setting without effect here .*setting=(\w+)", log))
    of_hypercorn = {"certfile", "keyfile", "host", "drain_seconds"}
    expected = {
        "serve": {"host", "port"},
        "hypercorn": of_hypercorn | {"progress_seconds"},
        "hypercorn-trio": of_hypercorn,
    }
    assert unused == expected[how]


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
async def test_two_workers_end_with_one_sentence_and_leave_nothing(
    master: ShimMaster, hypercorn: Hypercorn, worker_class: str
):
    node = hypercorn("-k", worker_class, "-w", "2", master_url=master.url)
    reason = await trio.to_thread.run_sync(why_it_ended, node.process)
    assert reason.startswith(f"cannot start: the storage folder {node.storage} is in use by ")
    assert "leave out --workers" in reason
    assert master.nodes() == []
    assert not (node.storage / SOCKET).exists()


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
async def test_a_second_server_on_the_same_folder_ends_and_the_first_continues(
    master: ShimMaster, big: Package, start_node: StartNode, hypercorn: Hypercorn, worker_class: str
):
    node = start_node(master.url)
    await node.until_synced("big")
    second = hypercorn("-k", worker_class, master_url=master.url, STORAGE_PATH=str(node.storage))
    reason = await trio.to_thread.run_sync(why_it_ended, second.process)
    assert f"in use by the node at 127.0.0.1:{node.port} (process {node.process.pid})" in reason
    assert [entry["address"] for entry in master.nodes()] == [f"127.0.0.1:{node.port}"]
    assert (node.storage / SOCKET).is_socket()
    assert digest_of((await node.download("big")).content) == big.digest


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
async def test_a_wrong_setting_ends_the_server_with_one_sentence(
    hypercorn: Hypercorn, tmp_path: Path, worker_class: str
):
    node = hypercorn("-k", worker_class, master_url="http://127.0.0.1:1", TRIONODE_MAX_BYTES="much")
    reason = await trio.to_thread.run_sync(why_it_ended, node.process)
    assert reason.startswith("cannot start: setting 'max_bytes' (from environment variable TRIONODE_MAX_BYTES)")
    assert "'much'" in reason
    assert not node.storage.exists()


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
async def test_a_storage_path_that_is_no_folder_ends_the_server_with_one_sentence(
    hypercorn: Hypercorn, tmp_path: Path, worker_class: str
):
    (tmp_path / "hosted").write_text("not a folder")
    node = hypercorn("-k", worker_class, master_url="http://127.0.0.1:1")
    reason = await trio.to_thread.run_sync(why_it_ended, node.process)
    assert reason.startswith(f"cannot start: the storage folder {node.storage} cannot be used")


@pytest.mark.parametrize("how", ["hypercorn", "hypercorn-trio"])
async def test_sigterm_to_all_processes_at_once_unregisters_the_node(
    master: ShimMaster, big: Package, start_node: StartNode, how: Start
):
    node = start_node(master.url, how=how)
    await node.until_synced("big")
    await eventually(lambda: len(master.nodes()) == 1)
    # As systemd ends a service: each process of the group gets the signal, not only the parent.
    os.killpg(node.process.pid, signal.SIGTERM)
    assert await trio.to_thread.run_sync(lambda: node.process.wait(within=20)) == 0
    assert master.nodes() == []
    assert not (node.storage / SOCKET).exists()
    assert "Traceback" not in node.process.log()
    again = start_node(master.url, how=how, storage=node.storage)
    await again.until_synced("big")


async def test_a_reload_on_trio_changes_the_limits_of_connections(
    master: ShimMaster, big: Package, hypercorn: Hypercorn, tmp_path: Path
):
    config = tmp_path / "node.toml"
    config.write_text("progress_seconds = 600")
    node = hypercorn("-k", "trio", master_url=master.url, TRIONODE_CONFIG=str(config))
    await node.until_synced("big")
    async with asking(node.port, PATH) as client:
        await client.read_head()  # and reads no more
        await node.until_active(1)
        config.write_text("progress_seconds = 1")
        with node_of(node.storage) as control:
            answer = await trio.to_thread.run_sync(control.call, "POST", "/api/service/reload")
        assert answer == {"changed": ["progress_seconds"], "needs_restart": []}

        async def cut_off() -> bool:
            return (await node.status())["downloads_broken_off"] == 1

        await eventually(cut_off, within=20)
    assert node.process.stop() == 0
