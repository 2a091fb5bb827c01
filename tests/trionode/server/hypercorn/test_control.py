"""The control socket of a running node, under every server."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from tests.support.masters import ShimMaster
from tests.support.nodes import STARTS
from tests.support.waiting import eventually
from trionode.cli.node_client import node_of
from trionode.server.hypercorn.control import ControlServer
from trionode.web.control import SOCKET, short_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.nodes import OurNode, Start
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

NO_MASTER = "http://127.0.0.1:1"


async def call(node: OurNode, method: str, path: str) -> dict[str, Any]:
    """Return the answer on the control socket. Raises `CommandFailed`."""

    def ask() -> dict[str, Any]:
        with node_of(node.storage) as client:
            return client.call(method, path)

    return await trio.to_thread.run_sync(ask)


@contextmanager
def connected(storage: Path) -> Iterator[socket.socket]:
    """Connect to the control socket of a storage folder."""
    with socket.socket(socket.AF_UNIX) as client, short_path(storage) as path:
        client.settimeout(10)
        client.connect(path)
        yield client


def curl(storage: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of an answer to curl, as an administrator would ask."""
    command = ["curl", "-sS", "-w", "\n%{http_code}", "--unix-socket", SOCKET, *arguments]
    done = subprocess.run(command, cwd=storage, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("how", STARTS)
async def test_status_sync_reload_and_drain_under_every_server(
    spawn: Spawner, folder: Path, start_node: StartNode, how: Start
):
    master = ShimMaster(spawn, folder)
    node = start_node(master.url, how=how)
    await node.until_up()
    await eventually(lambda: len(master.nodes()) == 1, within=20)
    path = node.storage / SOCKET
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == 0o600
    found, over_tcp = await call(node, "GET", "/api/status"), await node.status()
    assert found.keys() == over_tcp.keys()
    assert (found["node_id"], found["start_time"]) == (over_tcp["node_id"], over_tcp["start_time"])
    assert await call(node, "POST", "/api/service/sync") == {"master_error": ""}
    assert await call(node, "POST", "/api/service/reload") == {"changed": [], "needs_restart": []}
    ends = how in {"serve", "module"}
    assert await call(node, "POST", "/api/service/drain") == {"ends": ends}
    await eventually(lambda: master.nodes() == [])
    if not ends:
        assert (await node.get("/ready")).json()["detail"] == "this node is not serving: it is draining"
        assert (await call(node, "GET", "/api/status"))["active_downloads"] == 0
        node.process.stop()
    assert node.process.wait() == 0
    assert not path.exists()


async def test_curl_can_use_the_socket(start_node: StartNode):
    node = start_node(NO_MASTER)
    await node.until_up()
    status, found = curl(node.storage, "http://node/api/status")
    assert (status, found["node_port"]) == (200, node.port)
    assert curl(node.storage, "-X", "POST", "http://node/api/service/reload")[0] == 200
    # With a body, which no route reads.
    assert curl(node.storage, "-d", "a=b", "http://node/api/service/reload")[0] == 200
    for arguments, expected in (
        (("http://node/nowhere",), 404),
        (("http://node/api/service/drain",), 405),
        (("-X", "POST", "http://node/api/service/stop"), 403),
        (("http://node/api/config",), 403),
        (("http://node/api/v1/meetings/m1/download-package",), 503),
    ):
        status, found = curl(node.storage, *arguments)
        assert (status, list(found)) == (expected, ["detail"]), arguments
    status, found = curl(node.storage, "-X", "POST", "http://node/api/service/drain")
    assert (status, found) == (200, {"ends": True})
    assert node.process.wait() == 0


@pytest.mark.parametrize("how", ["serve", "hypercorn", "hypercorn-trio"])
async def test_sync_drain_and_reload_are_refused_over_tcp(start_node: StartNode, how: Start):
    node = start_node(NO_MASTER, how=how)
    await node.until_up()
    async with httpx.AsyncClient(trust_env=False, base_url=node.url) as client:
        for name in ("sync", "drain", "reload"):
            answer = await client.post(f"/api/service/{name}", headers={"Host": "node"})
            assert (answer.status_code, list(answer.json())) == (403, ["detail"])
    assert (await node.get("/ready")).status_code == 200


async def test_sync_drain_and_reload_are_refused_on_the_unix_socket_of_clients(start_node: StartNode, tmp_path: Path):
    path = tmp_path / "node.sock"
    node = start_node(NO_MASTER, unix_socket=path)
    await eventually(path.is_socket, within=20)
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        for name in ("sync", "drain", "reload"):
            assert (await client.post(f"/api/service/{name}")).status_code == 403
    assert (await call(node, "GET", "/api/status"))["running"]


async def test_a_storage_folder_with_a_very_long_path_has_a_socket(start_node: StartNode, tmp_path: Path):
    # A socket's address has at most 107 bytes.
    storage = tmp_path / ("会" * 60) / ("long" * 40)
    storage.mkdir(parents=True)
    node = start_node(NO_MASTER, storage=storage)
    await node.until_up()
    assert (storage / SOCKET).stat().st_mode & 0o777 == 0o600
    assert (await call(node, "GET", "/api/status"))["node_port"] == node.port
    assert node.process.stop() == 0
    assert not (storage / SOCKET).exists()


async def test_the_socket_of_a_killed_node_does_not_prevent_the_next_start(start_node: StartNode):
    node = start_node(NO_MASTER)
    await node.until_up()
    node.process.kill()
    assert (node.storage / SOCKET).is_socket()
    again = start_node(NO_MASTER, storage=node.storage)
    await again.until_up()
    assert (await call(again, "GET", "/api/status"))["node_port"] == again.port
    assert again.process.stop() == 0
    assert not (node.storage / SOCKET).exists()


async def test_a_node_starts_and_serves_without_a_socket_where_none_can_be_made(start_node: StartNode, tmp_path: Path):
    storage = tmp_path / "storage"
    (storage / SOCKET / "x").mkdir(parents=True)  # a folder with this name can be neither removed nor bound
    node = start_node(NO_MASTER, storage=storage)
    await node.until_up()
    await node.until_logged("no control socket")
    assert (await node.get("/ready")).status_code == 200
    assert node.process.stop() == 0


HEAD = b"Host: node\r\n"
HOSTILE = {
    "TLS": b"\x16\x03\x01\x00\xa5\x01\xff\xfe\r\n\r\n",
    "zeros": bytes(1000),
    "endless target": b"GET /" + b"a" * 100_000,
    "endless head": b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\n" + HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "wrong chunk": b"POST / HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "cut body": b"POST /api/service/reload HTTP/1.1\r\n" + HEAD + b"Content-Length: 10\r\n\r\nab",
    "large body": b"POST /health HTTP/1.1\r\n" + HEAD + b"Content-Length: 500000000\r\n\r\n" + bytes(200_000),
    "unending body": b"POST /health HTTP/1.1\r\n"
    + HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + 9 * (b"10000\r\n" + bytes(1 << 16) + b"\r\n"),
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "no slash": b"GET health HTTP/1.1\r\n" + HEAD + b"\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n",
    "zero byte": b"GET /%00%ff HTTP/1.1\r\n" + HEAD + b"\r\n",
    "not UTF-8": b"GET /health HTTP/1.1\r\n" + HEAD + b"Cookie: \xff\xfe\r\n\r\n",
    "upgrade": b"GET /health HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "WebSocket": b"GET /health HTTP/1.1\r\n"
    + HEAD
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    "HEAD": b"HEAD /api/status HTTP/1.1\r\n" + HEAD + b"\r\n",
    "answer not read": b"GET /metrics HTTP/1.1\r\n" + HEAD + b"\r\n",
    "nothing": b"",
}


async def test_hostile_bytes_end_only_their_connection(start_node: StartNode):
    node = start_node(NO_MASTER)
    await node.until_up()
    waiting = (await call(node, "GET", "/api/status"))["start_time"]
    with connected(node.storage) as other:
        other.sendall(b"GET /api/status HTTP/1.1\r\n")  # the rest follows below
        for data in HOSTILE.values():
            for read in (True, False):
                with connected(node.storage) as client:
                    try:
                        client.sendall(data)
                        if read:
                            client.shutdown(socket.SHUT_WR)
                            await trio.to_thread.run_sync(read_all, client)
                    except (BrokenPipeError, ConnectionResetError):
                        pass  # the node has closed it
        other.sendall(b"Host: node\r\n\r\n")
        answer = await trio.to_thread.run_sync(read_all, other)
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["start_time"] == waiting
    assert (await node.get("/health")).status_code == 200
    assert "crashed" not in node.process.log()
    assert "Traceback" not in node.process.log()
    assert node.process.stop() == 0


def read_all(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


async def test_a_control_request_leaves_the_log_of_the_server_as_it_is(tmp_path: Path):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    logger = logging.getLogger("hypercorn.error")
    before = (list(logger.handlers), logger.level, logger.propagate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ControlServer(tmp_path, app).run)
        await eventually((tmp_path / SOCKET).exists, what="the socket")
        with short_path(tmp_path) as path:
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 204")
        nursery.cancel_scope.cancel()
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_the_path_of_the_socket_needs_no_proc_unless_it_is_long(tmp_path: Path):
    with short_path(Path("storage")) as path:
        assert path == f"storage/{SOCKET}"
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with short_path(deep) as path:
        assert len(path) < 50
        assert Path(path).parent.samefile(deep)
