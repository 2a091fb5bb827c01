"""SIGHUP: a node under our own server reads its settings again while it runs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN, OurNode
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.packages import Package
    from tests.support.processes import Spawner

    Configure = Callable[..., None]


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, folder: Path, big: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def configure(tmp_path: Path, master: ShimMaster, port: int) -> Configure:
    """Return a function that writes the node's TOML file: `configure(max_downloads=5)`."""

    def write(**settings: object) -> None:
        table = {
            "main_server": master.url,
            "node_address": f"127.0.0.1:{port}",
            "host": "127.0.0.1",
            "port": port,
            "storage_path": str(tmp_path / "storage"),
            **settings,
        }
        lines = (f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in table.items())
        (tmp_path / "node.toml").write_text("\n".join(lines))

    return write


@pytest.fixture
async def node(spawn: Spawner, tmp_path: Path, port: int, configure: Configure) -> OurNode:
    """A node with `max_downloads` 5 in its file."""
    configure(max_downloads=5)
    process = spawn(BIN / "trionode", "serve", "--config", tmp_path / "node.toml", name="node-configured")
    node = OurNode(process, port, tmp_path / "storage")
    await node.until_synced("big")
    return node


async def test_a_reload_applies_live_settings_and_logs_those_that_need_a_restart(node: OurNode, configure: Configure):
    configure(max_downloads=7, log_level="debug", max_bytes="2G", sync_interval=9)
    node.process.send_signal(signal.SIGHUP)
    await node.until_logged("needs a restart")
    status = await node.status()
    assert (status["max_downloads"], status["storage_limit"]) == (7, 2 << 30)
    changed = [line.partition("setting=")[2] for line in node.process.log().splitlines() if "setting=" in line]
    assert changed == ["sync_interval", "max_bytes", "max_downloads", "log_level"]
    assert node.process.stop() == 0


async def test_a_wrong_setting_changes_nothing_and_is_logged(node: OurNode, configure: Configure):
    configure(max_downloads=7, drain_seconds="soon")
    node.process.send_signal(signal.SIGHUP)
    await node.until_logged("settings not reloaded; nothing has changed")
    assert "'drain_seconds'" in node.process.log()
    assert (await node.status())["max_downloads"] == 5
    configure(max_downloads=8)
    node.process.send_signal(signal.SIGHUP)
    await node.until_logged("setting changed")
    assert (await node.status())["max_downloads"] == 8
    assert node.process.stop() == 0


async def test_a_reload_changes_the_limits_of_connections_and_the_minimum_data_rate(
    node: OurNode, configure: Configure
):
    async with asking(node.port, "/api/v1/meetings/big/download-package") as client:
        await client.read_head()  # and reads no more
        configure(max_downloads=5, max_connections=2, progress_seconds=1)
        node.process.send_signal(signal.SIGHUP)
        await node.until_logged("setting=progress_seconds")

        async def cut_off() -> bool:
            return (await node.status())["downloads_broken_off"] == 1

        await eventually(cut_off, within=20)
    held: list[trio.SocketStream] = []

    async def refused() -> bool:
        # One more each time: those of before are perhaps not yet counted, or still are.
        held.append(await trio.open_tcp_stream("127.0.0.1", node.port))
        return (await node.get("/health")).status_code == 503

    await eventually(refused)
    for stream in held:
        await stream.aclose()
    assert node.process.stop() == 0
