"""`/metrics` of a running node, in both formats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.support.clients import asking
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from trionode.stats import FillStats, PeerStats, RepairStats
from trionode.web import metrics

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode

PATH = "/api/v1/meetings/big/download-package"


async def test_metrics_count_downloads_fills_and_storage(spawn: Spawner, folder: Path, start_node: StartNode):
    big = make_package(folder / "big.zip", make_documents(6, 4_000_000), level=1)  # fits into no socket's buffers
    node = start_node(ShimMaster(spawn, folder).url)
    await node.until_synced("big")
    assert digest_of((await node.download("big")).content) == big.digest
    part = await node.download("big", headers={"Range": "bytes=0-9,100000-100009"})
    assert part.status_code == 206
    await node.download("big", headers={"If-None-Match": part.headers["etag"]})
    async with asking(node.port, PATH):
        await node.until_active(1)
    await node.until_active(0)
    found = await node.metrics()
    assert found["trionode_downloads_total{outcome=sent}"] == 2
    assert found["trionode_downloads_total{outcome=left}"] == 1
    assert found["trionode_downloads_total{outcome=failed}"] == 0
    whole, parts = big.size, len(part.content)
    # The kernel took a part of the package for the client that left.
    assert whole + parts < found["trionode_sent_bytes_total{to=client}"] < 2 * whole
    assert found["trionode_sent_bytes_total{to=peer}"] == 0
    assert found["trionode_download_seconds_count"] == 2
    assert found["trionode_download_first_byte_seconds_count"] == 3
    assert found["trionode_download_seconds_bucket{le=+Inf}"] == 2
    assert found["trionode_fills_total{outcome=done}"] == 1
    assert whole < found["trionode_fetched_bytes_total{source=origin}"] < 1.05 * whole
    assert found["trionode_storage_bytes{use=stored}"] == whole
    assert found["trionode_meetings{state=current}"] == 1
    assert (found["trionode_downloads_active"], found["trionode_connected"]) == (0, 1)
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = await node.get("/metrics", headers=accept)
    assert answer.headers["vary"] == "Accept"
    names = {family.name for family in parse_openmetrics(answer.text)}
    assert {"trionode_downloads", "trionode_sent_bytes", "trionode_download_seconds"} <= names


def test_what_came_from_other_nodes_is_counted_by_source_reason_and_node():
    peers = PeerStats(bytes_fetched=70)
    peers.passed_over["silent"] += 2
    peers.wrong_bytes["node-a"] += 1
    services = SimpleNamespace(
        master=SimpleNamespace(bytes_fetched=30),
        peers=SimpleNamespace(stats=peers),
        meetings=SimpleNamespace(fill_stats=FillStats(), fills=list),
        evictor=SimpleNamespace(evicted=0),
        repairer=SimpleNamespace(stats=RepairStats()),
    )
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics._upkeep(services)  # type: ignore[arg-type]
        for sample in family.samples
    }
    assert found["trionode_fetched_bytes_total", "origin"] == 30
    assert found["trionode_fetched_bytes_total", "peer"] == 70
    assert found["trionode_peers_passed_over_total", "silent"] == 2
    assert found["trionode_peer_wrong_bytes_total", "node-a"] == 1
