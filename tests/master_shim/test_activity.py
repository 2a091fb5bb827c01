"""What the log says about nodes, packages and the downloads that the master sends itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from master_shim import DirectoryPackages, MasterShim, MasterShimMiddleware
from master_shim.activity import MAX_NAMES, REPEAT_SECONDS, Repeats
from tests.support.shim_app import API, client_of, heartbeat, put


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "master_shim")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about nodes and downloads since the last call."""
    records = [record for record in caplog.records if record.name == "master_shim.activity"]
    caplog.clear()
    return [f"{record.levelname} {record.getMessage()}" for record in records]


async def post(client: httpx.AsyncClient, action: str, node_id: str, **fields: Any) -> None:
    body = {"node_id": node_id, "address": f"{node_id}:8001", "status": "online", **fields}
    assert (await client.post(f"{API}/nodes/{action}", json=body)).status_code == 200


async def test_the_life_of_a_node_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:
        await post(client, "register", "n1")
        assert lines(caplog) == ["INFO node n1 at n1:8001 joined"]
        await heartbeat(client, "n1", {})
        await heartbeat(client, "n1", {})
        assert lines(caplog) == []
        await post(client, "register", "n1")
        assert lines(caplog) == ["INFO node n1 at n1:8001 registered again"]
        await heartbeat(client, "n1", {})
        now += 13
        # Noticed with any request.
        assert (await client.get("/nothing")).status_code == 404
        assert lines(caplog) == [
            "WARNING node n1 at n1:8001 is late: no heartbeat for 13 s; no client is sent to it until the next"
        ]
        now += 4
        await heartbeat(client, "n1", {})
        assert lines(caplog) == ["INFO node n1 at n1:8001 is back; its last heartbeat was 17 s ago"]
        for _ in range(2):
            await heartbeat(client, "n1", {}, load={"draining": True})
        assert lines(caplog) == ["INFO node n1 at n1:8001 drains; no client is sent to it"]
        await post(client, "unregister", "n1")
        assert lines(caplog) == ["INFO node n1 at n1:8001 left"]
        await heartbeat(client, "n2", {}, protocol=0)
        now += 31
        await client.get("/health")
        assert lines(caplog) == [
            "INFO node n2 at n2:8001 joined",
            "WARNING node n2 at n2:8001 is lost: no heartbeat for 31 s",
        ]


async def test_silence_is_noticed_while_no_request_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    app = MasterShim(DirectoryPackages(tmp_path), clock=trio.current_time)
    to_app, incoming = trio.open_memory_channel[Any](10)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with trio.open_nursery() as nursery:
        await to_app.send({"type": "lifespan.startup"})
        nursery.start_soon(app, {"type": "lifespan"}, incoming.receive, send)
        async with client_of(app) as client:
            await heartbeat(client, "n1", {})  # in a thread, for which the clock would not wait
        mock_clock.autojump_threshold = 0
        await trio.sleep(13.5)
        assert [line.split(":")[0] for line in lines(caplog)[1:]] == ["WARNING node n1 at n1"]
        assert sent == ["lifespan.startup.complete"]
        await trio.sleep(18)
        assert lines(caplog) == ["WARNING node n1 at n1:8001 is lost: no heartbeat for 30 s"]
        await to_app.send({"type": "lifespan.shutdown"})
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_as_middleware_silence_is_noticed_at_requests_of_the_master_s_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def master(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    now = 0.0
    shim = MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)
    async with client_of(MasterShimMiddleware(master, shim=shim)) as client:
        await heartbeat(client, "n1", {})
        now = 12.0
        await client.get(f"{API}/meetings/status/token")
    assert " is late" in lines(caplog)[-1]


async def test_a_download_that_the_master_sends_itself_is_logged_once_a_minute_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now, digest, other = 0.0, put(tmp_path, "m.zip"), put(tmp_path, "k.zip", b"PK")
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:

        async def download(meeting: str, action: str = "download-package") -> list[str]:
            await client.get(f"{API}/meetings/{meeting}/{action}")
            return [line for line in lines(caplog) if "itself" in line]

        itself = "WARNING the master sends the package of m itself, because "
        assert await download("m") == [f"{itself}no node is registered"]
        for _ in range(3):
            assert await download("m") == []
        assert len(await download("k")) == 1  # each meeting has its own minute
        assert (await client.head(f"{API}/meetings/k/download-package")).status_code == 200

        await heartbeat(client, "late", {"m": digest})
        now = 59.0
        assert await download("m") == []
        await heartbeat(client, "late", {"m": digest})
        now = 75.0
        await heartbeat(client, "drains", {"m": digest}, load={"draining": True})
        await heartbeat(client, "offline", {"m": digest}, status="offline")
        await heartbeat(client, "address", {"m": digest}, address="without-port")
        await heartbeat(client, "fills", {}, filling=[digest])
        await heartbeat(client, "lacks", {"m": other})
        await heartbeat(client, "lacks-too", {})
        await heartbeat(client, "full", {"m": digest}, load={"active_downloads": 7, "max_downloads": 7})
        await post(client, "register", "new")
        said = (
            "of the nodes, 1 late, 1 draining, 1 offline, 1 without a valid address, 1 still fetching it, "
            "2 without its current version, 1 at max_downloads, 1 just registered "
            "(4 more clients since the last such line)"
        )
        assert await download("m", "download-nodes-info") == [itself + said]
        now = 135.0
        await heartbeat(client, "n1", {"m": digest})
        for _ in range(2):
            answer = await client.get(f"{API}/meetings/m/download-package")
            assert answer.status_code == 302
        assert await download("m") == [f"{itself}of the nodes, 1 tried twice by this client"]


async def test_several_nodes_that_fetch_a_package_from_the_master_are_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now, digest, other = 100.0, put(tmp_path, "m.zip"), put(tmp_path, "k.zip", b"PK")
    unknown = "0" * 64
    async with client_of(MasterShim(DirectoryPackages(tmp_path), clock=lambda: now)) as client:
        await client.get(f"{API}/meetings/status/token")  # reads the packages

        async def said_after(seconds: float, **sources: dict[str, str]) -> list[str]:
            nonlocal now
            for name, of in sources.items():
                await heartbeat(client, name, {}, filling=[*of], sources=of)
            now += seconds
            await client.get("/health")
            return [line for line in lines(caplog) if "at once" in line]

        # A node does not know its source yet when a fetch begins, and the first node fetches from the master.
        assert await said_after(5, n1={digest: ""}, n2={digest: ""}, n3={digest: ""}) == []
        assert await said_after(5, n1={digest: ""}, n2={digest: "n1"}, n3={digest: "n2"}) == []
        assert await said_after(10, n1={digest: ""}, n2={digest: "n1"}, n3={other: ""}) == []
        # Nobody here has seen this version, which anyone may claim to fetch.
        assert await said_after(10, n1={unknown: ""}, n2={unknown: ""}) == []
        assert await said_after(10, n1={unknown: ""}, n2={unknown: ""}) == []

        assert await said_after(10, n1={digest: ""}, n2={digest: "", other: ""}, n3={digest: "n1"}) == []
        (line,) = await said_after(10, n1={digest: ""}, n2={digest: "", other: ""}, n3={other: ""})
        assert line.startswith("WARNING the master sends m.zip to 2 nodes at once (n1, n2), which could fetch it from ")
        many = {f"n{number}": {digest: ""} for number in range(9)}
        for _ in range(5):
            assert await said_after(10, **many, k1={other: ""}) == []
        (line,) = await said_after(10, **many, k1={other: ""})
        assert "9 nodes at once (n0, n1, n2, n3, n4 and 4 more)" in line


async def test_a_new_version_of_a_package_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        for data, new in ((b"PK one", True), (b"PK one", False), (b"PK two!", True)):
            digest = put(tmp_path, "m.zip", data)
            await client.get(f"{API}/meetings/status/token")
            said = f"package {tmp_path}/m.zip: version {digest[:12]}, {len(data)} bytes"
            assert [record.getMessage() for record in caplog.records] == [said] * new
            caplog.clear()


def test_the_names_of_repeated_events_are_limited() -> None:
    repeats = Repeats()
    for number in range(MAX_NAMES + 1):
        assert repeats.pass_one(f"m{number}", 0.0) == 0
    assert repeats.pass_one("m1", REPEAT_SECONDS - 0.1) is None
    assert repeats.pass_one("m0", REPEAT_SECONDS - 0.1) == 0  # forgotten
    assert repeats.pass_one("m2", REPEAT_SECONDS - 0.1) is None
    assert repeats.pass_one("m2", REPEAT_SECONDS) == 1
