"""The node's answers, seen by clients: HTTP in its corners, hostile ids, limits, and connections that misbehave."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, package: Package) -> RunningMaster:
    return fakes.master(folder, started=("m1",))


@pytest.fixture
async def node(master: RunningMaster, start_node: StartNode) -> OurNode:
    node = start_node(master.url)
    await node.until_synced("m1")
    return node


async def test_ranges_conditions_and_head(node: OurNode):
    whole = await node.download("m1")
    etag, size = whole.headers["etag"], len(whole.content)
    part = await node.download("m1", headers={"Range": f"bytes={size - 10}-"})
    assert (part.status_code, part.content) == (206, whole.content[-10:])
    assert part.headers["content-range"] == f"bytes {size - 10}-{size - 1}/{size}"
    beyond = await node.download("m1", headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert list(beyond.json()) == ["detail"]
    known = await node.download("m1", headers={"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    exact = await node.download("m1", params={"v": etag.strip('"')})
    assert (exact.status_code, exact.content) == (200, whole.content)
    assert "immutable" in exact.headers["cache-control"]
    async with httpx.AsyncClient(trust_env=False) as client:
        head = await client.head(node.package_url("m1"))
    assert (head.status_code, head.content) == (200, b"")
    same = {"content-length", "etag", "accept-ranges", "content-type", "content-disposition", "cache-control"}
    assert {name: head.headers[name] for name in same} == {name: whole.headers[name] for name in same}
    assert (await node.status())["active_downloads"] == 0


async def test_every_answer_has_cors_and_every_error_a_detail(node: OurNode):
    wrong = [
        ("GET", "/api/v1/meetings/unknown/download-package", 404),
        ("GET", "/api/v1/meetings/m1/download-package?v=zzz", 400),
        ("GET", f"/api/v1/meetings/m1/download-package?v={'0' * 64}", 404),
        ("POST", "/api/v1/meetings/m1/download-package", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/api/config", 403),
        ("POST", "/api/config", 403),
        ("POST", "/api/service/stop", 403),
    ]
    async with httpx.AsyncClient(trust_env=False, base_url=node.url) as client:
        for method, path, status in wrong:
            answer = await client.request(method, path)
            assert (answer.status_code, list(answer.json())) == (status, ["detail"]), path
            assert answer.headers["access-control-allow-origin"] == "*"
        assert "GET" in (await client.post("/health")).headers["allow"]
        preflight = await client.options("/api/v1/meetings/m1/download-package", headers={"Origin": "http://tablet"})
        assert preflight.is_success
        assert preflight.headers["access-control-allow-origin"] == "*"
        for path in ("/", "/health", "/ready", "/api/status"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


async def test_health_and_status_have_the_deployed_fields(node: OurNode, master: RunningMaster, package: Package):
    health = (await node.get("/health")).json()
    assert health.keys() >= {"status", "node_id", "timestamp", "main_server", "storage_path", "sync_interval"}
    assert (health["status"], health["main_server"]) == ("healthy", master.url)
    status = await node.status()
    for name in ("running", "connected", "node_ip", "node_port", "start_time", "last_sync", "meeting_count"):
        assert status[name], name
    assert status["sync_status"] == "同步成功"
    (meeting,) = status["active_meetings"]
    assert meeting["status"] == "synced"
    assert (meeting["id"], meeting["size"], meeting["file_count"]) == ("m1", status["storage_usage"], 7)


HOSTILE = [
    "..",
    "%2e%2e",
    "%2e%2e%2f",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..",
    ".",
    "%00",
    "m1%00",
    "%0a",
    "a" * 10_000,
    "%ef%bc%8e%ef%bc%8e",  # full-width dots
    "%e2%80%a4%e2%80%a4",  # one dot leaders
    "m1%e2%81%84",  # a fraction slash
    "%ef%bd%8d1",  # a full-width m
    "%ff%fe",
    "",
]


@pytest.mark.parametrize("path", HOSTILE)
async def test_hostile_ids_touch_neither_disk_nor_master(node: OurNode, master: RunningMaster, path: str):
    def seen() -> object:
        state = master.state()
        return state["downloads_begun"], state["by_meeting"]

    before_disk = sorted(Path(node.storage).rglob("*"))
    before_master = seen()
    for route in ("/api/v1/meetings/{}/download-package", "/api/meetings/{}/download"):
        # Not through httpx, which tidies paths up.
        answer = await raw(
            node.port, f"GET {route.format(path)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] in {b"404", b"400"}, head
        assert not body or list(json.loads(body)) == ["detail"]
    assert sorted(Path(node.storage).rglob("*")) == before_disk
    assert seen() == before_master


async def raw(port: int, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with trio.fail_after(20):
        async with stream:
            await stream.send_all(request)
            return b"".join([part async for part in stream])


async def test_many_unknown_ids_are_no_work_for_the_master(node: OurNode, master: RunningMaster):
    master.reset()
    with trio.move_on_after(30):
        for number in range(200):
            assert (await node.download(f"guess-{number}")).status_code == 404
    state = master.state()
    assert state["downloads_begun"] == 0
    assert set(state["by_meeting"]) <= {"m1"}


async def test_no_more_downloads_than_allowed(master: RunningMaster, start_node: StartNode):
    node = start_node(master.url, max_downloads=1)
    await node.until_synced("m1")
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("GET", node.package_url("m1")) as first:
        assert first.status_code == 200
        # The body (1.2 MB) fits into no socket buffer of a client that reads nothing... but may into the kernel's.
        refused = await node.download("m1")
        assert refused.status_code in {200, 503}
        if refused.status_code == 503:
            assert refused.headers["retry-after"]
            assert list(refused.json()) == ["detail"]
        assert (await node.download("m1", headers={"If-None-Match": first.headers["etag"]})).status_code == 304
        await first.aread()
    assert (await node.download("m1")).status_code == 200


async def test_a_reader_that_stops_delays_no_shutdown_and_leaves_no_lease(
    fakes: FakeFactory, folder: Path, start_node: StartNode
):
    make_package(folder / "big.zip", make_documents(4, 8_000_000), level=1)
    master = fakes.master(folder, started=("big",))
    node = start_node(master.url)
    await node.until_synced("big")

    def descriptors() -> int:
        return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))

    await eventually(lambda: descriptors() > 0)
    before = descriptors()
    stalled = [stalled_reader(node, "big") for _ in range(5)]

    async def all_active() -> bool:
        return (await node.status())["active_downloads"] == 5

    await eventually(all_active)
    for reader in stalled[:3]:
        reader.close()

    async def two_active() -> bool:
        status = await node.status()
        return status["active_downloads"] == 2 and status["downloads_broken_off"] == 3

    await eventually(two_active)
    assert node.process.stop(within=10) == 0
    for reader in stalled[3:]:
        reader.close()
    assert before > 0


def stalled_reader(node: OurNode, meeting_id: str) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", node.port))
    reader.sendall(f"GET /api/v1/meetings/{meeting_id}/download-package HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return reader


async def test_aborted_downloads_leave_no_descriptor_and_no_count(
    fakes: FakeFactory, folder: Path, start_node: StartNode
):
    make_package(folder / "big.zip", make_documents(4, 8_000_000), level=1)
    master = fakes.master(folder, started=("big",))
    node = start_node(master.url)
    await node.until_synced("big")
    await node.status()

    def descriptors() -> list[str]:
        found = []
        for link in Path(f"/proc/{node.process.pid}/fd").iterdir():
            try:
                found.append(str(link.readlink()))
            except FileNotFoundError:
                continue
        return sorted(name for name in found if ".zip" in name or "socket" in name)

    before = descriptors()
    for _ in range(40):
        readers = [stalled_reader(node, "big") for _ in range(5)]
        for reader in readers:
            reader.close()

    async def quiet() -> bool:
        return (await node.status())["active_downloads"] == 0

    await eventually(quiet)
    await eventually(lambda: len(descriptors()) <= len(before) + 1)


async def test_an_idle_connection_is_closed(node: OurNode):
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    async with stream:
        await stream.send_all(b"GET /api/v1/meetings/m1/download-package HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(20):
            # The end of the stream, and not of a request that said so.
            async for _ in stream:
                pass


async def test_a_second_node_on_the_same_storage_says_that_it_is_taken(
    node: OurNode, master: RunningMaster, start_node: StartNode
):
    second = start_node(master.url, storage=node.storage)
    assert second.process.wait(within=20) == 2
    said = second.process.log()
    assert "taken" in said
    assert f"127.0.0.1:{node.port}" in said
    assert "Traceback" not in said
    assert (await node.download("m1")).status_code == 200


async def test_a_port_in_use_is_said_in_words(node: OurNode, master: RunningMaster, start_node: StartNode):
    second = start_node(master.url, port=node.port)
    assert second.process.wait(within=20) == 2
    assert "cannot listen" in second.process.log()


async def test_status_command_shows_what_the_node_holds(node: OurNode, spawn: Spawner):
    text = spawn(BIN / "trionode", "status", node.url)
    assert text.wait() == 0
    assert "同步成功" in text.log()
    assert "m1" in text.log()
    as_json = spawn(BIN / "trionode", "status", node.url, "--json")
    assert as_json.wait() == 0
    assert json.loads(as_json.log())["meeting_count"] == 1
    nobody = spawn(BIN / "trionode", "status", f"http://127.0.0.1:{free_port()}")
    assert nobody.wait() == 3
    assert "no node answers" in nobody.log()


async def test_bytes_flipped_on_disk_while_the_node_was_off_are_never_served(
    node: OurNode, master: RunningMaster, start_node: StartNode
):
    right = (await node.download("m1")).content
    node.process.stop()
    (stored,) = (node.storage / "packages").glob("*.zip")
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(len(right) // 2)
        file.write(b"flipped!")
    again = start_node(master.url, storage=node.storage)
    await again.until_synced("m1")
    assert digest_of((await again.download("m1")).content) == digest_of(right)
