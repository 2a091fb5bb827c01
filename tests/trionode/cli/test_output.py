"""What the commands do when whoever reads their output has left, as `head` does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.masters import ShimMaster
from tests.support.nodes import BIN
from tests.support.processes import free_port, port_open
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.cli.conftest import Run

UNREAD = 128 + 13


async def unread(*command: str | Path) -> tuple[int, str]:
    """Run a command with a standard output that nobody reads; return its status and its errors."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = await trio.to_thread.run_sync(
            lambda: subprocess.run([*command], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    ["ls --json", "ls", "verify", "pin m1", "unpin m1", "gc --dry-run", "export m1 -", "diff m1 {zip} {zip}"],
)
async def test_a_command_whose_output_is_not_read_ends_quietly(
    run: Run, storage: Path, package: Package, arguments: str
):
    assert run("import", package.path, "--meeting", "m1")[0] == 0
    command = arguments.format(zip=package.path).split()
    assert await unread(BIN / "trionode", *command, "--storage-path", storage) == (UNREAD, "")


@pytest.mark.parametrize("arguments", ["status", "status --json", "reload", "drain"])
async def test_a_command_to_a_node_whose_output_is_not_read_ends_quietly(node: OurNode, arguments: str):
    command = (BIN / "trionode", *arguments.split(), "--storage-path", node.storage)
    assert await unread(*command) == (UNREAD, "")


async def test_the_shim_whose_output_is_not_read_ends_quietly(folder: Path):
    command = (sys.executable, "-m", "master_shim", "serve", "--host", "127.0.0.1", "--port", "0")
    assert await unread(*command, "--packages", folder) == (UNREAD, "")


@pytest.mark.parametrize("arguments", ["status", "status --json"])
async def test_a_command_to_a_master_whose_output_is_not_read_ends_quietly(
    spawn: Spawner, folder: Path, arguments: str
):
    master = ShimMaster(spawn, folder)
    assert await unread(BIN / "master-shim", *arguments.split(), master.url) == (UNREAD, "")


@pytest.mark.parametrize("program", ["node", "master-shim"])
async def test_a_server_whose_log_is_not_read_serves_on(tmp_path: Path, folder: Path, program: str):
    port = free_port()
    address = ("--host", "127.0.0.1", "--port", str(port))
    command = {
        "node": (
            BIN / "trionode",
            "serve",
            *address,
            "--storage-path",
            tmp_path / "s",
            "--main-server",
            "http://[::1]:9",
        ),
        "master-shim": (BIN / "master-shim", "serve", *address, "--packages", folder),
    }[program]
    reader, writer = os.pipe()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=writer, env=buffered)
    try:
        os.close(writer)
        os.close(reader)

        async def answers() -> bool:
            path = "/health" if program == "node" else "/api/v1/nodes/list"
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{port}{path}")).status_code == 200

        await eventually(lambda: port_open(port), within=20)
        for _ in range(3):
            assert await answers()
        process.terminate()
        assert await trio.to_thread.run_sync(lambda: process.wait(20)) == 0
    finally:
        process.kill()
        process.wait()
