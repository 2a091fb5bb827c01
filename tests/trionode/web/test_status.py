"""What `/api/status` and `/metrics` say about fills and about other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.nodes import STARTS
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually
from trionode.fetch.live_fill import LiveFill
from trionode.web.status import fill_status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.nodes import Start
    from tests.trionode.conftest import StartNode


def test_a_fill_is_reported_with_its_sources_its_mean_rate_and_the_time_left():
    fill = LiveFill("m", size=5_000_000, began_at=10.0)
    assert fill_status(fill, 10.0) == {
        "source": "master",
        "filled": 0,
        "size": 5_000_000,
        "fetched": {},
        "bytes_per_second": 0,
        "seconds_left": None,
    }
    fill.fetched["node-a"] += 1_500_000
    fill.fetched[""] += 500_000
    fill.source = "node-a"
    report = fill_status(fill, 12.0)
    assert report["source"] == "node-a"
    assert report["fetched"] == {"node-a": 1_500_000, "master": 500_000}
    assert (report["bytes_per_second"], report["seconds_left"]) == (1_000_000, 5.0)
    fill.size = None
    assert fill_status(fill, 12.0)["seconds_left"] is None


@pytest.mark.parametrize("how", STARTS)
async def test_the_status_shows_a_fill_while_it_lasts(
    fakes: FakeFactory, folder: Path, start_node: StartNode, how: Start
):
    make_package(folder / "m1.zip", make_documents(4, 500_000), level=1)
    master = fakes.master(folder, bytes_per_second=1_000_000)
    node = start_node(master.url, how=how)
    await node.until_up()
    master.start("m1")

    async def filling() -> bool:
        fills = [meeting["fill"] for meeting in (await node.status())["active_meetings"] if meeting["fill"]]
        return any(fill["source"] == "master" and fill["filled"] > 0 for fill in fills)

    await eventually(filling, within=20)
    await node.until_synced("m1")
    assert (await node.status())["active_meetings"][0]["fill"] is None


@pytest.mark.parametrize(
    ("peers", "believed"), [("auto", "any node of this project on the master's list"), ("off", "none")]
)
async def test_which_nodes_are_believed_is_said_at_the_start_and_in_the_status(
    start_node: StartNode, peers: str, believed: str
):
    node = start_node("http://127.0.0.1:9", peers=peers)
    await node.until_up()
    status = await node.status()
    assert (status["peers"], status["peers_believed"]) == (peers, believed)
    await node.until_logged("other nodes that packages are fetched from")
    assert believed in node.process.log()
    assert (await node.metrics())["trionode_fetched_bytes_total{source=peer}"] == 0
