"""The edges of the server: clients that take their time or too much, TLS, and what it listens on."""

from __future__ import annotations

import json
import os
import resource
import socket as stdlib_socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from tests.support.clients import asking
from tests.support.nodes import BIN, OurNode, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import ROOT, free_port, memory_of
from tests.support.waiting import eventually, eventually_blocking

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.packages import Package
    from tests.support.processes import Process, Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


@pytest.fixture
def big(folder: Path) -> Package:
    """More than the buffers between a node and a client hold."""
    return make_package(folder / "big.zip", make_documents(4, 4_000_000), level=1)


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, big: Package) -> RunningMaster:
    return fakes.master(folder, started=("big",))


# -- Clients


async def test_a_reader_below_the_least_pace_is_cut_off_and_one_above_it_is_not(
    master: RunningMaster, big: Package, start_node: StartNode
):
    node = start_node(master.url, progress_seconds=1, progress_bytes="64K")
    await node.until_synced("big")
    async with asking(node.port, PATH) as stopped, asking(node.port, PATH) as slow, trio.open_nursery() as nursery:
        await stopped.read_head()
        await slow.read_head()
        nursery.start_soon(slow.read_slowly, 1_500_000)

        async def broken_off() -> bool:
            return (await node.status())["downloads_broken_off"] == 1

        await eventually(broken_off, within=20)
        with trio.move_on_after(2):
            await trio.sleep_forever()
        assert (await node.status())["downloads_broken_off"] == 1
        nursery.cancel_scope.cancel()
        assert digest_of(await slow.read_rest()) == big.digest


@pytest.mark.parametrize("how", ["serve", "hypercorn-trio"])
async def test_headers_that_never_end_are_cut_off(start_node: StartNode, how: str):
    node = start_node("http://127.0.0.1:1", how=how)
    await node.until_up()
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(b"GET /health HTTP/1.1\r\n")

        async def trickle() -> None:
            try:
                while True:
                    await stream.send_all(b"X-A: b\r\n")
                    await trio.sleep(0.2)
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(trickle)
        with trio.fail_after(15):
            try:
                while await stream.receive_some(1024):
                    pass
            except trio.BrokenResourceError:
                pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["serve", "hypercorn-trio"])
async def test_an_upgrade_that_cannot_be_made_ends_no_other_connection(start_node: StartNode, how: str):
    node = start_node("http://127.0.0.1:1", how=how)
    await node.until_up()
    other = await trio.open_tcp_stream("127.0.0.1", node.port)
    async with other:
        await other.send_all(b"GET /health HTTP/1.1\r\n")
        for settings in (b"AAAA", b"!", b"", b"AAMAAABkAAQCAAAAAAIAAAA"):
            fields = b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: " + settings
            stream = await trio.open_tcp_stream("127.0.0.1", node.port)
            async with stream:
                await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n")
                with trio.fail_after(15):
                    await stream.receive_some(1024)
        await other.send_all(b"Host: x\r\n\r\n")
        with trio.fail_after(15):
            assert (await other.receive_some(1024)).startswith(b"HTTP/1.1 200")
    assert node.process.returncode is None


STARTS = ("serve", "hypercorn-trio")
"""Not plain `hypercorn`: its asyncio worker now and then keeps the connection of a client that floods it, until that
client gives up. It costs that client alone."""


@pytest.mark.parametrize("how", STARTS)
async def test_a_body_is_refused_before_it_is_kept(start_node: StartNode, how: str):
    node = start_node("http://127.0.0.1:1", how=how)
    await node.until_up()
    head = "HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    said = await talk(node, f"POST / {head}Content-Length: 65537\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"access-control-allow-origin: *" in said.lower()
    assert json.loads(said.partition(b"\r\n\r\n")[2]) == {"detail": "The request body is too large"}
    # Within the limit, and never sent: no route wants it.
    assert (await talk(node, f"GET /health {head}Content-Length: 65536\r\n\r\nab".encode())).startswith(b"HTTP/1.1 200")
    pid = node.process.pid
    before = memory_of(pid, "VmHWM")
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    for method in ("POST", "GET"):
        path = PATH if method == "GET" else "/"
        said = await talk(node, f"{method} {path} {head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk, 500)
        # A route may have answered before its body was seen to be too long.
        assert said[:13] in {b"HTTP/1.1 413 ", b"HTTP/1.1 405 ", b"HTTP/1.1 503 ", b""}, said
    assert memory_of(pid, "VmHWM") - before < 8 << 20
    assert (await node.get("/health")).status_code == 200


async def talk(node: OurNode, request: bytes, then: bytes = b"", times: int = 0) -> bytes:
    """Send a request and what follows it, and return all that is said until the node closes."""
    said = b""
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    with trio.fail_after(20):
        async with stream, trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await stream.send_all(request)
                    for _ in range(times):
                        await stream.send_all(then)
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(send)
            try:
                while part := await stream.receive_some(65536):
                    said += part
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
    return said


async def test_a_client_too_many_is_refused_and_the_next_is_served_when_one_has_gone(start_node: StartNode):
    node = start_node("http://127.0.0.1:1", max_connections=3)
    await node.until_up()

    async def free() -> bool:
        return (await node.get("/health")).status_code == 200

    await eventually(free)
    streams: list[trio.SocketStream] = []

    async def served() -> bool:
        """Hold one more connection open, if the last that was closed is no longer counted."""
        stream = await trio.open_tcp_stream("127.0.0.1", node.port)
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        if not (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200"):
            await stream.aclose()
            return False
        streams.append(stream)
        return True

    try:
        for _ in range(3):
            await eventually(served)
        refused = await node.get("/health")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
        assert refused.json() == {"detail": "Too many connections now"}
        assert refused.headers["access-control-allow-origin"] == "*"
        await streams.pop().aclose()
        await eventually(free)
    finally:
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("how", STARTS)
async def test_the_limit_of_open_files_is_raised(start_node: StartNode, how: str):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        node = start_node("http://127.0.0.1:1", how=how)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await node.until_up()
    pids = [node.process.pid, *_workers(node.process)]
    limits = [
        line.split()[3:5]
        for pid in pids
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    ]
    assert limits[-1] == [str(hard), str(hard)]


def _workers(process: Process) -> list[int]:
    from tests.support.processes import children

    return children(process.pid)


# -- What it listens on


def curl(*arguments: str | Path) -> bytes:
    done = subprocess.run(["curl", "-sS", "--max-time", "20", *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Certificate:
    def __init__(self, folder: Path) -> None:
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(self.ca)
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.cert, append=True)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


@pytest.mark.parametrize(("option", "protocol"), [("--http1.1", "1.1"), ("--http2", "2")])
async def test_https_and_http_2(
    master: RunningMaster,
    big: Package,
    start_node: StartNode,
    certificate: Certificate,
    tmp_path: Path,
    option: str,
    protocol: str,
):
    node = start_node(master.url, certfile=certificate.cert, keyfile=certificate.key)
    base = f"https://127.0.0.1:{node.port}"
    trust = ("--cacert", certificate.ca, option)

    def synced() -> bool:
        done = subprocess.run(["curl", "-s", *map(str, trust), f"{base}/ready"], capture_output=True, check=False)
        return done.returncode == 0 and json.loads(done.stdout).get("synced") == ["big"]

    await eventually(synced, within=20)
    target = tmp_path / "got.zip"
    version = curl(*trust, "-o", target, "-w", "%{http_version}", base + PATH)
    assert version.decode() == protocol
    assert digest_of(target.read_bytes()) == big.digest
    part = curl(*trust, "-r", "1000000-2999999", base + PATH)
    assert part == target.read_bytes()[1_000_000:3_000_000]
    assert node.process.stop() == 0


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
async def test_a_client_of_https_that_stops_reading_is_cut_off(
    master: RunningMaster, big: Package, start_node: StartNode, certificate: Certificate, tmp_path: Path, option: str
):
    node = start_node(master.url, certfile=certificate.cert, keyfile=certificate.key, progress_seconds=1)
    base, trust = f"https://127.0.0.1:{node.port}", ("--cacert", certificate.ca)

    def status() -> dict[str, int]:
        return json.loads(curl(*trust, f"{base}/api/status"))

    def synced() -> bool:
        done = subprocess.run(["curl", "-s", *map(str, trust), f"{base}/ready"], capture_output=True, check=False)
        return done.returncode == 0 and json.loads(done.stdout).get("synced") == ["big"]

    await eventually(synced, within=20)
    stopped = subprocess.Popen(
        ["curl", "-sS", option, "--limit-rate", "1000", *map(str, trust), "-o", tmp_path / "part", base + PATH],
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually_blocking(lambda: status()["active_downloads"] == 1)
        eventually_blocking(lambda: status()["downloads_broken_off"] == 1, within=20)
    finally:
        stopped.kill()
        stopped.wait()
    assert node.process.stop() == 0


@pytest.mark.parametrize("missing", ["certfile", "keyfile"])
def test_half_of_a_certificate_is_refused(certificate: Certificate, missing: str):
    given = {"certfile": certificate.cert, "keyfile": certificate.key}
    del given[missing]
    (name, path), *_ = given.items()
    done = serve(f"--{name}", path)
    assert done.returncode == 2
    assert f"'{missing}'" in done.stderr


def test_a_certificate_that_cannot_be_used_is_refused(certificate: Certificate):
    done = serve("--certfile", certificate.key, "--keyfile", certificate.key)
    assert done.returncode == 2
    assert str(certificate.key) in done.stderr
    done = serve("--certfile", "/nowhere/cert.pem", "--keyfile", certificate.key)
    assert done.returncode == 2
    assert "/nowhere/cert.pem" in done.stderr


def test_a_storage_folder_that_is_none_is_said_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    done = serve("--storage-path", tmp_path / "file", "--host", "127.0.0.1", "--port", "0")
    assert done.returncode == 2
    assert f"cannot start: the storage folder {tmp_path / 'file'} cannot be used" in done.stderr
    assert "--storage-path" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def serve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a node that cannot start."""
    command = [BIN / "trionode", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


async def test_a_unix_socket(master: RunningMaster, big: Package, start_node: StartNode, tmp_path: Path):
    path = tmp_path / "node.sock"
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as left:
        left.bind(str(path))  # as one that was killed leaves it
    node = start_node(master.url, unix_socket=path)

    def synced() -> bool:
        done = subprocess.run(["curl", "-s", "--unix-socket", path, "http://x/ready"], capture_output=True, check=False)
        return done.returncode == 0 and json.loads(done.stdout).get("synced") == ["big"]

    await eventually(synced, within=20)
    assert digest_of(curl("--unix-socket", path, f"http://x{PATH}")) == big.digest
    assert path.stat().st_mode & 0o777 == 0o660
    done = serve("--unix-socket", path, "--storage-path", tmp_path / "other")
    assert done.returncode == 2
    assert f"cannot listen on {path}: another process listens there" in done.stderr
    assert path.exists()
    assert node.process.stop() == 0
    assert not path.exists()
    path.write_text("not a socket")
    assert "no socket" in serve("--unix-socket", path, "--storage-path", tmp_path / "other").stderr
    assert path.read_text() == "not a socket"


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
    # It would refuse to listen there itself: the settings' own host is none of this machine's.
    command = (BIN / "trionode", "serve", "--host", "192.0.2.1")
    process = spawn(sys.executable, "-c", PASS_A_SOCKET, str(port), *command, env=env, name="activated")
    node = OurNode(process, port, tmp_path / "s")
    await node.until_synced("big")
    assert digest_of((await node.download("big")).content) == big.digest
    assert process.stop() == 0


def test_what_is_passed_and_no_socket_is_refused(tmp_path: Path):
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
