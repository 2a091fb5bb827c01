"""Several processes at one address."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from master_shim.workers import SETTLE_SECONDS, WorkerCheck, name_of
from tests.support.processes import ROOT, free_port
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Spawner

WORDS = "another process serves"


@pytest.fixture
def server() -> tuple[str, int]:
    """An address that no other test has."""
    return ("192.0.2.1", free_port())


@pytest.fixture
def other_process(server: tuple[str, int]) -> Iterator[socket.socket]:
    """What another process holds that serves this address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        held.bind(name_of(server))
        yield held


def test_another_process_is_logged_once_when_it_stays(
    server: tuple[str, int], other_process: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    check = WorkerCheck()
    for now in (10.0, 10.1, 9.9 + SETTLE_SECONDS):
        check.check(server, now)
        assert WORDS not in caplog.text
    for now in (10.0 + SETTLE_SECONDS, 100.0):
        check.check(server, now)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"another process serves 192.0.2.1:{server[1]} too")


def test_the_previous_process_may_answer_its_last_requests(
    server: tuple[str, int], other_process: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    check = WorkerCheck()
    check.check(server, 10.0)
    other_process.close()
    check.check(server, 10.0 + SETTLE_SECONDS)
    assert caplog.text == ""


def test_several_shims_in_one_process_are_several_masters(
    server: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    for check in (WorkerCheck(), WorkerCheck()):
        for now in (10.0, 100.0):
            check.check(server, now)
            check.check((f"/run/{server[1]}.sock", None), now)
    assert caplog.text == ""


def test_processes_whose_servers_do_not_tell_the_address_are_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        held.bind(name_of(()))
        check = WorkerCheck()
        for now in (10.0, 100.0):
            check.check(None, now)
    assert caplog.text == ""


def test_a_process_that_ends_has_no_unclosed_socket() -> None:
    """Python would warn of it, and the tests of a master that mounts a shim may treat warnings as errors."""
    check = f"WorkerCheck().check(('192.0.2.1', {free_port()}), 1.0)"
    code = f"from master_shim.workers import WorkerCheck; {check}"
    ended = subprocess.run([sys.executable, "-W", "always", "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert ended.stderr == b""


@pytest.mark.parametrize("program", ["uvicorn", "hypercorn"])
def test_workers_of_a_real_server_are_logged(spawn: Spawner, tmp_path: Path, program: str) -> None:
    (tmp_path / "packages").mkdir()
    port = free_port()
    where = {"uvicorn": ("--port", str(port)), "hypercorn": ("--bind", f"127.0.0.1:{port}")}[program]
    command = (Path(sys.executable).parent / program, "examples.fastapi_mount:app", "--workers", "2", *where)
    process = spawn(*command, env={"PACKAGES": str(tmp_path / "packages"), "PYTHONPATH": str(ROOT)})
    process.wait_port(port)

    def logged() -> bool:
        for _ in range(20):  # each on a connection of its own: which process accepts it is left to the system
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
        return WORDS in process.log()

    eventually_blocking(logged, within=60, what="the warning")
