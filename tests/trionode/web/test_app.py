"""The answers of a running node that are no packages: errors, CORS, health, readiness, status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, package: Package) -> RunningMaster:
    return fakes.master(folder, started=("m1",))


@pytest.fixture
async def node(master: RunningMaster, start_node: StartNode) -> OurNode:
    node = start_node(master.url)
    await node.until_synced("m1")
    return node


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
        assert preflight.status_code == 204
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
