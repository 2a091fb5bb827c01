"""Fixtures for tests of the commands: a storage folder, commands on it, and a node that runs on it."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from store import Store
from tests.support.masters import ShimMaster
from tests.support.nodes import BIN
from tests.support.packages import rebuild
from trionode.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

    Run = Callable[..., tuple[int, dict[str, Any]]]
    Trionode = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """An empty storage folder."""
    path = tmp_path / "storage"
    Store.open(path).close()
    return path


@pytest.fixture
def rebuilt(package: Package, folder: Path) -> Package:
    """`package` with one of its six documents replaced."""
    later = package.made_at + timedelta(hours=1)
    return rebuild(package, made_at=later, replaced=[2], path=folder / "m1-rebuilt.zip")


@pytest.fixture
def run(storage: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command with `--json` on the storage: its exit status and what it printed."""

    def run(*arguments: str | Path, url: str = "http://127.0.0.1:9") -> tuple[int, dict[str, Any]]:
        command = [*map(str, arguments), "--json", "--storage-path", str(storage)]
        if arguments[0] in {"verify", "diff"}:
            command += ["--main-server", url]
        if "--repair" in arguments:  # configures the logs of its process
            done = subprocess.run([BIN / "trionode", *command], capture_output=True, text=True, timeout=60, check=False)
            status, out, err = done.returncode, done.stdout, done.stderr
        else:
            status = main(command)
            out, err = capfd.readouterr()
        return status, json.loads(out) if out else {"error": err}

    return run


@pytest.fixture
def trionode() -> Trionode:
    """Return a function that runs the command `trionode` as a process, without blocking the test."""

    async def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return await trio.to_thread.run_sync(
            lambda: subprocess.run(
                [BIN / "trionode", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
            )
        )

    return command


@pytest.fixture
async def node(spawn: Spawner, folder: Path, package: Package, storage: Path, start_node: StartNode) -> OurNode:
    """A node with the package of the meeting m1, on the storage of the commands."""
    node = start_node(ShimMaster(spawn, folder).url, storage=storage)
    await node.until_synced("m1")
    return node
