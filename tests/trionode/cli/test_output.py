"""What the programs do when whoever reads their output has left, as `head` does, or it cannot be written."""

from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize("arguments", ["status", "status --json"])
async def test_a_command_to_a_master_whose_output_is_not_read_ends_quietly(
    spawn: Spawner, folder: Path, arguments: str
):
    master = ShimMaster(spawn, folder)
    assert await unread(BIN / "master-shim", *arguments.split(), master.url) == (UNREAD, "")


# -- outputs that are closed, or on a full disk


UNWRITABLE = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("redirection", "why"), UNWRITABLE.items())
@pytest.mark.parametrize(
    "command", ["trionode ls", "trionode --help", "trionode export m1 -", "trionode verify", "master-shim --help"]
)
def test_a_command_whose_output_cannot_be_written_says_so(
    run: Run, storage: Path, package: Package, command: str, redirection: str, why: str, unbuffered: str
):
    assert run("import", package.path, "--meeting", "m1")[0] == 0
    done = shell(f"{BIN}/{command} {redirection}", STORAGE_PATH=str(storage), PYTHONUNBUFFERED=unbuffered)
    program = command.partition(" ")[0]
    assert (done.returncode, done.stderr) == (1, f"{program}: the output cannot be written: {why}\n")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "<&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "status"), [("trionode ls", 0), ("trionode ls --wrong", 2), ("master-shim serve --packages /none", 2)]
)
def test_messages_that_cannot_be_written_change_no_status(
    run: Run, storage: Path, package: Package, command: str, status: int, redirection: str
):
    assert run("import", package.path, "--meeting", "m1")[0] == 0
    done = shell(f"{BIN}/{command} {redirection}", STORAGE_PATH=str(storage))
    assert done.returncode == status
    assert ("m1" in done.stdout) == (status == 0)


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", command]  # type: ignore[assignment]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | env)


UNLOGGED = {"not read": "2>&$writer >&$writer", "full": "2>/dev/full >/dev/full", "closed": "<&- 2>&- >&-"}


@pytest.mark.parametrize("redirection", UNLOGGED.values(), ids=UNLOGGED)
@pytest.mark.parametrize("program", ["node", "master-shim"])
async def test_a_server_whose_log_cannot_be_written_serves_on(
    tmp_path: Path, folder: Path, program: str, redirection: str
):
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
    script = f'exec "$@" {redirection.replace("$writer", str(writer))}'
    process = subprocess.Popen(["bash", "-c", script, "-", *map(str, command)], pass_fds=[writer], env=buffered)
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
