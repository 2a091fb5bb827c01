"""What a running node answers to other nodes: what it is, how far it is, and packages."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import msgspec
import pytest

from master_shim.protocol import PROTOCOL, FillProgress, NodeHealth

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory, RunningMaster
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode

MEETING = "/api/v1/meetings/m1"
ASKER = {"Trionode-Peer": "another-node", "Accept-Encoding": "identity"}


@pytest.fixture
def master(fakes: FakeFactory, folder: Path, package: Package) -> RunningMaster:
    return fakes.master(folder, started=("m1",))


async def test_a_node_tells_other_nodes_what_it_has_and_sends_it(
    master: RunningMaster, package: Package, start_node: StartNode
):
    node = start_node(master.url)
    await node.until_synced("m1")
    health = msgspec.json.decode((await node.get("/health")).content, type=NodeHealth)
    assert health == NodeHealth((await node.status())["node_id"], PROTOCOL, "auto")
    data = package.path.read_bytes()
    listed = httpx.get(f"{master.url}/api/v1/meetings/status/token", trust_env=False)
    token = quote(listed.json()["id"])
    held = FillProgress(len(data), len(data), package.digest, held=True)
    for query, wanted in (
        (f"v={package.digest}", held),
        (f"token={token}", held),
        ("v=" + "0" * 64, FillProgress()),
        ("token=another", FillProgress()),
    ):
        answer = await node.get(f"{MEETING}/fill?{query}")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert msgspec.json.decode(answer.content, type=FillProgress) == wanted
    for path, status in ((f"{MEETING}/fill?v=x", 400), ("/api/v1/meetings/%2e%2e/fill?v=x", 404)):
        assert (await node.get(path)).status_code == status

    answer = await node.get(f"{MEETING}/download-package?v={package.digest}", headers=ASKER | {"Range": "bytes=9-99"})
    assert (answer.status_code, answer.content) == (206, data[9:100])
    answer = await node.get(f"{MEETING}/download-package?token={token}&from=1000", headers=ASKER)
    assert (answer.status_code, answer.content) == (200, data[1000:])
    status = await node.status()
    assert (status["bytes_sent"], status["bytes_sent_to_peers"]) == (0, 91 + len(data) - 1000)
    metrics = await node.metrics()
    assert metrics["trionode_sent_bytes_total{to=peer}"] == status["bytes_sent_to_peers"]
    # To a client the queries of nodes mean nothing.
    answer = await node.get(f"{MEETING}/download-package?token={token}&from=1000")
    assert (answer.status_code, answer.content) == (200, data)
    status = await node.status()
    assert (status["downloads_finished"], status["bytes_sent"]) == (1, len(data))


async def test_with_peers_off_a_node_sends_nothing_to_other_nodes(
    master: RunningMaster, package: Package, start_node: StartNode
):
    node = start_node(master.url, peers="off")
    await node.until_synced("m1")
    health = msgspec.json.decode((await node.get("/health")).content, type=NodeHealth)
    assert (health.protocol, health.peers) == (PROTOCOL, "off")
    query = f"v={package.digest}"
    for path, fields in ((f"{MEETING}/fill?{query}", {}), (f"{MEETING}/download-package?{query}", ASKER)):
        assert (await node.get(path, headers=fields)).status_code == 403
    assert (await node.get(f"{MEETING}/download-package?{query}")).status_code == 200
