"""What a node listens on: a port, a Unix socket, or sockets passed by systemd."""

from __future__ import annotations

import json
import os
import socket as stdlib_socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.nodes import BIN, OurNode, digest_of, run_serve
from tests.support.packages import make_documents, make_package
from tests.support.processes import ROOT, free_port
from tests.support.waiting import eventually
from trionode.server.listeners import CannotListen, listen_tcp, listening
from trionode.settings import load_settings

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, big: Package) -> RunningMaster:
    return fakes.master(folder, started=("big",))


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path: Path):
    with stdlib_socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve("--host", "127.0.0.1", "--port", str(port), "--storage-path", tmp_path / "s")
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: another program listens there already" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def addresses(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """Let every name have the addresses `found`."""
    asked = stdlib_socket.getaddrinfo

    def resolve(_host: str, port: int, **options: Any) -> list[Any]:
        return [each for address in found for each in asked(address, port, **options)]

    monkeypatch.setattr(stdlib_socket, "getaddrinfo", resolve)


def test_every_address_of_a_name_is_listened_on(monkeypatch: pytest.MonkeyPatch):
    # 192.0.2.1 is for documentation: no machine has it. Names are often listed twice in /etc/hosts.
    addresses(monkeypatch, "192.0.2.1", "127.0.0.1", "::1", "127.0.0.2", "127.0.0.1")
    listeners = listen_tcp("localhost", 0)
    try:
        port = listeners[0].getsockname()[1]
        hosts = [listener.getsockname()[0] for listener in listeners]
        assert [host for host in hosts if host != "::1"] == ["127.0.0.1", "127.0.0.2"]
        assert ("::1" in hosts) == has_ipv6()
        monkeypatch.undo()
        for host in hosts:
            stdlib_socket.create_connection((host, port), timeout=5).close()
    finally:
        for listener in listeners:
            listener.close()


def has_ipv6() -> bool:
    try:
        with stdlib_socket.socket(stdlib_socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_name_of_which_one_address_is_in_use_is_refused_whole(monkeypatch: pytest.MonkeyPatch):
    with stdlib_socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(CannotListen, match="another program listens there already"):
            listen_tcp("localhost", port)
        # The first address is free again.
        stdlib_socket.create_server(("127.0.0.1", port)).close()


def test_a_name_without_an_address_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch):
    addresses(monkeypatch, "192.0.2.1", "192.0.2.3")
    with pytest.raises(CannotListen, match="cannot listen on elsewhere:0: Cannot assign requested address"):
        listen_tcp("elsewhere", 0)


async def test_a_unix_socket(master: RunningMaster, big: Package, start_node: StartNode, tmp_path: Path):
    path = tmp_path / "node.sock"
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as stale:
        stale.bind(str(path))  # as a node that was killed leaves it
    node = start_node(master.url, unix_socket=path)

    def curl(url: str) -> bytes:
        command = ["curl", "-sS", "--max-time", "20", "--unix-socket", path, url]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    await eventually(lambda: json.loads(curl("http://x/ready")).get("synced") == ["big"], within=20)
    assert digest_of(curl(f"http://x{PATH}")) == big.digest
    assert path.stat().st_mode & 0o777 == 0o660
    done = run_serve("--unix-socket", path, "--storage-path", tmp_path / "other")
    assert done.returncode == 2
    assert f"cannot listen on {path}: another program listens there already" in done.stderr
    assert path.exists()
    assert node.process.stop() == 0
    assert not path.exists()
    path.write_text("not a socket")
    done = run_serve("--unix-socket", path, "--storage-path", tmp_path / "other")
    assert done.returncode == 2
    assert "is not a socket" in done.stderr
    assert path.read_text() == "not a socket"


def test_a_unix_socket_that_another_process_has_replaced_is_left(tmp_path: Path):
    path = tmp_path / "node.sock"
    settings = load_settings({"unix_socket": path}, {})
    with listening(settings, {}):
        path.unlink()
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as other:
            other.bind(str(path))
            inode = path.stat().st_ino
    assert path.stat().st_ino == inode
    path.unlink()
    with listening(settings, {}):
        path.unlink()
    assert not path.exists()


PASS_A_SOCKET = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


async def test_socket_activation(master: RunningMaster, big: Package, spawn: Spawner, tmp_path: Path):
    port = free_port()
    env = {"MAIN_SERVER_URL": master.url, "NODE_ADDRESS": f"127.0.0.1:{port}", "STORAGE_PATH": str(tmp_path / "s")}
    # The node itself could not listen there: this host is not an address of this machine.
    command = (BIN / "trionode", "serve", "--host", "192.0.2.1")
    process = spawn(sys.executable, "-c", PASS_A_SOCKET, str(port), *command, env=env, name="activated")
    node = OurNode(process, port, tmp_path / "s")
    await node.until_synced("big")
    assert digest_of((await node.download("big")).content) == big.digest
    assert process.stop() == 0


def test_a_passed_descriptor_that_is_no_socket_is_refused(tmp_path: Path):
    program = PASS_A_SOCKET.replace('socket.create_server(("127.0.0.1", int(sys.argv[1])))', 'open("/dev/null")')
    done = subprocess.run(
        [sys.executable, "-c", program, "0", BIN / "trionode", "serve", "--storage-path", tmp_path / "s"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "descriptor 3" in done.stderr
